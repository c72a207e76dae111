"""Hashed crosses: one weight row per pair of values of two columns, in a table of fixed size.

The hashing trick (Weinberger et al., ICML 2009) for the cross-product transformations of linear models (Wide
& Deep, Cheng et al. 2016, eq. 1): pairs of values are too many to enumerate and most never occur, so a pair's
row is a hash of it, and pairs that meet in one row share its weights.

Letters: Q queries, C shared or K own candidates, V and W values of a column (1 unless a bag), D vector.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from twotower.data.spec import Column, FeatureSpec, digest
from twotower.errors import ConfigError
from twotower.types import PAD, Batch


def mix64(x: Tensor) -> Tensor:
    """The finaliser of splitmix64 (Steele, Lea, Flood, OOPSLA 2014): a bijection of int64 in which every bit
    of the result depends on every bit of ``x``. Fixed for good: trained weights lie where it points.

    >>> [x % 2**64 for x in mix64(torch.tensor([0, 1, -1])).tolist()]
    [0, 6238072747940578789, 13029008266876403067]
    """
    x = (x ^ _shifted(x, 30)) * -0x40A7B892E31B1A47  # 0xBF58476D1CE4E5B9 as int64; products wrap around
    x = (x ^ _shifted(x, 27)) * -0x6B2FB644ECCEEE15  # 0x94D049BB133111EB
    return x ^ _shifted(x, 31)


def _shifted(x: Tensor, bits: int) -> Tensor:
    """A shift to the right that fills with zeros; int64's own repeats the sign."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


class HashedCrosses(nn.Module):
    """(Q, K, D): the sum over crosses of the table's rows for (value of the query, value of the item).

    A cross with a bag takes the mean over its pairs. Padding is no value. The row of a pair depends on the
    names of the columns, the two values and ``buckets``, not on the size of a vocabulary or the other
    crosses, so that a table survives both growing.
    """

    def __init__(
        self, crosses: Sequence[tuple[Column, Column]], buckets: int, dim: int = 1, *, sparse: bool = False
    ) -> None:
        super().__init__()
        self.crosses = tuple((query.name, item.name) for query, item in crosses)
        self.seeds = [int(digest(list(names))[:15], 16) for names in self.crosses]
        self.table = nn.EmbeddingBag(buckets, dim, mode="sum", sparse=sparse)
        nn.init.zeros_(self.table.weight)

    def rows(self, query: Tensor, item: Tensor, cross: int) -> Tensor:
        """Rows of the table for values of any shapes that broadcast; values must not be padding."""
        mixed = mix64(mix64(query + self.seeds[cross]) ^ item)
        return (_shifted(mixed, 32) * self.table.num_embeddings) >> 32  # its upper half, scaled to the table

    def forward(self, query: Batch, item: Batch, own: bool) -> Tensor:
        """``query`` columns are (Q,) or (Q, V); ``item``'s (C,) or (C, W), or with ``own`` (Q, K[, W])."""
        rows, shares = [], []
        for number, (left, right) in enumerate(self.crosses):
            x, y = query[left], item[right]
            x = x.reshape(len(x), 1, -1, 1)  # (Q, 1, V, 1)
            y = y.reshape(*(y.shape[:2] if own else (1, len(y))), 1, y.shape[-1] if y.dim() > 1 + own else 1)
            real = ((x != PAD) & (y != PAD)).flatten(-2)  # (Q, K, V * W)
            rows.append(self.rows(x, y, number).flatten(-2))
            shares.append(real / real.sum(-1, keepdim=True).clamp(min=1))
        row, share = torch.cat(rows, -1), torch.cat(shares, -1)
        Q, K, _ = row.shape
        real = share > 0  # what is padding shall cost nothing and get no gradient
        ends = real.sum(-1).flatten().cumsum(0)
        starts = torch.cat([ends.new_zeros(1), ends])[:-1]
        weights = share[real].to(self.table.weight.dtype)
        out: Tensor = self.table(row[real], starts, per_sample_weights=weights)  # (Q * K, D)
        return out.view(Q, K, self.table.embedding_dim)


def crossed_columns(
    spec: FeatureSpec, crosses: Sequence[tuple[str, str]], *, history: bool = False
) -> list[tuple[Column, Column]]:
    """The columns behind [query field, item field] names; with ``history`` the first may be a sequence.

    Raises
    ------
    ConfigError
        A name that is no column of values on its side, or a pair twice.
    """
    kinds = ("id", "category", "bag")
    left = [c.name for c in spec.columns if c.side != "item" and c.kind in (*kinds, *["sequence"] * history)]
    right = [c.name for c in spec.side("item") if c.kind in kinds]
    for query, item in crosses:
        if query not in left or item not in right:
            raise ConfigError(
                f"crosses: {[query, item]} is no pair of a query's and an item's values; "
                f"expected one of {left} and one of {right}"
            )
    if len(set(crosses)) < len(crosses):
        raise ConfigError(f"crosses: a pair twice in {[list(pair) for pair in crosses]}")
    return [(spec[query], spec[item]) for query, item in crosses]
