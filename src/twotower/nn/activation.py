"""Activations with parameters, over the last axis: PReLU (He et al., ICCV 2015) and Dice (Zhou et al., KDD
2018, eq. 4).
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from twotower.nn.row_norm import BatchNorm

Activation = Literal["relu", "prelu", "dice"]


class PReLU(nn.Module):
    """x where it is positive, alpha x elsewhere; an alpha per channel."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.full((dim,), 0.25))

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., D)"""
        return functional.prelu(x.reshape(-1, x.shape[-1]), self.alpha).view(x.shape)


class Dice(nn.Module):
    """p x + (1 - p) alpha x with p = sigmoid((x - E[x]) / sqrt(Var[x] + eps)): a PReLU whose bend lies where
    the data are.

    Mean and variance are those of the batch in training, running ones in eval mode.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = BatchNorm(dim, eps=1e-8, affine=False)
        self.alpha = nn.Parameter(torch.zeros(dim))

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., D)"""
        p: Tensor = self.norm(x.reshape(-1, x.shape[-1])).sigmoid().view(x.shape)
        return x * (self.alpha + (1 - self.alpha) * p)


def activation(name: Activation, dim: int) -> nn.Module:
    """The layer behind a name, for vectors of length ``dim``."""
    match name:
        case "relu":
            return nn.ReLU()
        case "prelu":
            return PReLU(dim)
        case "dice":
            return Dice(dim)
