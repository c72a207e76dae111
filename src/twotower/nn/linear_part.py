"""First-order weights: one weight per value of each field, the linear part of Wide & Deep and of DeepFM."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from twotower.data.spec import Column
from twotower.nn.cost import linear_flops
from twotower.nn.embedding import LINEAR, Embeddings
from twotower.types import Batch


class LinearPart(nn.Module):
    """w . x + b, which splits into a sum per side; numbers are linear, a bag counts by its mean.

    All weights start at zero. The bias goes with the query.
    """

    def __init__(self, query: Sequence[Column], item: Sequence[Column], *, sparse: bool = False) -> None:
        super().__init__()
        self.query_columns, self.item_columns = query, item
        self.weights = Embeddings([*query, *item], 1, sparse=sparse)
        self.bias = nn.Parameter(torch.zeros(()))
        for parameter in self.parameters():
            nn.init.zeros_(parameter)

    def query(self, query: Batch) -> Tensor:
        """(Q,): the query's share; of a query without fields only the bias."""
        if not self.query_columns:
            return self.bias.expand(query.rows)
        return self._sum(query, self.query_columns) + self.bias

    def item(self, item: Batch) -> Tensor:
        """(C,) or (Q, K): the items' share."""
        return self._sum(item, self.item_columns)

    @property
    def item_flops(self) -> int:
        """FLOPs of one item's share: those of its numbers and vectors; other weights are looked up."""
        return linear_flops(*(self.weights.linear_of(c.name) for c in self.item_columns if c.kind in LINEAR))

    def _sum(self, batch: Batch, columns: Sequence[Column]) -> Tensor:
        out: Tensor = self.weights(batch, columns).sum((-2, -1))
        return out
