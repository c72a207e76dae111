"""Determinantal point process: the fast greedy search for the most probable list.

Chen, Zhang and Zhou, "Fast Greedy MAP Inference for Determinantal Point Process to Improve Recommendation
Diversity", NeurIPS 2018: algorithm 1 and, with a window, the search that forgets.

Letters: Q queries, K candidates of a query, n = min(k, K) picks, t picks that are remembered.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from twotower.cascade.greedy import Picks
from twotower.cascade.likeness import Likeness

SPENT = 1e-10
"""Below this share of itself that is new, a candidate counts as one that the picks have said already."""
_TRACE = 1e-15
"""What is new of a pick that says nothing new: it must stand for itself when its twin leaves the window. Far
above rounding, and far below `SPENT`, or what it leaves behind would look new."""


def dpp(
    relevance: Tensor,
    likeness: Likeness,
    k: int,
    *,
    weight: float,
    strength: float = 1.0,
    window: int | None = None,
    mask: Tensor | None = None,
    check_time: Callable[[], None] | None = None,
) -> Tensor:
    """Columns (Q, n) in the order of picking, empty slots last.

    The kernel is L = diag(q) S diag(q) with S the likeness, q = exp(alpha * relevance) and, ``weight`` being
    the paper's theta, alpha = theta / (2 (1 - theta)). As log det L_Y = 2 alpha sum relevance + log det S_Y,
    each pick is argmax of

        theta * relevance + (1 - theta) * log(what of the candidate is new),

    the last being its squared distance d^2 from the span of the picks, 1 before the first. So q, which
    overflows as theta nears 1, is never made; theta = 1 is the order of relevance, theta = 0 diversity alone.
    The Cholesky factor grows by a row per pick: O(K n^2) in all, where a determinant per candidate takes
    O(K n^4).

    With ``window`` = w, at least 2, a pick looks at the w - 1 before it only: every w in a row are diverse,
    and a long list does not run out of what is new. Without it nothing is new any more after as many picks
    as S has rank (vectors of length D: D + 1). d^2 is held at `SPENT` there, a constant, so the list goes on
    by relevance.

    ``strength`` = g takes g S + (1 - g) I for S: two different items are never more alike than g. Where many
    items are twins, as those of one category are, a twin is worth log 0 with g = 1 and no theta weighs
    against that; with g = 0.9 it is worth log 0.19, and the next one a little less.

    ``check_time`` is called before each pick.

    >>> from twotower.cascade.likeness import by_values
    >>> genre = by_values(torch.tensor([[2, 2, 3, 2]]))
    >>> dpp(torch.tensor([[1.0, 0.9, 0.5, 0.8]]), genre, k=4, weight=0.5).tolist()
    [[0, 2, 1, 3]]
    """
    picks = Picks(torch.ones_like(relevance, dtype=torch.bool) if mask is None else mask)
    relevance = relevance.double()
    Q, K = relevance.shape
    n = min(k, K)
    memory = n if window is None else min(n, window - 1)
    new = torch.ones_like(relevance)
    factor = relevance.new_zeros(Q, memory, K)  # column i: candidate i in an orthonormal basis of the picks
    t = 0
    for _ in range(n):
        if check_time is not None:
            check_time()
        column = picks.best(weight * relevance + (1 - weight) * new.clamp_min(SPENT).log())
        if t == memory:
            factor[:, : t - 1], lost = _forget(factor, picks.last(t)[:, :-1])
            new, t = new + lost.square(), t - 1
        at = column[:, None]
        distance = new.gather(1, at).clamp_min(_TRACE).sqrt()  # (Q, 1)
        known = factor[:, :t]  # (Q, t, K)
        shared = known.gather(2, at[:, None].expand(-1, t, 1)).mT @ known  # (Q, 1, K)
        row = ((strength * likeness(column) - shared[:, 0]) / distance).scatter(1, at, distance)
        factor[:, t], t = row, t + 1
        new = new - row.square()
    return picks.columns


def _forget(factor: Tensor, kept: Tensor) -> tuple[Tensor, Tensor]:
    """Turn the basis of t picks so that its last direction is none of the ``kept`` ones' (Q, t - 1).

    Returns the candidates in the first t - 1 directions, (Q, t - 1, K), and in the last one, (Q, K). One
    small QR and a product, where the paper turns plane by plane: more arithmetic, fewer steps.
    """
    size = factor.shape[1]
    basis = torch.linalg.qr(factor.gather(2, kept[:, None].expand(-1, size, -1)), mode="complete").Q
    turned = basis.mT @ factor
    return turned[:, :-1], turned[:, -1]
