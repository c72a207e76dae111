"""A last stage: the candidates it is handed in an order that says something new with every item.

Letters: Q queries, K candidates of a query.
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field as Option
from torch import Tensor

from twotower.cascade.dpp import dpp
from twotower.cascade.likeness import Likeness, by_angle, by_values
from twotower.cascade.mmr import mmr
from twotower.cascade.stage import Request, Stage, rank_pair
from twotower.config import Config, nearest
from twotower.errors import ConfigError
from twotower.index.delta_table import DeltaTable
from twotower.index.item_table import ItemTable
from twotower.types import Candidates


class Mmr(Config):
    """Maximal marginal relevance: each item unlike the most alike of those above it."""

    kind: Literal["mmr"] = "mmr"
    relevance: float = Option(0.7, ge=0, le=1, description="lambda: 1 keeps the order, 0 ignores it")


class Dpp(Config):
    """Determinantal point process: the items together span as much as possible."""

    kind: Literal["dpp"] = "dpp"
    relevance: float = Option(0.9, ge=0, le=1, description="theta: 1 keeps the order, 0 ignores it")
    strength: float = Option(
        1.0, ge=0, le=1, description="how alike twins count as; below 1, such as 0.9, for categories"
    )
    window: int | None = Option(None, ge=2, description="so many items in a row are diverse; null: all")


Diversity = Annotated[Mmr | Dpp, Option(discriminator="kind")]


class Diversify(Stage):
    """Re-orders what it is handed by MMR or DPP, and cuts.

    Relevance is the score of the stage before, brought to [0, 1] within the list by its lowest and highest
    (`relative`). Two items are as alike as their vectors in the table, or as their values where the tensor
    holds vocabulary indices (`twotower.cascade.likeness`). The marginal gain does not fall with the rank
    and says nothing about an item on its own, so the stage's score is minus its rank; what earlier stages
    thought stays in ``pair``.

    Parameters
    ----------
    tensor
        The tensor of the table that is compared.
    dims
        How many of its leading numbers count, None for all. The vector of a two-tower model ends with a bias
        and a constant for the inner product: they say nothing about likeness and should be left out.
    """

    def __init__(
        self,
        how: Mmr | Dpp,
        table: ItemTable | DeltaTable,
        k: int = 10,
        name: str = "diversify",
        tensor: str = "vector",
        dims: int | None = None,
        pairs_at_once: int = 65_536,
    ) -> None:
        super().__init__(name, k)
        self.how, self.tensor, self.dims, self.pairs_at_once = how, tensor, dims, pairs_at_once
        self.table = table
        _check(table, tensor, dims)

    @torch.inference_mode()
    def run(self, request: Request, candidates: Candidates | None, k: int) -> Candidates:
        if candidates is None:
            raise ConfigError(
                f"stage {self.name!r} re-orders candidates, but stands first; put a retriever before it"
            )
        Q, K = candidates.keys.shape
        if not Q or not K or not k:
            return rank_pair(self.name, candidates.best(k))
        rows = max(1, self.pairs_at_once // K)
        order = torch.cat(
            [self._order(request, candidates, k, slice(s, s + rows)) for s in range(0, Q, rows)]
        )
        rank = torch.arange(order.shape[1], device=order.device)
        places = torch.full_like(candidates.scores, -torch.inf, dtype=torch.float32)
        places.scatter_(1, order, -rank.float().expand(order.shape))
        return rank_pair(self.name, Candidates(candidates.keys, places, candidates.pair).sorted().best(k))

    def _order(self, request: Request, candidates: Candidates, k: int, part: slice) -> Tensor:
        """(rows of the part, min(k, K)) columns in their new order."""
        how, mask = self.how, candidates.mask[part]
        relevance = relative(candidates.scores[part], mask)
        likeness = self._likeness(candidates.keys[part])
        if isinstance(how, Mmr):
            return mmr(relevance, likeness, k, weight=how.relevance, mask=mask, check_time=request.check_time)
        return dpp(
            relevance,
            likeness,
            k,
            weight=how.relevance,
            strength=how.strength,
            window=how.window,
            mask=mask,
            check_time=request.check_time,
        )

    def _likeness(self, keys: Tensor) -> Likeness:
        items = self.table.take(keys)[self.tensor][..., : self.dims]
        return by_angle(items.flatten(2)) if items.dtype.is_floating_point else by_values(items)

    @property
    def bytes_per_item(self) -> float:
        spec = next(spec for spec in self.table.kept if spec.name == self.tensor)
        return spec.bytes_per_item if self.dims is None else spec.bytes_per_item * self.dims / spec.shape[0]


def relative(scores: Tensor, mask: Tensor) -> Tensor:
    """Scores (Q, K) as numbers from 0, the list's lowest, to 1, its highest; float64, 0 in empty slots.

    Only finite scores are looked at; infinite ones become 0 or 1, NaN becomes 0. Where all are equal they
    are 1.

    >>> relative(torch.tensor([[8.0, 5.0, 4.0, -9.0]]), torch.tensor([[True, True, True, False]])).tolist()
    [[1.0, 0.25, 0.0, 0.0]]
    """
    scores = scores.double()
    counted = mask & scores.isfinite()
    low = scores.masked_fill(~counted, torch.inf).amin(1, keepdim=True).nan_to_num(posinf=0)
    high = scores.masked_fill(~counted, -torch.inf).amax(1, keepdim=True).nan_to_num(neginf=0)
    place = ((scores - low) / (high - low)).clamp(0, 1).masked_fill(counted & (low == high), 1)
    return place.where(mask & ~place.isnan(), 0)


def _check(table: ItemTable | DeltaTable, tensor: str, dims: int | None) -> None:
    """Whether the table has what is to be compared."""
    known = {spec.name: spec for spec in table.specs}
    if tensor not in known:
        raise ConfigError(f"the item table has no tensor {tensor!r}{nearest(tensor, known)}")
    shape = known[tensor].shape
    if dims is not None and (len(shape) != 1 or not 1 <= dims <= shape[0]):
        raise ConfigError(f"the first {dims} numbers of {tensor!r}, which has the shape {shape}")
