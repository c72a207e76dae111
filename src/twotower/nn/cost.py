"""Arithmetic of a network, declared so that planners need not measure to compare."""

from __future__ import annotations

from torch import nn


def linear_flops(*modules: nn.Module) -> int:
    """FLOPs of one row through every linear layer inside, 2 per multiply-add.

    Element-wise work is not counted.

    >>> linear_flops(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 1)))
    32
    """
    layers = [layer for module in modules for layer in module.modules() if isinstance(layer, nn.Linear)]
    return sum(2 * layer.in_features * layer.out_features for layer in layers)
