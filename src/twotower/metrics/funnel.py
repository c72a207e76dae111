"""Where relevant items live and die on their way through the stages.

Shape letters: S stages, Q queries, K candidates of one query, N relevant (query, item) pairs.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from twotower.errors import DataError
from twotower.metrics.ranking import relevant_ranks
from twotower.types import NO_ITEM, Ragged

KEPT = -1
"""In `Survival.lost_at`: the item came through all stages."""
NEVER_RETRIEVED = 0
"""In `Survival.lost_at`: the first stage, the retriever, did not find the item."""


@dataclass(frozen=True)
class Survival:
    """The fate of every relevant item, stage by stage. Make one with `survival`."""

    stages: tuple[str, ...]
    relevant: Ragged  # Q rows, N values
    alive: Tensor  # (S, N) bool: came out of the stage

    @property
    def relevant_out(self) -> Tensor:
        """(S, Q) int64: relevant items that came out of each stage."""
        row = self.relevant.row_of_value().cpu()
        out = torch.zeros(len(self.stages), len(self.relevant), dtype=torch.int64)
        return out.index_add_(1, row, self.alive.long())

    @property
    def relevant_in(self) -> Tensor:
        """(S, Q) int64: relevant items that reached each stage; all of them reach the first.

        More may come out than went in of a stage that adds items.
        """
        return torch.cat([self.relevant.lengths.cpu()[None], self.relevant_out[:-1]])

    @property
    def share_alive(self) -> Tensor:
        """(S, Q) float64: share of all the query's relevant items still alive; NaN without any."""
        return self.relevant_out / self.relevant.lengths.cpu().double()

    @property
    def share_kept(self) -> Tensor:
        """(S, Q) float64: share of those that reached the stage; NaN where none did."""
        kept = self.alive.clone()
        kept[1:] &= self.alive[:-1]  # what a stage adds, it was not given to keep
        return replace(self, alive=kept).relevant_out / self.relevant_in.double()

    @property
    def lost_at(self) -> Tensor:
        """(N,) int64: the stage that lost the item, by number; 0 is `NEVER_RETRIEVED`, -1 is `KEPT`.

        Where a stage added an item that was lost before, it is its last loss that counts.
        """
        count = torch.arange(1, len(self.stages) + 1)[:, None]
        behind_last = (self.alive * count).amax(0)  # the stage after the last that handed it on
        return behind_last.masked_fill(self.alive[-1], KEPT)

    def losses(self) -> dict[str, int]:
        """How many relevant items ended where, over all queries: the numbers sum to N."""
        lost = self.lost_at
        count = {"never retrieved": int((lost == NEVER_RETRIEVED).sum())}
        for stage, name in enumerate(self.stages[1:], start=1):
            count[f"lost by {name}"] = int((lost == stage).sum())
        return count | {"kept": int((lost == KEPT).sum())}


def survival(
    stages: Sequence[tuple[str, Tensor]], relevant: Ragged, adding: Collection[str] = ()
) -> Survival:
    """Follow the relevant items through the outputs of the stages, first (the retriever) to last.

    Each stage is its name and the keys (Q, K) it handed on, best first, -1 for an empty slot; those named by
    ``adding`` may hand on items that they were not given.

    >>> fate = survival([("retrieve", torch.tensor([[4, 7, 9]])), ("rank", torch.tensor([[9]]))],
    ...                 Ragged.of([[9, 7, 2]]))
    >>> fate.losses(), fate.relevant_out.tolist()
    ({'never retrieved': 1, 'lost by rank': 1, 'kept': 1}, [[2], [1]])

    Raises
    ------
    DataError
        There is no stage, shapes do not fit, or a later stage returned a relevant item it was not given.
    """
    if not stages:
        raise DataError("no stage at all; expected at least the retriever")
    names = tuple(name for name, _ in stages)
    if len(set(names)) < len(names):
        raise DataError(f"two stages share a name: {', '.join(names)}")
    alive = torch.stack([relevant_ranks(keys, relevant) > 0 for _, keys in stages])
    for stage in range(1, len(names)):
        invented = int((alive[stage] & ~alive[stage - 1]).sum())
        if invented and names[stage] not in adding:
            raise DataError(
                f"stage {names[stage]!r} returned {invented} relevant items "
                f"that {names[stage - 1]!r} did not hand on"
            )
    return Survival(names, relevant, alive)


def overlap(keys: Tensor, reference: Tensor, k: int) -> Tensor:
    """Overlap@k: the share of the reference's first k that is among the other's first k, (Q,) float64.

    Compares a pre-ranker (``keys``, (Q, K)) with the ranker it stands in for (``reference``, (Q, K')). Where
    the reference has fewer than k items its own number is the denominator; NaN where it has none.

    >>> overlap(torch.tensor([[1, 2, 3, 4]]), torch.tensor([[4, 2, 9, 1]]), k=3).tolist()
    [0.333333333333...]
    """
    wanted = reference[:, :k].cpu()
    real = wanted != NO_ITEM
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), real.sum(1).cumsum(0)])
    as_relevant = Ragged(wanted[real], offsets)
    return survival([("other", keys[:, :k].cpu())], as_relevant).share_alive[0]
