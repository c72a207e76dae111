"""Losses that judge each (query, item) pair alone."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from twotower.losses.reduction import weighted_mean


def bce(scores: Tensor, labels: Tensor, weight: Tensor | None = None) -> Tensor:
    """Binary cross entropy of raw scores (logits): the log loss that CTR papers report.

    | input  | shape | meaning                                    |
    |--------|-------|--------------------------------------------|
    | scores | (...) | logits, before any sigmoid                 |
    | labels | (...) | 0, 1 or a probability in between           |
    | weight | (...) | weight of each pair in the mean, default 1 |

    Recommendation: for calibrated probabilities (rankers). With sampled negatives the probabilities are
    those of the sample, not of the world.

    >>> import torch
    >>> bce(torch.tensor([0.0, 0.0]), torch.tensor([1, 0]))
    tensor(0.6931)
    """
    scores = scores.float() if scores.dtype.itemsize < 4 else scores
    return weighted_mean(
        F.binary_cross_entropy_with_logits(scores, labels.to(scores.dtype), reduction="none"), weight
    )
