"""The exact split of a linear layer over [query; item; pair]: W x + b = Wq q + (Wi i) + Wp p + b.

The query's part is computed once per request and the item's part once per item, ahead of time; what is
left per candidate is one addition. It is algebra, not an approximation.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class SplitLinear(nn.Module):
    """A linear layer whose input arrives in parts that are known at different times.

    >>> import torch
    >>> layer = SplitLinear((3, 2), 4)
    >>> q, i = torch.ones(3), torch.ones(2)
    >>> whole = layer.whole(torch.cat([q, i]))
    >>> torch.allclose(layer.part(0, q) + layer.part(1, i), whole, atol=1e-6)
    True
    """

    def __init__(self, sizes: Sequence[int], outside: int, *, bias: bool = True) -> None:
        super().__init__()
        self.sizes = tuple(sizes)
        self.linear = nn.Linear(
            sum(sizes), outside, bias=bias
        )  # one matrix, so that initialisation sees the true fan-in

    def part(self, which: int, x: Tensor) -> Tensor:
        """The share of part ``which``; the bias, if any, goes with part 0."""
        start = sum(self.sizes[:which])
        weight = self.linear.weight[:, start : start + self.sizes[which]]
        return nn.functional.linear(x, weight, self.linear.bias if which == 0 else None)

    def flops(self, which: int) -> int:
        """FLOPs of one row of part ``which``."""
        return 2 * self.sizes[which] * self.linear.out_features

    def whole(self, x: Tensor) -> Tensor:
        """The layer applied to all parts at once, as the textbook writes it."""
        out: Tensor = self.linear(x)
        return out


def side_by_side(query: Tensor, item: Tensor, pair: Tensor | None = None) -> Tensor:
    """[q; i; p] of every pair, (Q, K, X): item shared (C, Di) or own (Q, K, Di), pair (Q, K, Dp)."""
    Q, K = len(query), item.shape[-2]
    parts = [query[:, None].expand(Q, K, -1), item.expand(Q, K, -1)]
    return torch.cat(parts if pair is None else [*parts, pair], dim=-1)
