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
from torch.nn import functional

from twotower.data.spec import Column, FeatureSpec, digest
from twotower.errors import ConfigError
from twotower.types import PAD, Batch


def mix64(x: Tensor) -> Tensor:
    """The finaliser of splitmix64 (Steele, Lea, Flood, OOPSLA 2014): a bijection of int64 in which every bit
    of the result depends on every bit of ``x``. Fixed for good: trained weights lie where it points.

    >>> [x % 2**64 for x in mix64(torch.tensor([0, 1, -1])).tolist()]
    [0, 6238072747940578789, 13029008266876403067]
    """
    x = x.clone()
    for bits, factor in _ROUNDS:
        x ^= _shifted(x, bits)
        x *= factor  # wraps around
    return x.bitwise_xor_(_shifted(x, 31))


_ROUNDS = (30, -0x40A7B892E31B1A47), (27, -0x6B2FB644ECCEEE15)
"""0xBF58476D1CE4E5B9 and 0x94D049BB133111EB as int64."""


def _shifted(x: Tensor, bits: int) -> Tensor:
    """A shift to the right that fills with zeros; int64's own repeats the sign."""
    return (x >> bits).bitwise_and_((1 << (64 - bits)) - 1)


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
        self.buckets = buckets
        # row 0 is padding's: it adds nothing and gets no gradient
        self.table = nn.EmbeddingBag(buckets + 1, dim, mode="sum", sparse=sparse, padding_idx=PAD)
        nn.init.zeros_(self.table.weight)

    def rows(self, query: Tensor, item: Tensor, cross: int) -> Tensor:
        """Rows of the table, 1 to ``buckets``, for values of any shapes that broadcast; no padding."""
        return self._rows(self._query_hash(query, cross), item)

    def forward(self, query: Batch, item: Batch, own: bool) -> Tensor:
        """``query`` columns are (Q,) or (Q, V); ``item``'s (C,) or (C, W), or with ``own`` (Q, K[, W])."""
        left = {name: query[name].unsqueeze(1) for name, _ in self.crosses}  # (Q, 1) or (Q, 1, V)
        left = {name: x if x.dim() == 3 else x.unsqueeze(-1) for name, x in left.items()}  # (Q, 1, V)
        right = {name: _own_bags(item[name], own) for _, name in self.crosses}  # (Q or 1, K, W)
        shares = {n: _shares(x) for n, x in left.items()}, {n: _shares(y) for n, y in right.items()}
        hashes, values, weights = [], [], []  # of all crosses: P pairs of values, V x W of each
        for cross, (q, i) in enumerate(self.crosses):
            V, W = left[q].shape[-1], right[i].shape[-1]
            hashes.append(self._query_hash(left[q], cross).repeat_interleave(W, -1))
            values.append(right[i].repeat(1, 1, V))
            weights.append(shares[0][q].repeat_interleave(W, -1) * shares[1][i].repeat(1, 1, V))
        row = self._rows(torch.cat(hashes, -1), torch.cat(values, -1)).flatten(0, 1)  # (Q * K, P)
        weight = torch.cat(weights, -1).to(self.table.weight.dtype).flatten(0, 1)
        out: Tensor = functional.embedding_bag(
            row.masked_fill_(weight == 0, PAD),
            self.table.weight,
            mode="sum",
            sparse=self.table.sparse,
            per_sample_weights=weight,
            padding_idx=PAD
            if self.training
            else None,  # its weight is zero anyway, but gradients would hold it
        )
        return out.view(*weights[0].shape[:2], self.table.embedding_dim)

    def _query_hash(self, values: Tensor, cross: int) -> Tensor:
        return mix64(values + self.seeds[cross])

    def _rows(self, query_hash: Tensor, item: Tensor) -> Tensor:
        upper = _shifted(mix64(query_hash ^ item), 32)
        return ((upper * self.buckets) >> 32).add_(1)  # the upper half, scaled to the table


def _own_bags(column: Tensor, own: bool) -> Tensor:
    """(Q, K, W), or (1, C, W) of shared candidates."""
    bags = column.unsqueeze(-1) if column.dim() == 1 + own else column
    return bags if own else bags.unsqueeze(0)


def _shares(values: Tensor) -> Tensor:
    """What each value of a bag weighs in a mean over it; padding nothing."""
    real = values != PAD
    return real / real.sum(-1, keepdim=True).clamp(min=1)


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
                f"crosses: [{query}, {item}] is no pair of a query's and an item's values; "
                f"expected one of {left} and one of {right}"
            )
    if len(set(crosses)) < len(crosses):
        raise ConfigError(f"crosses: a pair twice in {[list(pair) for pair in crosses]}")
    return [(spec[query], spec[item]) for query, item in crosses]
