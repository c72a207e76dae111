"""Training lists from every stage of a funnel: what was shown, and what was not and why.

A pre-ranker serves all that was retrieved, but exposures are what the ranker liked: trained on them alone it
never meets most of its work (sample selection bias). `FullStage` holds whole requests, `FullStageBatches`
draws lists from them.

Shape letters: R requests, K candidates of a request, B rows of a batch, W slots of a drawn list.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import IntEnum

import polars as pl
import torch
from pydantic import Field as Option
from torch import Tensor

from twotower.config import Config
from twotower.data.batches import Examples, check_queries
from twotower.data.catalogue import Catalogue
from twotower.data.history import HistoryColumn
from twotower.data.sharding import Share, generator_at, random_order
from twotower.errors import ConfigError, DataError
from twotower.types import NO_ITEM, Batch, Ragged

TEACHER_SCORE = "teacher_score"
"""The pair field of lists that a teacher has scored; NaN where it has not."""

LOG_Q = "log_q"
"""The pair field of drawn lists: log of the rate at which each candidate's kind was drawn."""


class Role(IntEnum):
    """How far a candidate came; -1 marks an empty slot."""

    EXPOSED_POSITIVE = 0
    EXPOSED_NEGATIVE = 1
    RANKED = 2
    """Among the ranker's best, and not shown."""
    PRERANKED = 3
    """Handed to the ranker, and dropped by it."""
    RETRIEVED = 4
    """Dropped before the ranker saw it."""
    RANDOM = 5
    """Not a candidate at all: drawn from the catalogue."""


class StageSampling(Config):
    """How many candidates of each kind stand in one drawn list; every epoch draws others."""

    exposed: int | None = Option(None, ge=0, description="null: all; positives before the others")
    ranked: int = Option(10, ge=0)
    preranked: int = Option(10, ge=0)
    retrieved: int = Option(10, ge=0)
    random: int = Option(10, ge=0, description="uniform over the items with training events")


@dataclass(frozen=True)
class FullStage:
    """R requests with all their candidates.

    ``positions`` cut the history column at each request; None shows the whole of it. ``times`` are when each
    was asked, for histories that tell how long ago an event was. ``barred`` are items that are no candidates
    and no negatives either, such as what the query is known to take later: they are not drawn at random.
    """

    query_keys: Tensor  # (R,) int64
    items: Tensor  # (R, K) int64, -1 for an empty slot
    roles: Tensor  # (R, K) int8, -1 for an empty slot
    gains: Tensor  # (R, K) float32: what the exposed ones brought, 0 for all others
    teacher: Tensor  # (R, K) float32: a ranker's scores, NaN where it gave none
    positions: Tensor | None = None  # (R,) int64
    times: Tensor | None = None  # (R,) in the unit of the events' times
    barred: Tensor | None = None  # (R, E) int64, -1 for an empty slot

    def __post_init__(self) -> None:
        shape = (len(self.query_keys), self.items.shape[1])
        for name in ("items", "roles", "gains", "teacher"):
            if getattr(self, name).shape != shape:
                raise ValueError(f"{name} has shape {tuple(getattr(self, name).shape)}, expected {shape}")
        if ((self.items == NO_ITEM) != (self.roles < 0)).any():
            raise ValueError("a slot without an item has no role, and every item has one")

    def __len__(self) -> int:
        return len(self.query_keys)

    def taught_by(self, teacher: Tensor) -> FullStage:
        """The same requests with another teacher's scores (R, K); NaN where it has none."""
        return replace(self, teacher=teacher)

    def counts(self) -> dict[str, int]:
        """How many candidates have each role."""
        return {role.name.lower(): int((self.roles == role).sum()) for role in Role}

    @classmethod
    def of_log(
        cls,
        log: pl.DataFrame,
        queries: Catalogue,
        items: Catalogue,
        positions: Tensor | None = None,
        times: Tensor | None = None,
    ) -> FullStage:
        """Requests of a logged funnel, in the order of their first rows.

        Columns: ``request``, the two id columns, ``stage`` (the furthest that a candidate reached: exposed,
        ranked, preranked or retrieved), ``gain`` (of the exposed; above 0 is positive) and ``teacher`` (null
        where the ranker did not score it).

        Raises
        ------
        DataError
            An unknown stage or id, an exposed row without a gain, or a request of two queries.
        """
        stages = {"exposed": Role.EXPOSED_NEGATIVE, **{r.name.lower(): r for r in list(Role)[2:5]}}
        unknown = set(log["stage"].unique()) - set(stages)
        if unknown:
            raise DataError(f"unknown stages {sorted(unknown)}; expected {', '.join(stages)}", column="stage")
        if log.filter((pl.col("stage") == "exposed") & pl.col("gain").is_null()).height:
            raise DataError("exposed rows without a gain", column="gain", remedy="join the events' labels")
        if (
            log.group_by("request")
            .agg(pl.col(queries.name).n_unique())
            .filter(pl.col(queries.name) > 1)
            .height
        ):
            raise DataError("a request holds rows of two queries", column=queries.name)
        log = log.with_row_index("first").with_columns(pl.col("first").min().over("request"))
        log = log.sort("first", maintain_order=True)
        query, item = (torch.from_numpy(side.keys(log[side.name]).copy()) for side in (queries, items))
        if len(log) and min(int(query.min()), int(item.min())) < 0:
            raise DataError("the log holds ids outside the catalogues", remedy="log and data must match")
        role = torch.from_numpy(log["stage"].replace_strict(stages, return_dtype=pl.Int8).to_numpy().copy())
        gain = torch.from_numpy(log["gain"].fill_null(0).cast(pl.Float32).to_numpy().copy())
        gain = gain.masked_fill(role != Role.EXPOSED_NEGATIVE, 0.0)
        role = role.masked_fill(gain > 0, Role.EXPOSED_POSITIVE)
        teacher = torch.from_numpy(log["teacher"].cast(pl.Float32).fill_null(float("nan")).to_numpy().copy())
        lengths = torch.from_numpy(log["first"].rle().struct.field("len").cast(pl.Int64).to_numpy().copy())
        offsets = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])

        def rows(values: Tensor, fill: int = 0) -> Tensor:
            return Ragged(values, offsets).padded(fill)

        roles = rows(role, -1)
        return cls(
            query[offsets[:-1]],
            rows(item, NO_ITEM),
            roles,
            rows(gain),
            rows(teacher).masked_fill(roles < 0, torch.nan),
            positions,
            times,
        )


