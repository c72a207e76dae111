"""What a funnel is asked, and what would have been right: queries, their past, their held-out items."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from twotower.metrics.ranking import Measure, evaluate
from twotower.types import NO_ITEM, Batch, Ragged


@dataclass(frozen=True)
class Task:
    """Q queries as of one moment: the past is known, the held-out items are to be found.

    An item seen in any way before the moment is masked in every result and cannot be relevant: such items
    leave the denominator. Queries left without a relevant item are not in the task, but are counted.
    """

    query_keys: Tensor  # (Q,)
    query: Batch  # encoded query columns (Q, ...), the history included
    history: Ragged  # keys of the items that make the history, oldest first
    seen: Ragged  # keys that must not be shown again
    relevant: Ragged  # held-out positive item keys, not seen before
    already_seen: int  # held-out positives that left because they were seen
    without_relevant: int  # queries of the held-out part that have none left
    time: Tensor | None = None  # (Q,) seconds since 1970 when each is asked; None where no time is known
    gains: Tensor | None = None  # (N,) float64 what each of ``relevant.values`` is worth; None: 1 each

    def __len__(self) -> int:
        return len(self.query_keys)

    def take(self, rows: Tensor) -> Task:
        """Chosen queries as a task of their own."""
        return Task(
            self.query_keys[rows],
            self.query.take(rows),
            self.history.take(rows),
            self.seen.take(rows),
            self.relevant.take(rows),
            self.already_seen,
            self.without_relevant,
            None if self.time is None else self.time[rows],
            None if self.gains is None else Ragged(self.gains, self.relevant.offsets).take(rows).values,
        )

    def measure(self, lists: Tensor, measures: Sequence[Measure | str]) -> dict[str, Tensor]:
        """What ``lists`` (Q, K) of item keys, best first, are worth: (Q,) under each measure's name."""
        return evaluate(lists, self.relevant, measures, self.gains)

    def __str__(self) -> str:
        gains = ""
        if self.gains is not None and (self.gains != 1).any():
            gains = f" of gains {self.gains.min():g} to {self.gains.max():g}"
        return (
            f"{len(self):,} queries, {len(self.relevant.values):,} relevant items{gains}; left out: "
            f"{self.already_seen:,} held-out positives seen before, "
            f"{self.without_relevant:,} queries without a relevant item"
        )


def make_task(
    query_keys: Tensor,
    query: Batch,
    history: Ragged,
    seen: Ragged,
    held_out: Ragged,
    n_items: int,
    time: Tensor | None = None,
    gains: Tensor | None = None,
) -> Task:
    """Build a task; row i of every argument is query ``query_keys[i]``.

    ``held_out`` holds the positive item keys of the held-out part. Seen ones and duplicates leave here. Each
    -1 is an item of its own outside the catalogue, which nobody has seen and no list can hold.
    ``gains`` (N,) belong to ``held_out.values``, are above 0 and default to 1; of duplicates the greatest
    counts.
    """
    stride = n_items + len(held_out.values)
    own_key = n_items + torch.arange(len(held_out.values))
    key = held_out.values.where(held_out.values != NO_ITEM, own_key)
    pair, place = torch.unique(held_out.row_of_value() * stride + key, return_inverse=True)
    real = seen.values != NO_ITEM
    known = torch.isin(pair, seen.row_of_value()[real] * stride + seen.values[real])
    if gains is not None:
        best = torch.zeros(len(pair), dtype=torch.float64)
        gains = best.scatter_reduce_(0, place, gains.double(), "amax")[~known]
    counts = torch.bincount(pair[~known] // stride, minlength=len(held_out))
    key = pair[~known] % stride
    relevant = Ragged(key.where(key < n_items, NO_ITEM), torch.cat([counts.new_zeros(1), counts.cumsum(0)]))
    keep = (counts > 0).nonzero()[:, 0]
    gone, empty = int(known.sum()), int((counts == 0).sum())
    task = Task(query_keys, query, history, seen, relevant, gone, empty, time, gains)
    return task.take(keep)
