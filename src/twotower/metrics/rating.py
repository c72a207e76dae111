"""How well scores tell clicks from the rest, and how well probabilities mean what they say.

Shape letters: B rows (impressions), G groups. Labels are 0 or 1. Sums are exact integers or float64.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from twotower.errors import ConfigError, DataError


def auc(scores: Tensor, labels: Tensor) -> float:
    """Chance that a random positive scores above a random negative, ties counted half.

    Exact: the Mann-Whitney statistic from mid-ranks, summed in integers. NaN when one class is missing.

    >>> auc(torch.tensor([0.9, 0.4, 0.4, 0.1]), torch.tensor([1, 1, 0, 0]))
    0.875

    Raises
    ------
    DataError
        Shapes differ, a score is NaN, or a label is neither 0 nor 1.
    """
    if len(labels) == 0:
        _check(scores, labels)
        return float("nan")
    return float(grouped_auc(scores, labels, torch.zeros_like(labels, dtype=torch.int64)).values[0])


@dataclass(frozen=True)
class GroupedAUC:
    """The AUC of each group (a user, a request), ways to average them, and what was left out."""

    groups: Tensor  # (G,) int64, the groups' names, rising
    values: Tensor  # (G,) float64; NaN where a group holds one class only
    impressions: Tensor  # (G,) int64
    positives: Tensor  # (G,) int64

    @property
    def counted(self) -> int:
        return int((~self.values.isnan()).sum())

    @property
    def left_out(self) -> int:
        """Groups with one class only: there is nothing to order in them."""
        return len(self.values) - self.counted

    @property
    def unweighted(self) -> float:
        return self._mean(torch.ones_like(self.impressions))

    @property
    def by_impressions(self) -> float:
        """Weighted by group size (Zhou et al. 2018, Deep Interest Network, equation 5)."""
        return self._mean(self.impressions)

    @property
    def by_positives(self) -> float:
        """Weighted by positives, as RecBole does."""
        return self._mean(self.positives)

    def _mean(self, weights: Tensor) -> float:
        present = ~self.values.isnan()
        weight = weights[present].double()
        return float((self.values[present] * weight).sum() / weight.sum())


def grouped_auc(scores: Tensor, labels: Tensor, groups: Tensor) -> GroupedAUC:
    """AUC within each group; ``groups`` (B,) names the group of each row by an integer.

    >>> result = grouped_auc(torch.tensor([3., 2., 1., 5., 6.]), torch.tensor([1, 0, 0, 1, 1]),
    ...                      torch.tensor([4, 4, 4, 8, 8]))
    >>> result.values.tolist(), result.by_impressions, result.left_out
    ([1.0, nan], 1.0, 1)
    """
    _check(scores, labels, groups)
    names: Tensor
    group: Tensor
    names, group = torch.unique(groups, return_inverse=True)
    order = scores.argsort()
    order = order[group[order].argsort(stable=True)]  # by group, rising score within
    group, score, positive = group[order], scores[order], labels[order].long()
    size = torch.bincount(group, minlength=len(names))
    positives = torch.zeros_like(size).index_add_(0, group, positive)
    fresh = torch.ones_like(group, dtype=torch.bool)
    fresh[1:] = (group[1:] != group[:-1]) | (score[1:] != score[:-1])
    tie = fresh.cumsum(0) - 1  # the tie block of each row
    start = fresh.nonzero().squeeze(1)
    length = torch.bincount(tie)
    before = size.cumsum(0) - size
    twice_rank = 2 * (start - before[group[start]]) + length + 1  # of a block, ranks from 1 in its group
    twice_sum = torch.zeros_like(size).index_add_(0, group, positive * twice_rank[tie])
    twice_wins = twice_sum - positives * (positives + 1)
    pairs = positives * (size - positives)
    values = twice_wins.double() / (2 * pairs).double()  # 0 / 0 = NaN for one class
    return GroupedAUC(names, values, size, positives)


def log_loss(logits: Tensor, labels: Tensor) -> float:
    """Mean negative log-likelihood in nats, from logits, in float64; never infinite for finite logits.

    >>> round(log_loss(torch.tensor([0.0, 800.0]), torch.tensor([1, 1])), 6)
    0.346574
    """
    _check(logits, labels)
    return float(-logsigmoid(torch.where(labels > 0, logits.double(), -logits.double())).mean())


def calibration_error(
    probs: Tensor, labels: Tensor, bins: int = 15, equal: Literal["mass", "width"] = "mass"
) -> float:
    """Expected calibration error (Naeini et al. 2015): gap of stated and seen rate, weighted by bin size.

    ``equal="mass"`` fills the bins evenly, as far as ties allow: equal probabilities share a bin, so that the
    order of the rows does not matter. ``"width"`` cuts [0, 1] evenly.

    >>> round(calibration_error(torch.tensor([0.2, 0.2, 0.9, 0.9]), torch.tensor([0, 1, 1, 1]), bins=2), 6)
    0.2
    """
    _check(probs, labels)
    if bins < 1:
        raise ConfigError(f"bins is {bins}; expected at least 1")
    probs = probs.double()
    _check_probs(probs)
    which = (probs * bins).long().clamp(max=bins - 1) if equal == "width" else equal_mass(probs, bins)
    gap = torch.zeros(bins, dtype=torch.float64, device=probs.device)
    gap.index_add_(0, which, probs - labels.double())
    return float(gap.abs().sum() / len(probs)) if len(probs) else float("nan")


def equal_mass(values: Tensor, bins: int) -> Tensor:
    """The bin of each value (B,), from 0, rising: equal values share one, and all are as even as that allows.

    >>> equal_mass(torch.tensor([0.5, 0.1, 0.9, 0.5, 0.7]), bins=2).tolist()
    [0, 0, 1, 0, 1]
    """
    block: Tensor
    count: Tensor
    _, block, count = torch.unique(values, return_inverse=True, return_counts=True)
    place = ((count.cumsum(0) - count / 2) / max(len(values), 1))[block]  # the middle of the tie block
    return (place * bins).long().clamp(max=bins - 1)


def calibration_ratio(probs: Tensor, labels: Tensor) -> float:
    """Expected over observed positives (He et al. 2014, section 3): 1 is right, 2 promises twice too much.

    NaN when there is no positive.

    >>> calibration_ratio(torch.tensor([0.5, 0.5, 0.5, 0.5]), torch.tensor([1, 0, 0, 0]))
    2.0
    """
    _check(probs, labels)
    _check_probs(probs)
    positives = float(labels.double().sum())
    return float(probs.double().sum()) / positives if positives else float("nan")


def _check(scores: Tensor, labels: Tensor, groups: Tensor | None = None) -> None:
    shapes = [tuple(t.shape) for t in (scores, labels, groups) if t is not None]
    if scores.dim() != 1 or len(set(shapes)) != 1:
        raise DataError(f"scores, labels and groups have shapes {shapes}; expected one value each per row")
    if scores.isnan().any():
        raise DataError(f"{int(scores.isnan().sum())} scores are NaN")
    if not ((labels == 0) | (labels == 1)).all():
        raise DataError("labels must be 0 or 1", remedy="name a threshold for the label, such as rating >= 4")


def _check_probs(probs: Tensor) -> None:
    if not ((probs >= 0) & (probs <= 1)).all():
        raise DataError("probabilities lie outside 0 to 1", remedy="pass sigmoid(logits)")