class FullStageBatches:
    """Batches of drawn lists: own candidates (B, W) with ``role``, `TEACHER_SCORE`, `LOG_Q` as pair fields.

    Labels are the gains. A model is shown no pair field that it does not declare, so all three are the
    objective's alone. What is drawn depends on (seed, epoch, step).

    Ten of 20 ranked and ten of 400 retrieved candidates are no picture of the request: ``log_q`` is the log
    of q = drawn / available, of the slot's role in that list, so that the slot stands for 1 / q candidates.
    It is 0 where all are kept, as exposed ones are by default, and in empty slots. A random item is drawn
    (slots / size of the catalogue) times on average. Available is what the samples hold: of a log that was
    sampled, what was logged.

    Parameters
    ----------
    samples, queries
        Whole requests, and the encoded table of all queries.
    sampling
        How many of each role; slots that a request cannot fill stay empty.
    catalogue
        (m,) keys that random candidates are drawn from. One that the request holds anyway, or bars, is left
        out.
    past, context
        History column, cut at the samples' positions; (R, ...) encoded context of the requests.
    """

    def __init__(
        self,
        samples: FullStage,
        queries: Batch,
        sampling: StageSampling,
        catalogue: Tensor,
        *,
        batch_size: int,
        past: HistoryColumn | None = None,
        context: Batch | None = None,
        shuffle: bool = True,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
        drop_last: bool = False,
    ) -> None:
        check_queries(samples.query_keys, queries)
        if sampling.random and not len(catalogue):
            raise ConfigError("random candidates need a catalogue to be drawn from")
        self._samples, self._queries, self._catalogue = samples, queries, catalogue
        self._past, self._context = past, context or Batch()
        self._share = Share(len(samples), batch_size, rank, world, drop_last)
        self._shuffle, self._seed = shuffle, seed
        shown = (samples.roles == Role.EXPOSED_POSITIVE) | (samples.roles == Role.EXPOSED_NEGATIVE)
        exposed = int(shown.sum(1).max()) if sampling.exposed is None else sampling.exposed
        self._groups = (
            ((Role.EXPOSED_POSITIVE, Role.EXPOSED_NEGATIVE), exposed),
            ((Role.RANKED,), sampling.ranked),
            ((Role.PRERANKED,), sampling.preranked),
            ((Role.RETRIEVED,), sampling.retrieved),
        )
        self._random = sampling.random

    @property
    def steps_per_epoch(self) -> int:
        return self._share.steps

    def epoch(self, number: int, start_step: int = 0) -> Iterator[Examples]:
        """The batches of an epoch from a step on; skipped steps cost nothing."""
        R = len(self._samples)
        order = random_order(R, self._seed, number) if self._shuffle else torch.arange(R)
        for step, (first, last) in enumerate(self._share.batches(start_step), start=start_step):
            draw = generator_at(self._seed, number, self._share.rank, step)
            yield self._examples(order[first:last], draw)

    def _examples(self, at: Tensor, draw: torch.Generator) -> Examples:
        samples = self._samples
        keys, items, roles = samples.query_keys[at], samples.items[at], samples.roles[at]
        place = self._places(roles, draw)  # (B, W)
        empty, column = place < 0, place.clamp(min=0)
        drawn = items.gather(1, column).masked_fill(empty, NO_ITEM)
        drawn_roles = roles.gather(1, column).masked_fill(empty, -1)
        gains = samples.gains[at].gather(1, column).masked_fill(empty, 0.0)
        teacher = samples.teacher[at].gather(1, column).masked_fill(empty, torch.nan)
        log_q = _log_share(drawn_roles, roles)
        if self._random:
            extra = self._catalogue[
                torch.randint(len(self._catalogue), (len(at), self._random), generator=draw)
            ]
            known = (extra[:, :, None] == items[:, None, :]).any(2)
            if samples.barred is not None:
                known |= (extra[:, :, None] == samples.barred[at][:, None, :]).any(2)
            extra = extra.masked_fill(known, NO_ITEM)
            drawn = torch.cat([drawn, extra], 1)
            role = torch.full_like(extra, Role.RANDOM, dtype=roles.dtype).masked_fill(known, -1)
            drawn_roles = torch.cat([drawn_roles, role], 1)
            gains = torch.cat([gains, torch.zeros_like(extra, dtype=gains.dtype)], 1)
            teacher = torch.cat([teacher, torch.full_like(extra, torch.nan, dtype=teacher.dtype)], 1)
            rate = math.log(self._random / len(self._catalogue))  # of each item, left out or not
            log_q = torch.cat([log_q, torch.full(extra.shape, rate).masked_fill(known, 0.0)], 1)
        used = (drawn != NO_ITEM).any(0)
        used[:1] |= ~used.any()  # a list has a slot at least
        query = self._queries.take(keys).join(self._context.take(at))
        if self._past is not None:
            positions = None if samples.positions is None else samples.positions[at]
            times = None if samples.times is None else samples.times[at]
            query = self._past.join(query, keys, positions, times)
        pair = Batch({"role": drawn_roles[:, used], TEACHER_SCORE: teacher[:, used], LOG_Q: log_q[:, used]})
        return Examples(query, drawn[:, used], keys, gains[:, used], pair=pair)

    def _places(self, roles: Tensor, draw: torch.Generator) -> Tensor:
        """(B, W) columns of the drawn candidates, without replacement; -1 for a slot that stays empty."""
        luck = torch.rand(roles.shape, generator=draw)
        luck = luck + (roles == Role.EXPOSED_POSITIVE)  # positives are drawn before the other exposed ones
        parts = []
        for members, wanted in self._groups:
            mine = torch.isin(roles, torch.tensor(members, dtype=roles.dtype))
            best = luck.masked_fill(~mine, -1.0).topk(min(wanted, roles.shape[1]), dim=1)
            parts.append(best.indices.masked_fill(best.values < 0, -1))
        return torch.cat(parts, 1)


def _log_share(drawn: Tensor, available: Tensor) -> Tensor:
    """(B, W) log(drawn / available) of each slot's role, from (B, W) and (B, K) roles; 0 in empty slots."""
    kinds = torch.arange(len(Role), dtype=drawn.dtype)
    got, had = ((roles[:, :, None] == kinds).sum(1) for roles in (drawn, available))
    share = (got / had.clamp(min=1)).log()  # minus infinity of what no slot holds is never looked up
    return share.gather(1, drawn.long().clamp(min=0)).masked_fill(drawn < 0, 0.0)
