"""Several ranked lists of one query made into one.

Letters: Q queries, S sources, K candidates of one source, T items that all sources hold between them at most.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Annotated, Literal

import torch
from pydantic import Field as Option
from pydantic import PositiveFloat
from torch import Tensor

from twotower.cascade.diversify import relative
from twotower.config import Config
from twotower.types import NO_ITEM, Candidates


@dataclass(frozen=True)
class Merged:
    """The items of several lists, each once and by rising key, and where each list's candidates are there.

    >>> lists = [Candidates(torch.tensor([keys]), -torch.arange(2.0)[None]) for keys in ([7, 3], [5, 7])]
    >>> merged = Merged.of(lists)
    >>> merged.keys.tolist(), merged.spread(1, torch.tensor([[0.75, 0.5]]), 0.0).tolist()
    ([[3, 5, 7, -1]], [[0.0, 0.75, 0.5, 0.0]])
    """

    lists: Sequence[Candidates]  # S of them, (Q, K) each
    keys: Tensor  # (Q, T) int64, empty slots last
    slots: Sequence[Tensor]  # of each list (Q, K): the column of ``keys`` its candidates have

    @classmethod
    def of(cls, lists: Sequence[Candidates]) -> Merged:
        """Merge lists of the same queries; each holds an item once at most."""
        last = torch.iinfo(torch.int64).max
        keys = torch.cat([found.keys for found in lists], 1)
        by_key, order = keys.masked_fill(keys == NO_ITEM, last).sort(dim=1)
        new = torch.ones_like(by_key, dtype=torch.bool)
        new[:, 1:] = by_key[:, 1:] != by_key[:, :-1]
        column = new.cumsum(1) - 1
        items = torch.full_like(keys, last).scatter(1, column, by_key)
        slots = torch.empty_like(column).scatter(1, order, column)
        ends = list(accumulate((found.keys.shape[1] for found in lists), initial=0))
        return cls(
            lists, items.masked_fill(items == last, NO_ITEM), [slots[:, a:b] for a, b in pairwise(ends)]
        )

    def spread(
        self, source: int, values: Tensor, missing: Tensor | float, only: Tensor | None = None
    ) -> Tensor:
        """What a source says of its candidates, (Q, K), said of every item: (Q, T).

        ``missing``, a number or (Q, 1), stands for the items it did not return, or not where ``only`` holds.
        """
        mask = self.lists[source].mask if only is None else only
        missing = torch.as_tensor(missing, dtype=values.dtype)
        everywhere = missing.expand(len(values), 1).repeat(1, self.keys.shape[1])
        return everywhere.scatter(1, self.slots[source], torch.where(mask, values, missing))


class Fusion(Config):
    """How lists become one; ``weights`` by the name of the source."""

    weights: Mapping[str, PositiveFloat] = Option(
        {}, description="how much each source counts, by its name; 1 where it is not named"
    )

    @abstractmethod
    def scores(self, merged: Merged, weights: Sequence[float]) -> Tensor:
        """The score of every item of ``merged.keys``, (Q, T) float64; of no meaning in empty slots."""


class ReciprocalRank(Fusion):
    """Sum of weight / (constant + rank) over the sources that returned an item, ranks from 1.

    Cormack, Clarke and Büttcher, "Reciprocal rank fusion outperforms Condorcet and individual rank learning
    methods", SIGIR 2009. Asks nothing of the sources' scores.
    """

    kind: Literal["reciprocal-rank"] = "reciprocal-rank"
    constant: float = Option(
        60, ge=0, description="large: to be in many lists counts; small: to be at the top"
    )

    def scores(self, merged: Merged, weights: Sequence[float]) -> Tensor:
        total = torch.zeros(merged.keys.shape, dtype=torch.float64)
        for source, weight in enumerate(weights):
            total += merged.spread(source, weight / (self.constant + _ranks(merged.lists[source])), 0.0)
        return total


class NormalisedScore(Fusion):
    """Weighted sum of scores, each brought to one scale within its query and source.

    ``min-max``: the best item gets 1, the worst 0; where all scores are equal (or there is one), all get 1.
    ``z``: (score - mean) / standard deviation of the source's list; where all are equal, 0.
    Only finite scores count: plus infinity gets what the best has, minus infinity and NaN the lowest.
    An item that a source did not return gets the lowest it could have had: by min-max 0, by z the lowest of
    this list; and 0 where the source returned nothing at all.
    """

    kind: Literal["score"] = "score"
    scale: Literal["min-max", "z"] = "min-max"

    def scores(self, merged: Merged, weights: Sequence[float]) -> Tensor:
        total = torch.zeros(merged.keys.shape, dtype=torch.float64)
        scaled = _min_max if self.scale == "min-max" else _z
        for source, weight in enumerate(weights):
            found = merged.lists[source]
            if found.keys.shape[1]:
                values, lowest = scaled(found.scores.double(), found.mask)
                total += merged.spread(source, weight * values, weight * lowest)
        return total


class Quota(Fusion):
    """A share of the list for each source, in proportion to the weights, spread over all of it.

    An item belongs to the source that brings it soonest, by weight / rank, the first of equals; it takes none
    of the others' shares. The n-th of a source's own items scores weight / n, the quotients of d'Hondt: a
    source gets at least the whole part of its share of any first places, while it has items; what it cannot
    fill goes to the others. Equal weights take turns; in a turn, the smaller key comes first.
    """

    kind: Literal["quota"] = "quota"

    def scores(self, merged: Merged, weights: Sequence[float]) -> Tensor:
        best = torch.zeros(merged.keys.shape, dtype=torch.float64)
        bids = [weight / _ranks(found) for weight, found in zip(weights, merged.lists, strict=True)]
        for source, bid in enumerate(bids):
            best = torch.maximum(best, merged.spread(source, bid, 0.0))
        total = torch.zeros_like(best)
        for source, (weight, bid) in enumerate(zip(weights, bids, strict=True)):
            slots = merged.slots[source]
            own = merged.lists[source].mask & (bid == best.gather(1, slots)) & (total.gather(1, slots) == 0)
            total += merged.spread(source, weight / own.cumsum(1).clamp(min=1).double(), 0.0, own)
        return total


AnyFusion = Annotated[ReciprocalRank | NormalisedScore | Quota, Option(discriminator="kind")]
"""For recipes: told apart by ``kind``."""


def _ranks(found: Candidates) -> Tensor:
    """Places from 1, (Q, K) float64."""
    return torch.arange(1, found.keys.shape[1] + 1, dtype=torch.float64).expand(found.keys.shape)


def _min_max(scores: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    return relative(scores, mask), scores.new_zeros(len(scores), 1)


def _z(scores: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    counted = mask & scores.isfinite()
    count = counted.sum(1, keepdim=True).clamp(min=1)
    mean = scores.where(counted, 0).sum(1, keepdim=True) / count
    deviation = ((scores - mean).where(counted, 0).square().sum(1, keepdim=True) / count).sqrt()
    low = scores.masked_fill(~counted, torch.inf).amin(1, keepdim=True)
    high = scores.masked_fill(~counted, -torch.inf).amax(1, keepdim=True)
    flat = high <= low  # not by the deviation, which rounding may lift above 0
    values, low, high = (((x - mean) / deviation).masked_fill(flat, 0) for x in (scores, low, high))
    return values.where(~values.isnan(), low).clamp(low, high), low
