"""What a system shows to whom: coverage, concentration, popularity, novelty and cold items.

Shape letters: Q queries, K candidates of one query, N items of the catalogue. Lists are keys (Q, K), best
first, -1 for an empty slot; ``k`` cuts them.
"""

from __future__ import annotations

import torch
from torch import Tensor

from twotower.errors import DataError
from twotower.types import NO_ITEM


def exposure(keys: Tensor, n_items: int, k: int) -> Tensor:
    """How often each item of the catalogue is shown, (N,) int64.

    >>> exposure(torch.tensor([[1, 2], [1, -1]]), n_items=4, k=2).tolist()
    [0, 2, 1, 0]
    """
    shown = keys[:, :k]
    shown = shown[shown != NO_ITEM]
    _check(shown, n_items)
    return torch.bincount(shown, minlength=n_items)


def coverage(keys: Tensor, n_items: int, k: int) -> float:
    """Share of the catalogue that is shown to anybody; NaN for an empty catalogue."""
    return float((exposure(keys, n_items, k) > 0).double().mean())


def gini(amounts: Tensor) -> float:
    """Gini coefficient of non-negative amounts (N,): 0 = all alike, near 1 = one item takes all.

    sum_i (2 i - N - 1) x_i / (N sum x), x rising, i from 1. Hand it `exposure`, which counts items never
    shown as well. NaN when nothing was shown.

    >>> gini(torch.tensor([5, 5, 5, 5])), gini(torch.tensor([0, 0, 0, 8]))
    (0.0, 0.75)
    """
    rising = amounts.double().sort().values
    n = len(rising)
    weight = 2 * torch.arange(1, n + 1, dtype=torch.float64, device=rising.device) - n - 1
    return float((weight * rising).sum() / (n * rising.sum()))


def mean_shown(keys: Tensor, values: Tensor, k: int) -> Tensor:
    """Mean of a per-item value (N,) over each query's first k items, (Q,) float64; NaN for an empty list.

    The measures of popularity, novelty and coldness are this mean of `popularity_rank`, `self_information`
    and of a mask of cold items.

    >>> cold = torch.tensor([False, True, True])
    >>> mean_shown(torch.tensor([[0, 1], [1, 2], [-1, -1]]), cold, k=2).tolist()
    [0.5, 1.0, nan]
    """
    shown = keys[:, :k]
    real = shown != NO_ITEM
    _check(shown[real], len(values))
    total = torch.zeros(shown.shape, dtype=torch.float64, device=keys.device)
    total[real] = values.to(keys.device).double()[shown[real]]
    return total.sum(1) / real.sum(1)


def popularity_rank(counts: Tensor) -> Tensor:
    """Place of each item by training count (N,) float64: 1 is the most popular, ties share the mean place.

    >>> popularity_rank(torch.tensor([9, 1, 4, 4])).tolist()
    [1.0, 4.0, 2.5, 2.5]
    """
    block: Tensor
    size: Tensor
    _, block, size = torch.unique(counts.neg(), return_inverse=True, return_counts=True)
    return (size.cumsum(0) - (size - 1) / 2).double()[block]


def self_information(counts: Tensor, n_queries: int) -> Tensor:
    """Surprise of meeting each item in bits, (N,) float64: log2(users / users who know the item).

    Zhou et al. 2010, "Solving the apparent diversity-accuracy dilemma"; an item nobody knows, which they
    leave undefined, counts as known to one.

    >>> self_information(torch.tensor([8, 2, 0]), n_queries=8).tolist()
    [0.0, 2.0, 3.0]
    """
    return (n_queries / counts.clamp(min=1).double()).log2()


def _check(shown: Tensor, n_items: int) -> None:
    if len(shown) == 0:
        return
    low, high = int(shown.min()), int(shown.max())
    if low < 0 or high >= n_items:
        raise DataError(f"keys {low} to {high} reach outside the catalogue of {n_items} items")
