"""Maximal marginal relevance (Carbonell and Goldstein, SIGIR 1998).

Letters: Q queries, K candidates of a query, n = min(k, K) picks.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from twotower.cascade.greedy import Picks
from twotower.cascade.likeness import Likeness


def mmr(
    relevance: Tensor,
    likeness: Likeness,
    k: int,
    *,
    weight: float,
    mask: Tensor | None = None,
    check_time: Callable[[], None] | None = None,
) -> Tensor:
    """Columns (Q, n) in the order of picking, empty slots last.

    Each pick is argmax of weight * relevance - (1 - weight) * the likeness to the most alike of those
    picked before (0 before the first); ``weight`` is the paper's lambda. ``relevance`` (Q, K) should lie in
    [0, 1] as likeness does. The maximum is kept from pick to pick: O(K n) likenesses, not O(K n^2).
    ``check_time`` is called before each pick.

    >>> from twotower.cascade.likeness import by_values
    >>> genre = by_values(torch.tensor([[2, 2, 3]]))
    >>> mmr(torch.tensor([[1.0, 0.9, 0.5]]), genre, k=3, weight=0.5).tolist()
    [[0, 2, 1]]
    """
    picks = Picks(torch.ones_like(relevance, dtype=torch.bool) if mask is None else mask)
    relevance = relevance.double()
    closest = torch.zeros_like(relevance)
    for _ in range(min(k, relevance.shape[1])):
        if check_time is not None:
            check_time()
        column = picks.best(weight * relevance - (1 - weight) * closest)
        closest = torch.maximum(closest, likeness(column))
    return picks.columns
