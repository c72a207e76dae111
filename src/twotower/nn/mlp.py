"""Fully connected layers."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

from torch import nn

from twotower.nn.activation import Activation, activation
from twotower.nn.dropout import Dropout
from twotower.nn.row_norm import RowNorm

Norm = Literal["none", "layer", "batch"]


def mlp(
    sizes: Sequence[int],
    *,
    norm: Norm = "none",
    dropout: float = 0.0,
    last: bool = True,
    bend: Activation = "relu",
) -> nn.Sequential:
    """Layers ``sizes[0] -> ... -> sizes[-1]`` with the activation ``bend`` between.

    ``last`` puts norm, activation and dropout behind the last layer too. Scores are read off a tower without
    it, so that a vector may point anywhere (a ReLU there keeps every cosine in [0, 1]).
    """
    layers: list[nn.Module] = []
    for i, (inside, outside) in enumerate(pairwise(sizes)):
        layers.append(nn.Linear(inside, outside))
        if last or i < len(sizes) - 2:
            layers += behind(outside, norm=norm, dropout=dropout, bend=bend)
    return nn.Sequential(*layers)


def behind(dim: int, *, norm: Norm, dropout: float, bend: Activation = "relu") -> list[nn.Module]:
    """What follows a linear layer: norm, activation, dropout."""
    norms: dict[Norm, list[nn.Module]] = {
        "none": [],
        "layer": [nn.LayerNorm(dim)] if norm == "layer" else [],
        "batch": [RowNorm(dim)] if norm == "batch" else [],
    }
    return [*norms[norm], activation(bend, dim), *([Dropout(dropout)] if dropout else [])]
