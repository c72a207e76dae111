"""Losses that judge the order of a whole list. B lists of K candidates; masked ones take no part."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from twotower.errors import ConfigError
from twotower.losses.pairs import logistic_pairs
from twotower.losses.reduction import weighted_mean

LambdaWeights = Literal["lambdarank", "ndcg2", "ndcg2++"]


def listnet(
    scores: Tensor, gains: Tensor, mask: Tensor | None = None, weight: Tensor | None = None
) -> Tensor:
    """Cross entropy between the gains, normalised per list, and the softmax of the scores.

    | input  | shape       | meaning                                                              |
    |--------|-------------|----------------------------------------------------------------------|
    | scores | (B, K)      | raw scores                                                           |
    | gains  | (B, K)      | not negative; a list whose gains sum to 0 teaches and weighs nothing |
    | mask   | (B, K) bool | true = a candidate; default all                                      |
    | weight | (B,)        | weight of each list in the mean, default 1                           |

    ListNet's top-one form (Cao et al., ICML 2007). Differs from the paper: gains are divided by
    their sum instead of going through a softmax, so that a gain of 0 is no relevance at all.

    >>> listnet(torch.zeros(1, 4), torch.tensor([[0.0, 1.0, 0.0, 1.0]]))  # log 4
    tensor(1.3863)
    """
    scores, mask = _masked(scores, mask)
    gains = gains * mask
    total = gains.sum(1)
    logs = scores.log_softmax(1).masked_fill(~mask, 0.0)
    each = -(gains * logs).sum(1) / torch.where(total > 0, total, 1.0)
    known = (total > 0).to(each)
    return weighted_mean(each, known if weight is None else known * weight)


def softmax_against(
    scores: Tensor,
    gains: Tensor,
    negative: Tensor,
    weight: Tensor | None = None,
    log_q: Tensor | None = None,
) -> Tensor:
    """Each candidate with a gain against the list's negatives: mean of log(1 + sum_n exp(s_n - s_i)).

    ``gains`` (B, K) weigh the positives, 0 for all others; ``negative`` (B, K) bool. Positives do not compete
    with each other, as they would in `listnet`. The mean is over all positives, by gain and the list's
    ``weight`` (B,); one without negatives counts as 0.

    ``log_q`` (B, K) is subtracted from the negatives' scores: the log of how often each is drawn on average.
    The sum over the drawn ones then estimates the sum over all that they were drawn from; without it the
    optimum puts a candidate the lower, the more often its kind is drawn.

    >>> gains = torch.tensor([[1.0, 1.0, 0.0]])
    >>> softmax_against(torch.zeros(1, 3), gains, gains == 0)
    tensor(0.6931)
    >>> softmax_against(torch.zeros(1, 3), gains, gains == 0, log_q=torch.tensor([[0.0, 0.0, 1 / 3]]).log())
    tensor(1.3863)
    """
    scores = scores.float()
    real = negative.any(1, keepdim=True)
    # only the negatives: a positive is in its list whatever is drawn, no sample that stands for others, and
    # to correct it as well would bend its own logit ("Correcting the LogQ correction", RecSys 2025)
    rivals = scores if log_q is None else scores - log_q
    # logsumexp of nothing has no gradient: such lists get a harmless stand-in, and loss 0 below
    against = rivals.masked_fill(~negative & real, -torch.inf).masked_fill(~real, 0.0).logsumexp(1)
    positive = gains > 0
    each = F.softplus(against[:, None] - scores.masked_fill(~positive, 0.0)) * real
    each = each.masked_fill(~positive, 0.0)
    shares = gains.to(each) if weight is None else gains.to(each) * weight[:, None]
    return weighted_mean(each, shares)


def list_mle(
    scores: Tensor,
    order: Tensor,
    mask: Tensor | None = None,
    weight: Tensor | None = None,
    top: int | None = None,
) -> Tensor:
    """Negative log-likelihood of an order under Plackett-Luce, per place (Xia et al., ICML 2008).

    ``order`` (B, K) are values to sort by, highest first (a teacher's scores; equal ones by column). ``top``
    asks for the first places only (Xia et al., NeurIPS 2009): for a stage that keeps a set, what happens
    behind its depth is no matter.

    >>> list_mle(torch.tensor([[2.0, 0.0]]), torch.tensor([[1.0, 0.0]]))  # log(1 + exp(-2)) / 2 places
    tensor(0.0635)
    """
    scores, mask = _masked(scores, mask)
    by = order.float().masked_fill(~mask, -torch.inf).argsort(dim=1, descending=True, stable=True)
    real = mask.gather(1, by)
    # a candidate that the teacher gave minus infinity still precedes an empty slot
    by = by.gather(1, (~real).to(torch.int8).argsort(dim=1, stable=True))
    real, sorted_scores = mask.gather(1, by), scores.gather(1, by)
    # minus infinity in a running sum would make NaN gradients; this is as good as nothing
    rest = sorted_scores.masked_fill(~real, torch.finfo(scores.dtype).min)
    behind = rest.flip(1).logcumsumexp(1).flip(1)
    places = real if top is None else real & (torch.arange(real.shape[1], device=real.device) < top)
    each = (behind - sorted_scores.masked_fill(~real, 0.0)).masked_fill(~places, 0.0)
    count = places.sum(1)
    known = (count > 0).to(each)
    return weighted_mean(each.sum(1) / count.clamp_min(1), known if weight is None else known * weight)


def lambda_loss(
    scores: Tensor,
    gains: Tensor,
    mask: Tensor | None = None,
    weight: Tensor | None = None,
    *,
    weights: LambdaWeights = "ndcg2",
    k: int | None = None,
    sigma: float = 1.0,
    mu: float = 10.0,
) -> Tensor:
    """LambdaLoss (Wang et al., CIKM 2018): pairwise logistic losses weighted by what a swap does to nDCG.

    | input   | shape       | meaning                                                              |
    |---------|-------------|----------------------------------------------------------------------|
    | scores  | (B, K)      | raw scores                                                           |
    | gains   | (B, K)      | not negative; linear, as in this library's nDCG                      |
    | mask    | (B, K) bool | true = a candidate; default all                                      |
    | weight  | (B,)        | weight of each list in the mean, default 1                           |
    | weights |             | w_ij, see below                                                      |
    | k       | int         | only pairs of which one stands among the first k take part           |
    | sigma   |             | steepness of the logistic function                                   |

    The loss of a list is the sum over gain_i > gain_j of (G_i - G_j) * w_ij * log2(1 + exp(-sigma (s_i -
    s_j))), with G the gain over the ideal DCG (cut at k), D(r) = log2(1 + r), and ranks by the current scores
    (ties by column; a constant of the gradient). The weights are the paper's: *lambdarank*
    rho_ij = abs(1/D(i) - 1/D(j)); *ndcg2* (NDCG-Loss2) delta_ij = 1/D(n) - 1/D(n + 1), n = abs(i - j);
    *ndcg2++* rho + mu * delta. Mean over the lists that have a positive gain.
    Memory grows with B K, time with B K^2.

    Differs from the paper: linear gains (pass 2^g - 1 for its), and ``k``, which it leaves out.

    Recommendation: *ndcg2* for a pre-ranker, with k its depth; the softmax losses are steadier where a list
    holds one positive.

    >>> lambda_loss(torch.tensor([[0.0, 1.0]]), torch.tensor([[1.0, 0.0]]), weights="lambdarank")
    tensor(0.6993)
    """
    if weights not in ("lambdarank", "ndcg2", "ndcg2++"):
        raise ConfigError(f"unknown weights {weights!r}; known: lambdarank, ndcg2, ndcg2++")
    if k is not None and k < 1:
        raise ConfigError(f"k must be at least 1, found {k}")
    scores, mask = _masked(scores, mask)
    gains = (gains * mask).to(scores)
    rank = ranks(scores.detach(), mask)
    ideal = gains.sort(dim=1, descending=True).values
    depth = gains.shape[1] if k is None else min(k, gains.shape[1])
    places = torch.arange(depth, device=scores.device)
    best = (ideal[:, :depth] / (places + 2.0).log2()).sum(1)
    gain = gains / torch.where(best > 0, best, 1.0)[:, None]

    def swap(block: slice) -> Tensor:
        r, g, real = rank[block], gain[block], mask[block]
        better = (g[:, :, None] - g[:, None, :]).clamp_min(0.0) * (real[:, :, None] & real[:, None, :])
        if k is not None:
            better = better * (torch.minimum(r[:, :, None], r[:, None, :]) <= k)
        worth = torch.zeros_like(better)
        if weights != "ndcg2":
            inverse = 1 / (1.0 + r).log2()
            worth = worth + (inverse[:, :, None] - inverse[:, None, :]).abs()
        if weights != "lambdarank":
            apart = (r[:, :, None] - r[:, None, :]).abs().clamp_min(1)
            delta = 1 / (1.0 + apart).log2() - 1 / (2.0 + apart).log2()
            worth = worth + (delta if weights == "ndcg2" else mu * delta)
        return better * worth / torch.tensor(2.0).log()

    total = logistic_pairs(scores.masked_fill(~mask, 0.0), swap, sigma)
    known = (best > 0).to(total)
    return weighted_mean(total, known if weight is None else known * weight)


def ranks(scores: Tensor, mask: Tensor) -> Tensor:
    """(B, K) int64 place of each candidate from 1, best first, ties by column; masked ones stand last.

    >>> ranks(torch.tensor([[1.0, 3.0, 2.0]]), torch.tensor([[True, True, False]])).tolist()
    [[2, 1, 3]]
    """
    order = scores.masked_fill(~mask, -torch.inf).argsort(dim=1, descending=True, stable=True)
    order = order.gather(1, (~mask.gather(1, order)).to(torch.int8).argsort(dim=1, stable=True))
    place = torch.arange(1, scores.shape[1] + 1, device=scores.device).expand_as(order)
    return torch.empty_like(order).scatter_(1, order, place)


def _masked(scores: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Scores in at least float32 with minus infinity outside the mask, and the mask.

    A list without any candidate gets zeros: a softmax over nothing has no gradient.
    """
    scores = scores.float() if scores.dtype.itemsize < 4 else scores
    if mask is None:
        return scores, torch.ones_like(scores, dtype=torch.bool)
    scores = scores.masked_fill(~mask, -torch.inf)
    return scores.masked_fill(~mask.any(1, keepdim=True), 0.0), mask
