"""One stage of several retrieving ones: their candidates united."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from twotower.cascade.fusion import Fusion, Merged, ReciprocalRank
from twotower.cascade.stage import Request, Stage, no_candidates, rank_pair
from twotower.config import nearest
from twotower.errors import ConfigError
from twotower.types import Batch, Candidates


@runtime_checkable
class Scorer(Protocol):
    """A source that can also score items which it did not find itself."""

    def scores_of(self, request: Request, keys: Tensor) -> Tensor | None:
        """Its scores (Q, K) of any items, keys (Q, K); 0 in empty slots; None: it cannot tell after all."""
        ...


class Fuse(Stage):
    """Asks every source for its own k, and unites what they return; best first, ties by rising key.

    The sources are retrieving stages, each with a name and depth of its own, which a request may override by
    that name. They leave out what the request excludes or does not allow; this stage adds nothing, so it
    returns no more than the sources hold between them: fewer than k where they overlap or run short.

    Beside its own score and rank it hands on, for every source, ``<source>_score``, ``<source>_rank`` (from
    0) and ``from_<source>`` (1, or 0 where the source did not return the item: then the rank is the source's
    k, and the score what a `Scorer` says of it, else 0). What a source hands on beyond these is dropped.

    A source that has not begun when the deadline has passed is left out: as if it had found nothing, and it
    scores nothing either. One that has begun runs to its end, and the first one always begins.

    Parameters
    ----------
    sources
        In the order that decides between equals, with distinct names.
    by
        `ReciprocalRank`, `NormalisedScore` or `Quota` of `twotower.cascade.fusion`.

    Raises
    ------
    ConfigError
        No sources, two of one name, one with the name of the stage, or a weight for none of them.
    """

    def __init__(
        self, sources: Sequence[Stage], by: Fusion | None = None, k: int = 500, name: str = "retrieve"
    ) -> None:
        super().__init__(name, k)
        self.sources, self.by = tuple(sources), by or ReciprocalRank()
        names = [source.name for source in self.sources]
        if not names or len(set(self.names)) < len(self.names):
            raise ConfigError(
                f"stage {name!r} needs sources with names of their own, found: {', '.join(names) or 'none'}"
            )
        for wrong in self.by.weights.keys() - set(names):
            raise ConfigError(f"stage {name!r} weights {wrong!r}, which is no source{nearest(wrong, names)}")

    @property
    def names(self) -> tuple[str, ...]:
        return (self.name, *(name for source in self.sources for name in source.names))

    def run(self, request: Request, candidates: Candidates | None, k: int) -> Candidates:
        return self.retrieve(request, k)[0]

    def retrieve(self, request: Request, k: int) -> tuple[Candidates, tuple[str, ...]]:
        found, left_out = list[Candidates](), list[str]()
        for source in self.sources:
            if found and request.deadline is not None and request.deadline.left_ms <= 0:
                found.append(no_candidates(len(request), found[0].keys.device))
                left_out.append(source.name)
                continue
            one, within = source.retrieve(request, source.depth(request))
            found.append(one)
            left_out += within
        untimed = replace(request, deadline=None)
        return self._unite(untimed, found, k, left_out), tuple(left_out)

    def _unite(
        self, request: Request, found: Sequence[Candidates], k: int, left_out: Collection[str]
    ) -> Candidates:
        merged = Merged.of(found)
        scores = self.by.scores(merged, [self.by.weights.get(source.name, 1.0) for source in self.sources])
        column = torch.arange(merged.keys.shape[1]).expand(merged.keys.shape)
        united = Candidates(merged.keys, scores.float(), Batch(column=column)).sorted().best(k)
        column = united.pair["column"]
        pair = Batch()
        for number, (source, one) in enumerate(zip(self.sources, found, strict=True)):
            rank = torch.arange(float(one.keys.shape[1])).expand(one.keys.shape)
            said = None
            if isinstance(source, Scorer) and source.name not in left_out:
                said = source.scores_of(request, united.keys)
            if said is None:
                said = merged.spread(number, one.scores, 0.0).gather(1, column)
            pair[f"{source.name}_score"] = said
            for field, values, missing in (
                (f"{source.name}_rank", rank, float(source.depth(request))),
                (f"from_{source.name}", torch.ones_like(rank), 0.0),
            ):
                pair[field] = merged.spread(number, values, missing).gather(1, column)
        scores = united.scores.masked_fill(~united.mask, -torch.inf)
        return rank_pair(self.name, Candidates(united.keys, scores, pair))

    @property
    def bytes_per_item(self) -> float:
        return sum(source.bytes_per_item for source in self.sources)
