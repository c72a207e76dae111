"""Meta queries (FIT, SIGIR 2025): a few learned queries stand for all items in the query tower's attention.

An item chooses one of N meta queries ahead of time, so that a query tower can look at its events with the
item's kind in mind, N times per request instead of once per candidate.

Letters: Q queries, C or K candidates, N meta queries, L events (or fields), E embedding, T chosen places.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

COLDEST = 0.001
"""Temperature of the choice once ``anneal`` steps are done; serving takes the best."""


class MetaQueries(nn.Module):
    """M (N, E): an item x chooses by softmax(W x . M^T / tau), and the choice stands for a row of (M M^T) M.

    tau falls in a straight line from 1 to 0.001 over the first ``anneal`` training steps, which the module
    counts (nothing tells it how many there will be), and stays there: `shares` is to be called once per step.
    A single meta query leaves nothing to choose, and has no W.
    """

    steps: Tensor

    def __init__(self, count: int, dim: int, item_size: int, anneal: int) -> None:
        super().__init__()
        self.anneal = anneal
        self.matrix = nn.Parameter(torch.randn(count, dim) * dim**-0.5)
        self.route = nn.Linear(item_size, dim, bias=False) if count > 1 else None
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def forward(self) -> Tensor:
        """(N, E): what attends to the events."""
        return self.matrix @ self.matrix.T @ self.matrix

    def shares(self, x: Tensor) -> Tensor:
        """(..., X) item fields side by side -> (..., N) shares that sum to one; counts a step in training."""
        done = (self.steps / self.anneal).clamp(max=1.0)
        if self.training:
            self.steps += 1
        return torch.softmax(self._fit(x) / (1 - done * (1 - COLDEST)), dim=-1)

    def choice(self, x: Tensor) -> Tensor:
        """(..., X) -> (...) int64, the meta query of the largest share."""
        return self._fit(x).argmax(-1)

    def _fit(self, x: Tensor) -> Tensor:
        if self.route is None:
            return x.new_zeros(*x.shape[:-1], 1)
        fit: Tensor = self.route(x) @ self.matrix.T
        return fit


def attend(queries: Tensor, values: Tensor, there: Tensor) -> Tensor:
    """(Q, N, E): the mean of each row's values (Q, L, E), weighed for each query (N, E) by exp(<query, value>
    / sqrt(E)); ``there`` (Q, L) is false at padding. A row without values has mean zero.
    """
    weight = _weight(queries, values) * there.unsqueeze(-1)  # (Q, L, N)
    return weight.transpose(1, 2) @ values / weight.sum(1).clamp(min=1e-9).unsqueeze(-1)


def attend_places(queries: Tensor, values: Tensor, at: Tensor) -> Tensor:
    """(T, N, E): the same for each place that ``at`` (Q, L) chooses, over the values up to it.

    Padding stands on the right. Holds (Q, L, N, E).
    """
    weight = _weight(queries, values)
    total = (weight.unsqueeze(-1) * values.unsqueeze(-2)).cumsum(1)[at]
    return total / weight.cumsum(1)[at].unsqueeze(-1)


def _weight(queries: Tensor, values: Tensor) -> Tensor:
    """(Q, L, N); bounded, so that sums over a prefix neither overflow nor vanish."""
    fit: Tensor = values @ queries.T / queries.shape[-1] ** 0.5
    return fit.float().clamp(-15, 15).exp()
