"""Picking candidates one by one, each time the best of those that are left.

Letters: Q queries, K candidates of a query.
"""

from __future__ import annotations

import torch
from torch import Tensor


class Picks:
    """What has been picked of the lists of Q queries so far.

    Of equals the first column is taken, so that best first, ties by rising key goes in and comes out. Gains
    are compared in float32: what differs by less was the same before the order of some sum came in. Empty
    slots are picked when nothing else is left.

    >>> picks = Picks(torch.tensor([[False, True, True]]))
    >>> for _ in range(3):
    ...     column = picks.best(torch.tensor([[9.0, 1.0, 1.0]]))
    >>> picks.columns.tolist()
    [[1, 2, 0]]
    """

    def __init__(self, mask: Tensor) -> None:
        lowest = torch.finfo(torch.float32).min
        self._handicap = torch.zeros(mask.shape, device=mask.device).masked_fill(~mask, lowest)
        self._picked: list[Tensor] = []

    def best(self, gain: Tensor) -> Tensor:
        """The column (Q,) with the highest finite gain (Q, K) among those not picked before."""
        column = (gain.float() + self._handicap).argmax(1)
        self._handicap.scatter_(1, column[:, None], -torch.inf)
        self._picked.append(column)
        return column

    @property
    def columns(self) -> Tensor:
        """(Q, picks so far) in the order of picking."""
        empty = torch.empty(len(self._handicap), 0, dtype=torch.int64, device=self._handicap.device)
        return torch.stack(self._picked, dim=1) if self._picked else empty

    def last(self, n: int) -> Tensor:
        """(Q, n) the last n picks, the oldest first."""
        return self.columns[:, len(self._picked) - n :]
