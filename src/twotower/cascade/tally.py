"""What quotas and spacing allow of groups of candidates, and how much of it a list has used.

Letters: Q lists, K candidates of each, L places, V groups of one candidate.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

EMPTY = -1
"""No candidate at a place; no group of a candidate."""


@dataclass(frozen=True)
class Limit:
    """A quota or a spacing, for lists of a known length."""

    number: int  # of the rule
    within: int  # quota: the first so many places; spacing: any so many places in a row
    at_least: int = 0
    at_most: int | None = None
    spacing: bool = False
    one_group: bool = False  # the rule is about a group that is meant even where no candidate is in it


class Tally:
    """How many candidates of each group stand in the places that a limit is about.

    A cell is one group in one list; a last cell stands for EMPTY, and is never counted.

    >>> tally = Tally(torch.tensor([[[0, 1], [1, -1], [-1, -1]]]))
    >>> tally.add(torch.tensor([0]))
    >>> tally.counted().tolist()
    [[[1, 1], [1, -1], [-1, -1]]]
    """

    def __init__(self, codes: Tensor) -> None:
        """``codes`` (Q, K, V) int64: the groups of each candidate, each once, then EMPTY."""
        Q, _, V = codes.shape
        codes = torch.cat([codes, codes.new_full((Q, 1, V), EMPTY)], 1)  # column -1: no candidate
        real = codes >= 0
        stride = int(codes.max()) + 1 if codes.numel() else 1
        self.rows = torch.arange(Q, device=codes.device)
        groups, group = torch.unique((self.rows[:, None, None] * stride + codes)[real], return_inverse=True)
        self.cells = torch.full_like(codes, len(groups)).masked_scatter(real, group)  # (Q, K + 1, V)
        self.list = groups // stride  # (cells,)
        self.supply = torch.bincount(group, minlength=len(groups))
        self._counts = torch.zeros(len(groups) + 1, dtype=torch.int64)
        self._counts[-1] = -1
        self._one = {by: torch.full((Q * V,), by) for by in (1, -1)}

    @property
    def counts(self) -> Tensor:
        """(cells,) without the one of EMPTY."""
        return self._counts[:-1]

    def add(self, chosen: Tensor, by: Literal[1, -1] = 1) -> None:
        """Count the candidates in these columns (Q,); EMPTY counts nothing."""
        self._counts.index_add_(0, self.cells[self.rows, chosen].flatten(), self._one[by])
        self._counts[-1] = -1

    def counted(self) -> Tensor:
        """(Q, K, V) how many of each group of each candidate; -1 for EMPTY."""
        return self._counts[self.cells[:, :-1]]

    def needs(self, at_least: int) -> tuple[Tensor, Tensor]:
        """What each list (Q, 1) still misses of what there is, and how much of it a candidate (Q, K) is."""
        missing = (self.supply.clamp(max=at_least) - self.counts).clamp(min=0)
        some = torch.cat([missing.clamp(max=1), missing.new_zeros(1)])
        return self.per_list(missing)[:, None], some[self.cells[:, :-1]].sum(2)

    def per_list(self, values: Tensor) -> Tensor:
        """(Q,) the sum over each list's groups."""
        return values.new_zeros(len(self.rows)).index_add_(0, self.list, values)
