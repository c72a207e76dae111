"""What rate was stated, and what rate was seen: the numbers of a reliability diagram."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from twotower.errors import DataError
from twotower.metrics.rating import equal_mass

_Z = 1.959964
"""Two-sided 95% of the normal distribution."""


@dataclass(frozen=True)
class Bin:
    """Rows of about equal probability: what was stated on average, and the share that was positive."""

    rows: int
    stated: float
    seen: float
    low: float  # 95% interval of seen (Wilson 1927)
    high: float


def reliability(probs: Tensor, labels: Tensor, bins: int = 15) -> tuple[Bin, ...]:
    """Bins of equal mass, rising, equal probabilities never apart: those of the calibration error.

    ``probs`` (B,) in 0 to 1, ``labels`` (B,) 0 or 1; empty bins are left out. The gaps of stated and seen,
    weighted by rows, are `twotower.metrics.rating.calibration_error` (DeGroot and Fienberg 1983 for the
    diagram).

    >>> [(b.rows, round(b.stated, 2), b.seen) for b in reliability(torch.tensor([0.2, 0.2, 0.9, 0.9]),
    ...                                                           torch.tensor([0, 1, 1, 1]), bins=2)]
    [(2, 0.2, 0.5), (2, 0.9, 1.0)]

    Raises
    ------
    DataError
        Shapes differ, or a probability lies outside 0 to 1 or is NaN.
    """
    if probs.shape != labels.shape or probs.dim() != 1:
        raise DataError(f"probabilities {tuple(probs.shape)} and labels {tuple(labels.shape)} must be (B,)")
    if not ((probs >= 0) & (probs <= 1)).all():
        raise DataError("probabilities lie outside 0 to 1", remedy="pass sigmoid(logits)")
    probs = probs.double()
    which = equal_mass(probs, bins)
    rows = torch.bincount(which, minlength=bins)
    stated = torch.bincount(which, probs, minlength=bins) / rows
    seen = torch.bincount(which, labels.double(), minlength=bins) / rows
    low, high = _wilson(seen, rows)
    columns = zip(*(t[rows > 0].tolist() for t in (rows, stated, seen, low, high)), strict=True)
    return tuple(Bin(*column) for column in columns)


def _wilson(rate: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    z2 = _Z * _Z / rows
    center = (rate + z2 / 2) / (1 + z2)
    half = (z2 * rate * (1 - rate) + z2 * z2 / 4).sqrt() / (1 + z2)
    # rounding must not put a rate of 0 or 1 outside its own interval
    return torch.minimum(center - half, rate).clamp(min=0), torch.maximum(center + half, rate).clamp(max=1)
