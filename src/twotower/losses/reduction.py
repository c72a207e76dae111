"""How every loss turns rows into one number."""

from __future__ import annotations

import torch
from torch import Tensor


def weighted_mean(values: Tensor, weight: Tensor | None = None) -> Tensor:
    """Sum of weight * value over the sum of weights; 0 where there is no row or no weight.

    ``values`` and ``weight`` have the same shape; the weights are no part of the gradient.

    >>> weighted_mean(torch.tensor([1.0, 4.0]), torch.tensor([2.0, 1.0]))
    tensor(2.)
    """
    share = mean_shares(values, weight)
    return (values * share).sum()


def mean_shares(values: Tensor, weight: Tensor | None = None) -> Tensor:
    """The share of each row in a weighted mean: they sum to 1, or are all 0 where there is no weight."""
    weight = torch.ones_like(values) if weight is None else weight.detach().to(values.dtype)
    return weight / weight.sum().clamp_min(torch.finfo(values.dtype).tiny)
