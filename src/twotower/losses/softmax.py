"""Softmax over sampled or in-batch candidates, with its corrections in one stated order.

B rows, C candidates. The order, which is the house's protocol: temperature, logQ, duplicates of the
positive, items the user has seen, hard negatives.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from twotower.errors import ConfigError
from twotower.losses.reduction import weighted_mean

Correction = Literal["standard", "positive-free"]

MIN_Q = 1e-6
"""Sampling probabilities are clipped here, so that one rare item cannot run away with the gradient."""


def sampled_softmax(
    scores: Tensor,
    target: Tensor | None = None,
    *,
    temperature: float | Tensor = 1.0,
    log_q: Tensor | None = None,
    item_keys: Tensor | None = None,
    seen: Tensor | None = None,
    hard_negatives: int | None = None,
    weight: Tensor | None = None,
    correction: Correction = "standard",
    min_q: float = MIN_Q,
) -> Tensor:
    """Cross entropy of each row's positive among its candidates; a scalar, the weighted mean of the rows.

    | input          | shape          | meaning                                                         |
    |----------------|----------------|-----------------------------------------------------------------|
    | scores         | (B, C)         | raw scores; minus infinity = not a candidate                    |
    | target         | (B,)           | column of the positive; default row i -> column i (in-batch)    |
    | temperature    | scalar         | scores are divided by it; a tensor may be learned               |
    | log_q          | (C,) or (B, C) | log-probability that one draw gives this candidate              |
    | item_keys      | (C,) or (B, C) | keys; other copies of the positive (accidental hits) are masked |
    | seen           | (B, C) bool    | true where the user knows the item: masked                      |
    | hard_negatives | int            | only this many highest negatives stay, beside the positive      |
    | weight         | (B,)           | weight of each row in the mean, default 1                       |

    The positive itself is never masked; a row whose negatives are all masked has loss 0. ``log_q`` is clipped
    at log ``min_q`` (lower it for catalogues beyond a million items). For training only: serve raw scores.

    ``correction``
        *standard*: log_q is subtracted from every candidate, the positive included (Bengio and Senecal 2008;
        Yi et al. 2019, eq. 3). A constant factor in q cancels.
        *positive-free* (Khrylchenko et al. 2025): the positive was not sampled, so it is not corrected and
        leaves the denominator: ``stop_gradient(1 - p) * (logsumexp(negatives) - positive)`` with negatives
        minus log(q / (1 - q_positive)) and p the estimated softmax probability of the positive over the whole
        catalogue. q must be a true probability per draw here. Its expected gradient is that of the full
        softmax. Not together with ``hard_negatives``, which are no sample.

    Relations: `twotower.losses.full_softmax.tiled_softmax` gives the same number for dot products without
    holding (B, C); `full_softmax` needs no correction at all.

    Recommendations: cosine scores with temperature 0.05 .. 0.1, or raw dot products with 1; log_q whenever
    candidates come by popularity, as in-batch ones do; item_keys always.

    Raises
    ------
    ConfigError
        A temperature or number of hard negatives that is not positive, fewer columns than rows without a
        ``target``, or *positive-free* without ``log_q`` or with ``hard_negatives``.

    >>> scores = torch.tensor([[2.0, 0.0], [0.0, 2.0]])
    >>> sampled_softmax(scores)  # log(1 + exp(-2))
    tensor(0.1269)
    >>> sampled_softmax(scores, item_keys=torch.tensor([7, 7]))  # the only negative is the positive again
    tensor(0.)
    """
    check_options(temperature, log_q, correction)
    target = default_target((len(scores), scores.shape[1]), target, scores.device)
    scores = scores.float() if scores.dtype.itemsize < 4 else scores
    if isinstance(temperature, Tensor) and temperature.requires_grad:  # its slope is NaN at infinite scores
        gone = scores == -torch.inf
        logits = (scores.masked_fill(gone, 0.0) / temperature).masked_fill(gone, -torch.inf)
    else:
        logits = scores / temperature
    positive = torch.arange(scores.shape[1], device=scores.device) == target[:, None]  # (B, C)
    if log_q is not None:
        log_q = clip_log_q(log_q, min_q).to(logits.dtype).expand_as(logits)
        if correction == "positive-free":
            q_positive = log_q.gather(1, target[:, None]).exp()
            log_q = (log_q - log_complement(q_positive)).masked_fill(positive, 0.0)
        logits = logits - log_q
    if item_keys is not None:
        keys = item_keys.expand_as(logits)
        duplicate = keys == keys.gather(1, target[:, None])
        seen = duplicate if seen is None else seen | duplicate
    if seen is not None:
        logits = logits.masked_fill_(seen & ~positive, -torch.inf)  # a tensor of this function alone
    if correction == "positive-free":
        if hard_negatives is not None:
            raise ConfigError(
                "positive-free correction estimates a sum from a sample: no hard_negatives with it"
            )
        return weighted_mean(_positive_free(logits, positive), weight)
    if hard_negatives is not None:
        logits = keep_hard_negatives(logits, positive, hard_negatives)
    return weighted_mean(F.cross_entropy(logits, target, reduction="none"), weight)


def keep_hard_negatives(logits: Tensor, positive: Tensor, n: int) -> Tensor:
    """Logits (B, C) with all but the n highest negatives of each row at minus infinity.

    ``positive`` (B, C) is true at each row's positive, which stays.

    >>> keep_hard_negatives(torch.tensor([[1.0, 3.0, 2.0]]), torch.tensor([[True, False, False]]), 1)
    tensor([[1., 3., -inf]])
    """
    if n < 1:
        raise ConfigError(f"hard_negatives must be at least 1, found {n}")
    if n >= logits.shape[1] - 1:
        return logits
    negatives = logits.detach().masked_fill(positive, -torch.inf)
    keep = positive.scatter(1, negatives.topk(n, dim=1).indices, True)
    return logits.masked_fill(~keep, -torch.inf)


def _positive_free(logits: Tensor, positive: Tensor) -> Tensor:
    """Loss of each row (B,) from corrected logits (B, C)."""
    negatives = logits.masked_fill(positive, -torch.inf)
    drawn = (negatives != -torch.inf).sum(1)
    # logsumexp of nothing has no gradient: such rows get a harmless stand-in, and loss 0 below
    sum_negatives = negatives.masked_fill(drawn[:, None] == 0, 0.0).logsumexp(1)
    own = logits[positive]  # one per row, so still in row order
    # each draw over its probability estimates the sum over the catalogue; the mean of draws steadies it
    catalogue = (sum_negatives - drawn.clamp_min(1).to(logits.dtype).log()).detach()
    miss = torch.sigmoid(catalogue - own.detach())  # 1 - p
    return (miss * (sum_negatives - own)).masked_fill(drawn == 0, 0.0)


def check_options(temperature: float | Tensor, log_q: Tensor | None, correction: str) -> None:
    """Shared by the softmax losses; see `sampled_softmax` for what is refused."""
    if isinstance(temperature, int | float) and not (temperature > 0 and math.isfinite(temperature)):
        raise ConfigError(f"temperature must be positive, found {temperature}")
    if correction not in ("standard", "positive-free"):
        raise ConfigError(f"unknown correction {correction!r}; known: positive-free, standard")
    if correction == "positive-free" and log_q is None:
        raise ConfigError("positive-free correction needs log_q, the log-probability of each candidate")


def default_target(shape: tuple[int, int], target: Tensor | None, device: torch.device) -> Tensor:
    """The given target (B,), or the in-batch one: row i's positive stands in column i."""
    rows, columns = shape
    if target is None:
        if columns < rows:
            raise ConfigError(
                f"{rows} rows but {columns} candidates: without a target, row i's positive is column i"
            )
        return torch.arange(rows, device=device)
    return target


def clip_log_q(log_q: Tensor, min_q: float) -> Tensor:
    return log_q.detach().clamp_min(math.log(min_q))


def log_complement(q: Tensor) -> Tensor:
    """log(1 - q), finite even for an item that is always drawn."""
    return torch.log1p(-q.clamp_max(1 - MIN_Q))
