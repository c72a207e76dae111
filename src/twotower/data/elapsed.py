"""How long an event was the last one known, as a small index: what a history tells of time."""

from __future__ import annotations

import torch
from torch import Tensor

from twotower.types import UNKNOWN

ELAPSED = 34
"""Values of `elapsed_index`: the last one is 2^30 seconds, thirty-four years, and more."""
NONE = UNKNOWN + 1


def elapsed_index(seconds: Tensor) -> Tensor:
    """int64 index of a time: 0 padding, 1 unknown, 2 less than a second, then one per power of two.

    The buckets of HSTU's temporal bias (Zhai et al., ICML 2024), read at a place instead of between two.

    >>> elapsed_index(torch.tensor([0.0, 1.0, 3.0, 3600.0, 1e12])).tolist()
    [2, 3, 4, 14, 33]
    """
    power = seconds.clamp(min=1).log2().floor().long() + NONE + 1
    return torch.where(seconds < 1, NONE, power).clamp(max=ELAPSED - 1)


def elapsed_name(history: str) -> str:
    """Name of the column of elapsed times beside a history column."""
    return f"{history}_elapsed"
