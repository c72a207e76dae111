"""Traces of many requests as one table: a row for each request and candidate.

Shape letters: n requests, K candidates of a list.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import polars as pl
import torch
from torch import Tensor

from twotower.data.funnel_part import EXPOSED, FunnelAbout
from twotower.types import NO_ITEM, Batch, Candidates


class Ids(Protocol):
    """Whatever knows the ids of items by key: a `Catalogue`, or a store of items that came later."""

    def ids(self, keys: np.ndarray) -> pl.Series: ...


@dataclass(frozen=True)
class Served:
    """The logged requests of one call, n of them."""

    requests: list[str]
    queries: list[int | str | None]
    times: list[int]
    degraded: tuple[str, ...]
    shown: int | None
    lists: tuple[Candidates, ...]  # one per stage, (n, K)

    @property
    def slots(self) -> int:
        """What it takes of a bounded buffer."""
        return len(self.requests) + sum(found.keys.numel() for found in self.lists)


def funnel_rows(served: Sequence[Served], about: FunnelAbout, items: Ids) -> pl.DataFrame:
    """One row for each request and candidate, as the last list that holds it tells.

    Requests as they came, in each the candidates that came furthest first; then by rank.
    """
    last = len(about.stages) - 1
    lists = [
        frame for step in range(last + 1) for frame in _listed([each.lists[step] for each in served], step)
    ]
    rows = pl.concat(lists, how="diagonal_relaxed").unique(["_at", "_key"], keep="last")
    rows = rows.sort("_at", "_step", "rank", descending=[False, True, False])
    rows = rows.join(_asked(served, about), on="_at", how="left", maintain_order="left")
    names = pl.col("_step").replace_strict(range(last + 1), about.stages, return_dtype=pl.String)
    shown = (pl.col("_step") == last) & (pl.col("rank") < pl.col("_shown"))
    flags = [name for name in rows.columns if name.startswith("from_")]  # as `Fuse` hands on
    sources: list[pl.Expr] = [
        pl.when(pl.col(name) > 0).then(pl.lit(name.removeprefix("from_"))) for name in flags
    ]
    rows = rows.with_columns(
        items.ids(rows["_key"].to_numpy()).alias(about.item),
        pl.when(shown).then(pl.lit(EXPOSED)).otherwise(names).alias("stage"),
        pl.concat_list(sources or [pl.lit(about.stages[0])]).list.drop_nulls().alias("sources"),
    )
    first = ("request", *about.ids, "stage", "rank", "score", "sources", "degraded")
    rows = rows.select(*first, pl.exclude(*first, "_at", "_key", "_step", "_shown"))
    return about.sampling.thinned(rows, about.item)


def _asked(served: Sequence[Served], about: FunnelAbout) -> pl.DataFrame:
    """One row for each request, with what holds for all that were answered with it."""
    everything = torch.iinfo(torch.int32).max
    return pl.DataFrame(
        {
            "request": [request for each in served for request in each.requests],
            about.query: [query for each in served for query in each.queries],
            about.time: pl.Series([time for each in served for time in each.times], dtype=pl.Int64),
            "degraded": pl.Series(
                [each.degraded for each in served for _ in each.requests], dtype=pl.List(pl.String)
            ),
            "_shown": [
                everything if each.shown is None else each.shown for each in served for _ in each.requests
            ],
        }
    ).with_columns(pl.int_range(pl.len(), dtype=pl.Int64).alias("_at"))


def scalars(found: Candidates, rows: list[int]) -> Candidates:
    """Chosen rows of a stage's lists in main memory, without pair fields of more than one number."""

    def chosen(tensor: Tensor) -> Tensor:
        return (tensor if len(rows) == len(tensor) else tensor[rows]).cpu()

    pair = Batch((name, chosen(tensor)) for name, tensor in found.pair.items() if tensor.dim() == 2)
    return Candidates(chosen(found.keys), chosen(found.scores), pair)


def _listed(lists: Sequence[Candidates], step: int) -> list[pl.DataFrame]:
    """One row per candidate: request (counted through), key, rank, score and pair fields.

    A frame for each set of pair fields: a degraded stage hands on fewer.
    """
    alike = dict[tuple[str, ...], list[tuple[int, Candidates]]]()
    first = 0
    for found in lists:
        alike.setdefault(tuple(found.pair), []).append((first, found))
        first += len(found.keys)
    frames = []
    for names, group in alike.items():
        at, rank = [], []
        for first, found in group:
            Q, K = found.keys.shape
            at.append(torch.arange(first, first + Q).repeat_interleave(K))
            rank.append(torch.arange(K, dtype=torch.int32).repeat(Q))
        columns = {"_at": at, "rank": rank}
        columns |= {"_key": [found.keys for _, found in group], "score": [found.scores for _, found in group]}
        columns |= {name: [found.pair[name] for _, found in group] for name in names}
        flat = {name: torch.cat([part.reshape(-1) for part in parts]) for name, parts in columns.items()}
        real = flat["_key"] != NO_ITEM
        frame = pl.DataFrame({name: values[real].numpy() for name, values in flat.items()})
        frames.append(frame.with_columns(pl.lit(step).alias("_step")))
    return frames
