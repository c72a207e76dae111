"""Encoded columns become field vectors. All categorical columns of a model live in one table.

Letters: ... any leading axes (rows, or queries x candidates), F fields, W places of a bag, D embedding.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from twotower.data.spec import Column
from twotower.types import PAD, UNKNOWN, Batch

CATEGORICAL, LINEAR = ("id", "category", "bag", "sequence"), ("number", "vector")


class Embeddings(nn.Module):
    """One vector of ``dim`` floats per column.

    ids and categories: a row of the table. Bags: the mean of their rows, zero when empty. Numbers and
    vectors: a linear map. One table for all columns makes one gather (and one sparse update) of many small
    ones; a sequence column shares the rows of the item column it comes ``of``.
    """

    def __init__(self, columns: Sequence[Column], dim: int, *, sparse: bool = False) -> None:
        super().__init__()
        self.dim = dim
        self.starts: dict[str, int] = {}
        rows = 0
        for column in columns:
            if column.kind in CATEGORICAL and column.kind != "sequence":
                self.starts[column.name] = rows
                rows += column.size
        for column in columns:
            if column.kind == "sequence":
                self.starts[column.name] = self.starts[str(column.of)]
        self.dropout = {c.name: c.dropout for c in columns if c.dropout > 0 and c.kind in ("id", "category")}
        self.table = nn.Embedding(rows, dim, sparse=sparse)
        self.linear = nn.ModuleDict(
            {_key(c.name): nn.Linear(c.width, dim, bias=False) for c in columns if c.kind in LINEAR}
        )
        nn.init.normal_(self.table.weight, std=dim**-0.5)
        with torch.no_grad():
            for start in self.starts.values():
                self.table.weight[start + PAD].zero_()

    def linear_of(self, name: str) -> nn.Linear:
        """The map of a number's or a vector's column."""
        layer = self.linear[_key(name)]
        assert isinstance(layer, nn.Linear)
        return layer

    def indices(self, name: str, values: Tensor) -> Tensor:
        """Rows of the table for a categorical column, after id dropout (training only)."""
        share = self.dropout.get(name, 0.0)
        if self.training and share:
            values = torch.where(torch.rand(values.shape, device=values.device) < share, UNKNOWN, values)
        return values.long() + self.starts[name]

    def forward(self, batch: Batch, columns: Sequence[Column]) -> Tensor:
        """(..., F, D): one vector per column, in the order of ``columns``."""
        single = [c for c in columns if c.kind in ("id", "category")]
        if len(single) == len(columns):
            return self._single(batch, single)
        vectors = (
            dict(zip((c.name for c in single), self._single(batch, single).unbind(-2), strict=True))
            if single
            else {}
        )
        for column in columns:
            if column.kind == "bag":
                vectors[column.name] = self._bag(column.name, batch[column.name])
            elif column.kind in LINEAR:
                vectors[column.name] = self.linear_of(column.name)(batch[column.name])
        return torch.stack([vectors[c.name] for c in columns], dim=-2)

    def _single(self, batch: Batch, columns: Sequence[Column]) -> Tensor:
        out: Tensor = self.table(torch.stack([self.indices(c.name, batch[c.name]) for c in columns], dim=-1))
        return out

    def _bag(self, name: str, values: Tensor) -> Tensor:
        inside = (values != PAD).unsqueeze(-1)  # (..., W, 1)
        rows = self.table(self.indices(name, values)) * inside
        mean: Tensor = rows.sum(-2) / inside.sum(-2).clamp(min=1)
        return mean

    def sequence(self, name: str, values: Tensor) -> Tensor:
        """(..., L, D): a vector per place of a sequence column; padded places are zero.

        Without id dropout also by the name of an item's id: what is dropped there is the candidate, no event.
        """
        rows: Tensor = self.table(values.long() + self.starts[name]) * (values != PAD).unsqueeze(-1)
        return rows

    def sequence_mean(self, name: str, values: Tensor) -> Tensor:
        """(Q, D): the mean over the places of a sequence column (Q, L), zero when empty.

        The same as the mean of `sequence`, without ever holding (Q, L, D).
        """
        mean: Tensor = functional.embedding_bag(
            self.indices(name, values),
            self.table.weight,
            mode="mean",
            padding_idx=self.starts[name] + PAD,
            sparse=self.table.sparse,
        )
        return mean


def _key(name: str) -> str:
    """A column's name as a module may have it: with neither dots nor the name of one of its methods."""
    if "." not in name and not hasattr(nn.ModuleDict, name) and name not in ("", "training"):
        return name
    return "column " + name.replace("%", "%25").replace(".", "%2E")
