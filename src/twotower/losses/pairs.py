"""Sums over all ordered pairs of a list, in memory that does not grow with them.

B lists of K candidates. A block of lists gives its sum *and* its gradient at once, and is overwritten by the
next: the (B, K, K) differences never exist together.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

BLOCK_CELLS = 2**20
"""Pairs held at once: 4 MiB per working tensor."""

PairWeight = Callable[[slice], Tensor]
"""The weights (b, K, K) of the pairs of some lists; [i, j] weighs "i should stand above j", 0 for no pair."""


def logistic_pairs(scores: Tensor, weight: PairWeight, sigma: float = 1.0) -> Tensor:
    """(B,) sum over pairs of weight[i, j] * log(1 + exp(-sigma * (s_i - s_j))); finite ``scores`` (B, K).

    The weights are constants of the gradient, which is computed in the forward pass, once.
    """
    value, gradient = scores.new_zeros(len(scores)), torch.zeros_like(scores)
    rows = max(1, BLOCK_CELLS // max(1, scores.shape[1]) ** 2)
    with torch.no_grad():
        for start in range(0, len(scores), rows):
            block = slice(start, start + rows)
            margin = sigma * (scores[block, :, None] - scores[block, None, :])
            weights = weight(block)
            value[block] = (weights * F.softplus(-margin)).sum((1, 2))
            pull = weights * torch.sigmoid(-margin) * sigma
            gradient[block] = pull.sum(1) - pull.sum(2)
    return _known(scores, value, gradient)


class _Known(torch.autograd.Function):
    """Values (B,) of ``scores`` (B, K) whose gradient is already known."""

    @staticmethod
    def forward(ctx: Any, scores: Tensor, value: Tensor, gradient: Tensor) -> Tensor:
        ctx.save_for_backward(gradient)
        return value

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return upstream[:, None] * gradient, None, None


_known: Callable[..., Tensor] = _Known.apply
