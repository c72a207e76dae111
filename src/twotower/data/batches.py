"""Training batches cut from tensors in memory: one permutation per epoch, then slices of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from twotower.data.history import HistoryColumn
from twotower.data.interactions import Interactions
from twotower.data.sharding import Share, random_order
from twotower.errors import ConfigError, DataError
from twotower.types import Batch


@dataclass(frozen=True)
class Examples:
    """One training batch; all tensors share the first axis B.

    ``items`` are the targets: (B,) one per event; (B, L) one per position of a sequence, or (B, K) own
    candidates, both with -1 where there is none.
    """

    query: Batch  # (B, ...) encoded query and context columns, histories included
    items: Tensor  # (B,), (B, L) or (B, K) int64 item keys
    query_keys: Tensor  # (B,) int64
    labels: Tensor | None = None  # (B,) or (B, K) float32
    weights: Tensor | None = None  # (B,) float32
    pair: Batch = field(default_factory=Batch)  # (B, K, ...) what earlier stages knew of each pair

    def __len__(self) -> int:
        return len(self.query_keys)

    def to(self, device: torch.device | str) -> Examples:
        return Examples(
            self.query.to(device),
            self.items.to(device, non_blocking=True),
            self.query_keys.to(device, non_blocking=True),
            None if self.labels is None else self.labels.to(device, non_blocking=True),
            None if self.weights is None else self.weights.to(device, non_blocking=True),
            self.pair.to(device),
        )

    def describe(self) -> str:
        """One line that helps to find this batch again in the data."""
        head = 4
        parts = [
            f"{len(self)} examples with items {tuple(self.items.shape)}",
            f"first query keys {self.query_keys[:head].tolist()}",
            f"first item keys {self.items.reshape(-1)[:head].tolist()}",
        ]
        for name, values in (("labels", self.labels), ("weights", self.weights)):
            if values is not None and values.numel():
                parts.append(f"{name} from {values.min():g} to {values.max():g}")
        return "; ".join(parts)


class BatchSource(Protocol):
    """What a trainer reads from. Batches depend on (seed, epoch) alone; any step can be the first."""

    @property
    def steps_per_epoch(self) -> int: ...

    def epoch(self, number: int, start_step: int = 0) -> Iterator[Examples]: ...


class EventBatches:
    """Shuffled batches of single events.

    Parameters
    ----------
    events
        Keys, labels, weights and encoded context, kept in memory.
    queries
        Encoded table of all queries, (n_queries, ...), gathered by key; may be empty.
    past
        Adds the history before each event as a column; ``strict_time`` leaves out ties with the event.
    rank, world
        This process reads the rank-th of ``world`` disjoint shares, all of the same number of steps.
    """

    def __init__(
        self,
        events: Interactions,
        queries: Batch,
        *,
        batch_size: int,
        past: HistoryColumn | None = None,
        strict_time: bool = False,
        shuffle: bool = True,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
        drop_last: bool = False,
    ) -> None:
        check_queries(events.query_keys, queries)
        self._events, self._queries, self._past = events, queries, past
        self._positions = past.history.position_of(events, strict_time=strict_time) if past else None
        self._share = Share(len(events), batch_size, rank, world, drop_last)
        self._shuffle, self._seed = shuffle, seed

    @property
    def steps_per_epoch(self) -> int:
        return self._share.steps

    def epoch(self, number: int, start_step: int = 0) -> Iterator[Examples]:
        """The batches of an epoch from a step on; skipped steps cost nothing."""
        order = _epoch_order(len(self._events), self._shuffle, self._seed, number)
        for first, last in self._share.batches(start_step):
            at = order[first:last]
            positions = None if self._positions is None else self._positions[at]
            yield event_examples(self._events.take(at), self._queries, self._past, positions)


class ListBatches:
    """Shuffled batches of candidate lists: a ranker trained on the candidates it is served.

    Parameters
    ----------
    query_keys, candidates
        (N,) and (N, K) keys; empty slots hold -1.
    labels, weights
        (N, K) gains and (N,) weights of whole lists.
    pair, context
        (N, K, ...) what earlier stages knew of each pair; (N, ...) encoded context of the request.
    past, positions
        History column, cut at (N,) positions; without positions the whole history is shown, so it must end
        before the lists were made.
    """

    def __init__(
        self,
        query_keys: Tensor,
        candidates: Tensor,
        queries: Batch,
        *,
        batch_size: int,
        labels: Tensor | None = None,
        weights: Tensor | None = None,
        pair: Batch | None = None,
        context: Batch | None = None,
        past: HistoryColumn | None = None,
        positions: Tensor | None = None,
        shuffle: bool = True,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
        drop_last: bool = False,
    ) -> None:
        check_queries(query_keys, queries)
        own = {"candidates": candidates, **(pair or {})} | ({} if labels is None else {"labels": labels})
        for name, tensor in own.items():
            if tensor.shape[:2] != (len(query_keys), candidates.shape[-1]):
                raise ConfigError(f"{name} has shape {tuple(tensor.shape)}, expected (N, K, ...)")
        per_list = {"weights": weights, "positions": positions, **(context or {})}
        for name, column in per_list.items():
            if column is not None and len(column) != len(query_keys):
                raise ConfigError(f"{name} has {len(column)} rows for {len(query_keys)} lists")
        self._query_keys, self._candidates, self._queries = query_keys, candidates, queries
        self._labels, self._weights = labels, weights
        self._pair, self._context = pair or Batch(), context or Batch()
        self._past, self._positions = past, positions
        self._share = Share(len(query_keys), batch_size, rank, world, drop_last)
        self._shuffle, self._seed = shuffle, seed

    @property
    def steps_per_epoch(self) -> int:
        return self._share.steps

    def epoch(self, number: int, start_step: int = 0) -> Iterator[Examples]:
        """The batches of an epoch from a step on; skipped steps cost nothing."""
        order = _epoch_order(len(self._query_keys), self._shuffle, self._seed, number)
        for first, last in self._share.batches(start_step):
            at = order[first:last]
            keys = self._query_keys[at]
            query = self._queries.take(keys).join(self._context.take(at))
            if self._past:
                query = self._past.join(query, keys, None if self._positions is None else self._positions[at])
            yield Examples(
                query,
                self._candidates[at],
                keys,
                None if self._labels is None else self._labels[at],
                None if self._weights is None else self._weights[at],
                self._pair.take(at),
            )


def event_examples(
    events: Interactions, queries: Batch, past: HistoryColumn | None, positions: Tensor | None
) -> Examples:
    """Events with their queries gathered and their histories cut at ``positions``."""
    query = queries.take(events.query_keys).join(events.context)
    if past is not None:
        query = past.join(query, events.query_keys, positions, events.times)
    return Examples(query, events.item_keys, events.query_keys, events.labels, events.weights)


def check_queries(query_keys: Tensor, queries: Batch) -> None:
    """Every key must be a row of the table of queries.

    Raises
    ------
    DataError
        A key outside the table.
    """
    if not len(query_keys):
        return
    low, high = int(query_keys.min()), int(query_keys.max())
    if low < 0 or (queries and high >= queries.rows):
        raise DataError(
            f"query keys run from {low} to {high}, the table of queries has {queries.rows} rows",
            remedy="encode the queries of the catalogue that the events were resolved with",
        )


def _epoch_order(rows: int, shuffle: bool, seed: int, epoch: int) -> Tensor:
    return random_order(rows, seed, epoch) if shuffle else torch.arange(rows)
