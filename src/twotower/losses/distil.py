"""Losses that bring a student's scores to a teacher's, on the lists that the student will serve.

B lists of K candidates. All take ``scores`` and ``teacher`` (B, K), a ``mask`` (B, K), true where there is a
candidate *with* a teacher score, and ``weight`` (B,) of each list. No gradient reaches the teacher. For the
teacher's order alone see `twotower.losses.listwise.list_mle`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from twotower.errors import ConfigError
from twotower.losses.reduction import weighted_mean


def mse(scores: Tensor, teacher: Tensor, mask: Tensor | None = None, weight: Tensor | None = None) -> Tensor:
    """Mean squared difference of the scores (logits): the student learns the teacher's very numbers.

    The mean over a list's candidates, then over the lists that have one.

    >>> mse(torch.tensor([[1.0, 2.0]]), torch.tensor([[0.0, 2.0]]))
    tensor(0.5000)
    """
    scores, teacher, mask = _aligned(scores, teacher, mask)
    count = mask.sum(1)
    each = (scores - teacher).square().sum(1) / count.clamp_min(1)
    return _mean(each, count > 0, weight)


def kl(
    scores: Tensor,
    teacher: Tensor,
    mask: Tensor | None = None,
    weight: Tensor | None = None,
    *,
    temperature: float = 1.0,
) -> Tensor:
    """Divergence of the student's softmax over a list from the teacher's, both softened (Hinton et al. 2015).

    ``temperature ** 2`` times KL(softmax(teacher / T) || softmax(scores / T)), so that the size of the
    gradient does not depend on T. A constant added to all of a list's scores changes nothing; a higher T
    lets the candidates behind the first few count.

    >>> kl(torch.tensor([[0.0, 0.0]]), torch.tensor([[0.0, 0.0]]))
    tensor(0.)
    """
    if not (temperature > 0 and math.isfinite(temperature)):
        raise ConfigError(f"temperature must be positive, found {temperature}")
    scores, teacher, mask = _aligned(scores, teacher, mask)
    empty = ~mask.any(1, keepdim=True)  # a softmax over nothing has no gradient

    def log_share(values: Tensor) -> Tensor:
        inside = (values / temperature).masked_fill(~mask & ~empty, -torch.inf)
        return inside.log_softmax(1).masked_fill(~mask, 0.0)

    wanted = log_share(teacher)
    each = (wanted.exp() * mask * (wanted - log_share(scores))).sum(1) * temperature**2
    return _mean(each, ~empty[:, 0], weight)


def margin(
    scores: Tensor, teacher: Tensor, mask: Tensor | None = None, weight: Tensor | None = None
) -> Tensor:
    """Margin-MSE (Hofstätter et al. 2020) over all pairs of a list: mean of ((s_i - s_j) - (t_i - t_j))^2.

    The teacher's differences, free of its level. With d = s - t the mean over all pairs is twice the variance
    of d (unbiased), so that no pair is ever made. Lists with one candidate teach nothing.

    >>> margin(torch.tensor([[5.0, 3.0]]), torch.tensor([[1.0, 0.0]]))  # (2 - 1) squared
    tensor(1.)
    """
    scores, teacher, mask = _aligned(scores, teacher, mask)
    count = mask.sum(1)
    difference = scores - teacher
    centre = difference.sum(1) / count.clamp_min(1)
    apart = (difference - centre[:, None]).masked_fill(~mask, 0.0).square().sum(1)
    return _mean(2 * apart / (count - 1).clamp_min(1), count > 1, weight)


def _aligned(scores: Tensor, teacher: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Both in at least float32, 0 outside the mask; the teacher is a constant."""
    scores = scores.float() if scores.dtype.itemsize < 4 else scores
    mask = torch.ones_like(scores, dtype=torch.bool) if mask is None else mask
    known = teacher.detach().to(scores.dtype).masked_fill(~mask, 0.0)
    return scores.masked_fill(~mask, 0.0), known, mask


def _mean(each: Tensor, known: Tensor, weight: Tensor | None) -> Tensor:
    share = known.to(each.dtype)
    return weighted_mean(each, share if weight is None else share * weight)
