"""Causal training batches: one row per query with all its positions, so one forward pass serves them all."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor

from twotower.data.batches import Examples, check_queries
from twotower.data.history import HistoryColumn
from twotower.data.sharding import generator_at
from twotower.errors import ConfigError
from twotower.types import NO_ITEM, Batch

Windows = Literal["last", "all"]


class SequenceBatches:
    """Rows of L consecutive events as input and the L events one step later as targets.

    With history ``a b c d`` a row reads ``a b c`` and must tell ``b c d``: position i of the history column
    belongs to position i of ``Examples.items``. Padding stands on the right (index 0, target -1); a batch is
    as wide as its longest row. Queries with fewer than two events have nothing to tell: ``skipped`` counts
    them.

    Parameters
    ----------
    past
        History, name, item index and greatest length L of the column.
    queries
        Encoded table of all queries, (n_queries, ...), gathered by key; may be empty.
    batch_size, tokens_per_batch
        Greatest number of rows, and of positions (padding included), of one batch.
    windows
        ``last`` keeps the most recent L + 1 events of a query; ``all`` cuts a longer history into several
        rows so that every event but the first is a target once.
    horizon
        The target of a place is drawn anew each epoch from the next so many events, not always the very
        next: what will be liked soon rather than what comes next (the dense all-action loss of PinnerFormer,
        Pancha et al., KDD 2022). 1 is next-event prediction.
    bucket
        Rows are mixed freely among rows whose length differs by less than this; 1 pads least, more mixes
        better.
    rank, world
        Each step's rows are dealt out evenly, so that all ranks carry rows of the same length.
    """

    def __init__(
        self,
        past: HistoryColumn,
        queries: Batch,
        *,
        batch_size: int,
        tokens_per_batch: int | None = None,
        windows: Windows = "last",
        horizon: int = 1,
        bucket: int = 16,
        shuffle: bool = True,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        if min(batch_size, bucket, past.max_length, world, horizon) < 1 or not 0 <= rank < world:
            raise ConfigError(
                "batch_size, bucket, max_length, horizon and world must be positive, rank within 0..world-1; "
                f"found {batch_size}, {bucket}, {past.max_length}, {horizon}, {world} and {rank}"
            )
        if tokens_per_batch is not None and tokens_per_batch < past.max_length:
            raise ConfigError(f"tokens_per_batch={tokens_per_batch} is below max_length={past.max_length}")
        self._past, self._queries = past, queries
        self._shuffle, self._seed, self._rank, self._world = shuffle, seed, rank, world
        self._horizon = horizon
        self._keys, self._starts, self._lengths = _rows(past, windows)
        self.skipped = int((past.history.lengths < 2).sum())
        if len(self._keys) < world:
            raise ConfigError(
                f"{len(self._keys)} rows for {world} ranks; {self.skipped} queries have fewer than 2 events"
            )
        check_queries(self._keys, queries)
        self._buckets = (self._lengths + bucket - 1) // bucket  # ceil: a bucket's limit is its longest row
        limits = (self._buckets * bucket).clamp(max=past.max_length).sort(descending=True).values
        self._bounds = _cut(limits, batch_size * world, (tokens_per_batch or 0) * world, world)

    @property
    def steps_per_epoch(self) -> int:
        return len(self._bounds) - 1

    @property
    def rows(self) -> int:
        """Rows of one epoch, over all ranks."""
        return len(self._keys)

    def epoch(self, number: int, start_step: int = 0) -> Iterator[Examples]:
        """The batches of an epoch from a step on; skipped steps cost nothing.

        Rows are shuffled within their bucket of lengths, then the batches are shuffled.
        """
        if start_step < 0:
            raise ConfigError(f"start_step must not be negative, found {start_step}")
        order, steps = torch.arange(self.rows), torch.arange(self.steps_per_epoch)
        if self._shuffle:
            generator = generator_at(self._seed, number)
            order = torch.randperm(self.rows, generator=generator)
            steps = torch.randperm(self.steps_per_epoch, generator=generator)
        order = order[self._buckets[order].argsort(descending=True, stable=True)]
        for step in steps[start_step:].tolist():
            first, n = self._bounds[step], self._bounds[step + 1] - self._bounds[step]
            own = order[first + n * self._rank // self._world : first + n * (self._rank + 1) // self._world]
            yield self._batch(own, generator_at(self._seed, number, step, self._rank))

    def _batch(self, at: Tensor, generator: torch.Generator) -> Examples:
        keys, starts, lengths = self._keys[at], self._starts[at], self._lengths[at]
        width = int(lengths.max())
        history = self._past.window(starts, lengths, width)
        if self._horizon == 1:
            targets = self._past.history.window(starts + 1, lengths, width)
        else:
            targets = self._later(keys, starts, lengths, width, generator)
        return Examples(self._queries.take(keys).join(history), targets, keys)

    def _later(
        self, keys: Tensor, starts: Tensor, lengths: Tensor, width: int, generator: torch.Generator
    ) -> Tensor:
        """(B, width) one of the next ``horizon`` events of each place, all with the same probability."""
        history = self._past.history
        place = torch.arange(width)
        following = starts[:, None] + place + 1  # the very next event
        left = (history.offsets[keys + 1][:, None] - following).clamp(min=1, max=self._horizon)
        ahead = (torch.rand(left.shape, generator=generator, dtype=torch.float64) * left).long()
        chosen = history.items[(following + ahead).clamp(max=len(history) - 1)]
        return chosen.masked_fill(place >= lengths[:, None], NO_ITEM)


def _rows(past: HistoryColumn, windows: Windows) -> tuple[Tensor, Tensor, Tensor]:
    """Query key, place of the first input in the event list, and number of targets of each row."""
    targets = (past.history.lengths - 1).clamp(min=0)
    if windows == "last":
        count = (targets > 0).long()
    else:
        count = (targets + past.max_length - 1) // past.max_length
    keys = torch.repeat_interleave(torch.arange(past.history.n_queries), count)
    # numbered from the most recent window back, so that only the oldest one is short
    number = torch.arange(len(keys)) - torch.repeat_interleave(count.cumsum(0) - count, count)
    left = targets[keys] - number * past.max_length  # targets up to the end of this window
    lengths = left.clamp(max=past.max_length)
    return keys, past.history.offsets[keys] + left - lengths, lengths


def _cut(limits: Tensor, rows: int, tokens: int, world: int) -> list[int]:
    """Bounds of the steps over rows sorted by falling length; no step has fewer rows than ranks.

    They depend on the limits alone, so every epoch has the same number of steps.
    """
    bounds = [0]
    while bounds[-1] < len(limits):
        step = rows if not tokens else min(rows, tokens // int(limits[bounds[-1]]))
        bounds.append(min(bounds[-1] + step, len(limits)))
    if len(bounds) > 2 and bounds[-1] - bounds[-2] < world:
        del bounds[-2]
    return bounds
