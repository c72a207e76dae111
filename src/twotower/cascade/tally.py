"""What quotas and spacing allow of groups of candidates, and how much of it a list has used.

Letters: Q lists, K candidates of each, L places, V groups of one candidate.
"""

from __future__ import annotations

from dataclasses import dataclass

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

    >>> tally = Tally(torch.tensor([[[0, 1], [1, -1], [-1, -1]]]))
    >>> tally.add(torch.tensor([0]))
    >>> tally.of(tally.counts).tolist()
    [[[1, 1], [1, 0], [0, 0]]]
    """

    def __init__(self, codes: Tensor) -> None:
        """``codes`` (Q, K, V) int64: the groups of each candidate, each once, then EMPTY."""
        stride = int(codes.max()) + 1 if codes.numel() else 1
        real = codes >= 0
        rows = torch.arange(len(codes), device=codes.device)[:, None, None]
        groups, group = torch.unique((rows * stride + codes)[real], return_inverse=True)
        # one cell for each list and group in it; a last one takes what is counted of EMPTY
        self.cells = torch.full_like(codes, len(groups)).masked_scatter(real, group)
        self.row = groups // stride
        self.supply = torch.bincount(group, minlength=len(groups))
        self.counts = torch.zeros_like(self.supply)

    def add(self, chosen: Tensor, by: int = 1) -> None:
        """Count the candidates in these columns (Q,)."""
        cells = self._cells_of(chosen)
        cells = cells[cells < len(self.counts)]
        self.counts.index_add_(0, cells, torch.full_like(cells, by))

    def most(self, chosen: Tensor) -> Tensor:
        """(Q,) the largest count of a group that the candidate in this column is in; 0 without one."""
        counts = torch.cat([self.counts, self.counts.new_zeros(1)])[self._cells_of(chosen)]
        return torch.cat([counts, counts.new_zeros(len(counts), 1)], 1).amax(1)

    def of(self, values: Tensor) -> Tensor:
        """(Q, K, V): one value per cell, for each group of each candidate; 0 for EMPTY."""
        return torch.cat([values, values.new_zeros(1)])[self.cells]

    def needs(self, at_least: int) -> Tensor:
        """(cells,) how many are still missing, of those there are."""
        return (self.supply.clamp(max=at_least) - self.counts).clamp(min=0)

    def per_list(self, values: Tensor, lists: int) -> Tensor:
        """(Q,) the sum over each list's groups."""
        return values.new_zeros(lists).index_add_(0, self.row, values)

    def _cells_of(self, chosen: Tensor) -> Tensor:
        """(Q, V) the cells of the candidates in these columns; the last cell for EMPTY."""
        if not self.cells.shape[1]:
            return self.cells.new_empty(len(chosen), 0)
        cells = self.cells[torch.arange(len(chosen), device=chosen.device), chosen.clamp(min=0)]
        return cells.masked_fill(chosen[:, None] < 0, len(self.counts))
