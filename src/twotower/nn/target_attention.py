"""Target attention (Deep Interest Network, Zhou et al., KDD 2018, eq. 3): a history as a candidate sees it.

    pooled = sum_l a(k_l, t) k_l,   a(k, t) = w . f(W [k; t; k - t; k * t] + b) + c,   f = PReLU

W falls into four blocks, W_k, W_t, W_d and W_p, and the hidden layer into

    (W_t - W_d) t + b   +   (W_k + W_d + W_p diag(t)) k

The first summand is the target's alone and computed ahead; the matrix of the second belongs to the target, so
that a whole history meets all candidates in one matrix product, of a quarter of the textbook's work.

Letters: Q queries, C shared or K own candidates, L places of a history, E embedding, H hidden units.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from twotower.nn.activation import PReLU

Weighting = Literal["sigmoid", "linear", "softmax"]


class TargetAttention(nn.Module):
    """The activation unit: ``weighting`` says what becomes of a before it weighs a place.

    ``linear`` takes it as it is (the paper's), ``sigmoid`` keeps it within 0 and 1, ``softmax`` lets places
    compete. Padded places weigh nothing, and an empty history gives zeros.
    """

    def __init__(self, dim: int, hidden: int, weighting: Weighting = "sigmoid") -> None:
        super().__init__()
        self.first = nn.Linear(4 * dim, hidden)
        self.bend = PReLU(hidden)
        self.out = nn.Linear(hidden, 1)
        self.weighting = weighting

    def target_share(self, target: Tensor) -> Tensor:
        """(..., E) -> (..., H): the target's own share of the hidden layer."""
        _, t, d, _ = self.first.weight.chunk(4, dim=1)
        return nn.functional.linear(target, t - d, self.first.bias)

    def pool(self, keys: Tensor, real: Tensor, target: Tensor, share: Tensor) -> Tensor:
        """(Q, K, E): ``keys`` (Q, L, E) pooled for each candidate; ``real`` (Q, L) is false at padding.

        ``target`` (C, E) or (Q, K, E) and its ``share``, (C, H) or (Q, K, H).
        """
        k, _, d, p = self.first.weight.chunk(4, dim=1)
        matrix = (k + d) + p * target.unsqueeze(-2)  # (..., K, H, E)
        hidden = keys @ matrix.flatten(-3, -2).mT  # (Q, L, K H)
        hidden = hidden.view(*keys.shape[:2], *share.shape[-2:]) + share.unsqueeze(-3)  # (Q, L, K, H)
        weights = self._weigh(self.out(self.bend(hidden)).squeeze(-1), real.unsqueeze(-1))  # (Q, L, K)
        return weights.mT @ keys

    def flops(self, places: int) -> int:
        """FLOPs per candidate of a history of so many places."""
        hidden, dim = self.first.out_features, self.first.in_features // 4
        return places * 2 * (dim * hidden + hidden + dim)

    @property
    def share_flops(self) -> int:
        """FLOPs of `target_share` for one target."""
        return 2 * self.first.out_features * self.first.in_features // 4

    def _weigh(self, a: Tensor, real: Tensor) -> Tensor:
        match self.weighting:
            case "linear":
                return a * real
            case "sigmoid":
                return a.sigmoid() * real
            case "softmax":  # the lowest finite number, since a history of padding alone would give NaN
                return a.masked_fill(~real, torch.finfo(a.dtype).min).softmax(1) * real
