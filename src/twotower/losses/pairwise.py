"""Losses that ask a positive to stand above its own negatives. B rows, n negatives of each.

In lists, B lists of K candidates: every candidate above those with a smaller gain.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from twotower.losses.pairs import logistic_pairs
from twotower.losses.reduction import weighted_mean


def bpr(positive: Tensor, negative: Tensor, weight: Tensor | None = None) -> Tensor:
    """Bayesian personalised ranking: mean of -log sigmoid(positive - negative) (Rendle et al. 2009, eq. 4.4).

    | input    | shape  | meaning                                                       |
    |----------|--------|---------------------------------------------------------------|
    | positive | (B,)   | score of each row's positive                                  |
    | negative | (B, n) | scores of its negatives; minus infinity takes a negative out  |
    | weight   | (B,)   | weight of each row, default 1                                 |

    A row's loss is the mean over the negatives it has; a row without any counts as 0. The regularisation of
    the paper is the optimizer's weight decay.

    Recommendation: a ranking loss for a few own negatives. With many shared negatives take the softmax.

    >>> bpr(torch.tensor([1.0]), torch.tensor([[1.0, float("-inf")]]))
    tensor(0.6931)
    """
    return _over_negatives(positive, negative, weight, lambda margin: F.softplus(-margin))


def hinge(positive: Tensor, negative: Tensor, weight: Tensor | None = None, margin: float = 1.0) -> Tensor:
    """Mean of max(0, margin - (positive - negative)), the loss of KNRM and of WARP's relatives.

    Same inputs as `bpr`; ``margin`` is in units of the score.

    >>> hinge(torch.tensor([2.0]), torch.tensor([[1.5, 0.0]]))
    tensor(0.2500)
    """
    return _over_negatives(positive, negative, weight, lambda difference: F.relu(margin - difference))


def pairwise_logistic(
    scores: Tensor, gains: Tensor, mask: Tensor | None = None, weight: Tensor | None = None
) -> Tensor:
    """RankNet over lists: mean of -log sigmoid(s_i - s_j) over the pairs with gain_i > gain_j.

    | input  | shape       | meaning                                               |
    |--------|-------------|-------------------------------------------------------|
    | scores | (B, K)      | raw scores                                            |
    | gains  | (B, K)      | graded relevance; only the order within a list counts |
    | mask   | (B, K) bool | true = a candidate; default all                       |
    | weight | (B,)        | weight of each list, default 1                        |

    The mean over a list's pairs, then over the lists that have a pair (Burges et al., ICML 2005, with
    certain preferences). Memory grows with B K, time with B K^2.

    >>> pairwise_logistic(torch.tensor([[1.0, 0.0, 5.0]]), torch.tensor([[1.0, 0.0, 1.0]]))
    tensor(0.1600)
    """
    there = torch.ones_like(gains, dtype=torch.bool) if mask is None else mask
    pairs = torch.zeros(len(scores), device=scores.device)

    def above(block: slice) -> Tensor:
        better = (gains[block, :, None] > gains[block, None, :]) & there[block, :, None]
        better = better & there[block, None, :]
        pairs[block] = better.sum((1, 2)).float()
        return better.float()

    total = logistic_pairs(scores.float().masked_fill(~there, 0.0), above)
    known = (pairs > 0).float()
    return weighted_mean(total / pairs.clamp_min(1), known if weight is None else known * weight)


def _over_negatives(
    positive: Tensor, negative: Tensor, weight: Tensor | None, loss: Callable[[Tensor], Tensor]
) -> Tensor:
    if positive.dtype.itemsize < 4:
        positive, negative = positive.float(), negative.float()
    there = negative != -torch.inf
    # a masked negative's difference would be infinite, and infinity times zero is NaN in the gradient
    difference = positive[:, None] - negative.masked_fill(~there, 0.0)
    per_pair = loss(difference).masked_fill(~there, 0.0)
    return weighted_mean(per_pair.sum(1) / there.sum(1).clamp_min(1), weight)
