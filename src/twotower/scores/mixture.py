"""Mixture of logits (Zhai et al., KDD 2023; Ding & Zhai, WWW 2025): gates choose among inner products.

    l = all Px * Pq inner products of an item's and a query's vectors
    pi = softmax(silu(g_q * g_x + cross(l)))           score = pi . l

g_q and g_x are known per query and per item ahead of time; only ``cross`` works per pair.

Letters: Q queries, C shared or K own candidates, Pq and Px vectors of a query and an item, P = Px * Pq
inner products (the query's vectors run fastest), D vector length.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from twotower.errors import ConfigError
from twotower.scores.base import apply_mask, is_own

Cross = Callable[[Tensor], Tensor]
"""The gates' view of the logits, (..., P) -> (..., P)."""

FLOATS_AT_ONCE = 2**20
"""Logits held at once: few enough to stay in the processor's cache from one operation to the next."""


def mixture(
    query: Tensor,
    query_gate: Tensor,
    item: Tensor,
    item_gate: Tensor,
    cross: Cross,
    mask: Tensor | None = None,
    *,
    dropout: float = 0.0,
) -> Tensor:
    """Scores of queries (Q, Pq, D) with gates (Q, P) against items (C, Px, D) with gates (C, P) -> (Q, C), or
    (Q, K, Px, D) with (Q, K, P) -> (Q, K).

    ``dropout`` leaves out that share of each pair's weights, and the rest is normalised again. Queries go
    chunk by chunk; where gradients are needed the chunks are computed again on the way back, so that memory
    holds one chunk of logits whatever the number of pairs.

    Raises
    ------
    ConfigError
        The shapes fit neither layout, or the gates are not Px * Pq long.
    """
    own = is_own(query, item)
    P = query.shape[-2] * item.shape[-2]
    if query_gate.shape[-1] != P or item_gate.shape[-1] != P:
        raise ConfigError(
            f"{query.shape[-2]} query and {item.shape[-2]} item vectors need gates of length {P}; lengths "
            f"{query_gate.shape[-1]} and {item_gate.shape[-1]} do not meet"
        )
    size = max(1, FLOATS_AT_ONCE // max(1, item.shape[-3] * P))
    if len(query) <= size:
        return apply_mask(_mix(query, query_gate, item, item_gate, cross, dropout), mask)
    mix = partial(_again, dropout > 0) if torch.is_grad_enabled() else _mix
    chunks = zip(
        torch.split(query, size),
        torch.split(query_gate, size),
        torch.split(item, size) if own else itertools.repeat(item),
        torch.split(item_gate, size) if own else itertools.repeat(item_gate),
        strict=False,
    )
    return apply_mask(torch.cat([mix(*chunk, cross, dropout) for chunk in chunks]), mask)


def mixing_weights(logits: Tensor, query_gate: Tensor, item_gate: Tensor, cross: Cross) -> Tensor:
    """(Q, C or K, P) weights that sum to one, from as many logits and the gates of both sides."""
    gates = torch.addcmul(cross(logits), query_gate[:, None], item_gate)
    return functional.softmax(functional.silu(gates), dim=-1)


def component_logits(query: Tensor, item: Tensor) -> Tensor:
    """Inner products of all vectors: (Q, Pq, D) with (C, Px, D) -> (Q, C, P), or (Q, K, Px, D) -> (Q, K, P).

    >>> query = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
    >>> component_logits(query, torch.tensor([[[2.0, 3.0], [4.0, 5.0]]]))
    tensor([[[2., 3., 4., 5.]]])
    """
    Q, Pq, D = query.shape
    *_, candidates, Px, _ = item.shape
    if item.dim() == 4:
        logits = item.reshape(Q, candidates * Px, D) @ query.transpose(1, 2)
    else:  # one large product, then in order: far cheaper than Q narrow ones
        wide = item.reshape(candidates * Px, D) @ query.reshape(Q * Pq, D).T
        logits = wide.view(candidates, Px, Q, Pq).permute(2, 0, 1, 3)
    return logits.reshape(Q, candidates, Px * Pq)


def load_balance(weights: Tensor) -> Tensor:
    """How far the pairs' weights (N, P) are from sure of themselves and, together, fair to every component.

    Mean entropy minus the entropy of the mean: minus the mutual information of pair and component, from
    -log P (best) to 0.

    >>> load_balance(torch.eye(4)).exp()
    tensor(0.2500)
    """
    weights = weights.clamp(min=torch.finfo(weights.dtype).tiny)  # log(0) has a slope that is no number
    mean = weights.mean(0)
    return torch.xlogy(mean, mean).sum() - torch.xlogy(weights, weights).sum(-1).mean()


def _mix(
    query: Tensor, query_gate: Tensor, item: Tensor, item_gate: Tensor, cross: Cross, dropout: float
) -> Tensor:
    logits = component_logits(query, item)
    weights = mixing_weights(logits, query_gate, item_gate, cross)
    if not dropout:
        return (weights * logits).sum(-1)
    weights = weights * (torch.rand_like(weights) >= dropout)  # Bernoulli draws take ten times as long
    return (weights * logits).sum(-1) / weights.sum(-1).clamp(min=1e-6)


def _again(random: bool, *inputs: Any) -> Tensor:
    """`_mix`, computed again on the way back, with the same random numbers."""
    scores: Tensor = checkpoint(_mix, *inputs, use_reentrant=False, preserve_rng_state=random)
    return scores
