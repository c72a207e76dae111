"""Cosines over a learned temperature: unit vectors, and the factor that they are multiplied by."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

SHORTEST = 1e-3
"""Vectors below this length stay shorter than 1: the direction of nothing has no finite gradient."""
STEEPEST = 5.0
"""The logarithm of the largest factor keeps a softmax finite."""
LEAST_TEMPERATURE = math.exp(-STEEPEST)


def unit(vectors: Tensor) -> Tensor:
    """(..., D) of length 1, but for those that are nearly zero.

    >>> unit(torch.tensor([[3.0, 4.0], [0.0, 0.0]])).tolist()
    [[0.6000000238418579, 0.800000011920929], [0.0, 0.0]]
    """
    return functional.normalize(vectors, dim=-1, eps=SHORTEST)


def factor(log_scale: Tensor) -> Tensor:
    """1 / temperature of a learned logarithm, at most e^5.

    Where it would be more, the gradient that asks for less passes, so that training can come back.
    """
    bounded: Tensor = _AtMost.apply(log_scale)  # type: ignore[no-untyped-call]  # torch types no `apply`
    return bounded.exp()


class _AtMost(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.clamp(max=STEEPEST)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (x,), (grad,) = ctx.saved_tensors, grads
        return grad.masked_fill((x > STEEPEST) & (grad < 0), 0.0)  # a step goes against the gradient
