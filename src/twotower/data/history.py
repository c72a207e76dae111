"""What each query did before: one sorted list of events per query, cut at any moment."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from twotower.data.elapsed import elapsed_index, elapsed_name
from twotower.data.interactions import Interactions
from twotower.types import NO_ITEM, PAD, UNKNOWN, Batch, Ragged


@dataclass(frozen=True)
class History:
    """Events of every query in the order (time, row), one query after the other.

    The events of query q are ``offsets[q]:offsets[q + 1]``. A **position** is a number of events of one
    query: the history of a target at position p is the query's first p events. Only the events handed in
    are known: hand in those of the training part when a split is random, those before the cut to evaluate.

    >>> events = Interactions(torch.tensor([0, 1, 0]), torch.tensor([7, 8, 9]), times=torch.tensor([5, 1, 2]),
    ...                       rows=torch.tensor([0, 1, 2]))
    >>> history = History.of(events, n_queries=2)
    >>> history.before(torch.tensor([0, 1]), None, max_length=2).tolist()
    [[9, 7], [8, -1]]
    >>> history.position_of(events).tolist()
    [1, 0, 0]
    """

    offsets: Tensor  # (n_queries + 1,) int64
    items: Tensor  # (N,) item keys
    times: Tensor  # (N,)
    rows: Tensor  # (N,) original rows: the last word on order

    @classmethod
    def of(cls, events: Interactions, n_queries: int) -> History:
        """Sort the events of ``n_queries`` queries; O(N log N), about a second for four million events."""
        queries = events.query_keys.numpy()
        if len(events) and (queries.min() < 0 or queries.max() >= n_queries):
            raise ValueError(f"query keys must lie in 0..{n_queries - 1}")
        keys = (events.rows.numpy(), events.times.numpy(), queries)  # the last one counts first
        in_order = bool((events.rows.diff() > 0).all())  # as stores and files are: the sort is stable
        order = torch.from_numpy(np.lexsort(keys[1:] if in_order else keys))
        counts = np.bincount(queries, minlength=n_queries)
        offsets = torch.from_numpy(np.concatenate([[0], counts.cumsum()]).astype(np.int64))
        return cls(offsets, events.item_keys[order], events.times[order], events.rows[order])

    def __len__(self) -> int:
        """Number of events."""
        return len(self.items)

    def __repr__(self) -> str:
        return f"History({len(self):,} events of {self.n_queries:,} queries)"

    @property
    def n_queries(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> Tensor:
        """(n_queries,) number of events of each query."""
        return self.offsets.diff()

    def lists(self) -> Ragged:
        """Item keys per query, oldest first, repeats included."""
        return Ragged(self.items, self.offsets)

    def seen(self) -> Ragged:
        """Item keys per query, rising, each once."""
        stride = int(self.items.max()) + 1 if len(self) else 1
        queries = torch.repeat_interleave(torch.arange(self.n_queries), self.lengths)
        pairs = torch.unique(queries * stride + self.items)  # (query, item) as one sorted number
        counts = torch.bincount(pairs // stride, minlength=self.n_queries)
        return Ragged(pairs % stride, torch.cat([counts.new_zeros(1), counts.cumsum(0)]))

    def position_of(self, events: Interactions, *, strict_time: bool = False) -> Tensor:
        """(B,) how many events of its query come strictly before each event in the order (time, row).

        The events need not be part of this history. ``strict_time`` counts only events of an earlier time,
        so that ties with the target are left out of its history.
        """
        low, high = self._range(events.query_keys)
        start = low
        for _ in range(int((high - low).max()).bit_length() if len(low) else 0):  # binary search, all at once
            middle = (low + high) // 2
            here = middle.clamp(max=len(self) - 1)
            times = self.times.index_select(0, here)
            earlier = times < events.times
            if not strict_time:
                earlier |= (times == events.times) & (self.rows.index_select(0, here) < events.rows)
            open_ = low < high
            low = torch.where(open_ & earlier, middle + 1, low)
            high = torch.where(open_ & ~earlier, middle, high)
        return low - start

    def before(
        self, query_keys: Tensor, positions: Tensor | None, max_length: int, *, fill: int = NO_ITEM
    ) -> Tensor:
        """(B, max_length) the last items among the first ``positions`` events of each query, oldest first.

        Rows stand left and are padded with ``fill``. No positions mean the whole history; a query key of -1
        has none.
        """
        start, stop = self.bounds(query_keys, positions)
        lengths = (stop - start).clamp(max=max_length)
        return self.window(stop - lengths, lengths, max_length, fill=fill)

    def window(self, starts: Tensor, lengths: Tensor, width: int, *, fill: int = NO_ITEM) -> Tensor:
        """(B, width) ``items[start : start + length]`` of each row, padded on the right."""
        # whole stretches are copied, five times faster than item by item; only those near the end of the
        # list, where no stretch of full width begins, come from a padded copy of that end
        edge = max(len(self) - width, 0)
        if len(self) >= width:
            out = self.items.unfold(0, width, 1).index_select(0, starts.clamp(max=edge))
        else:
            out = self.items.new_empty((len(starts), width))
        late = (starts >= edge).nonzero()[:, 0]
        end = torch.cat([self.items[edge:], self.items.new_full((width,), fill)])
        out[late] = end.unfold(0, width, 1)[starts[late] - edge]
        return out.masked_fill_(torch.arange(width) >= lengths[:, None], fill)

    def bounds(self, query_keys: Tensor, positions: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(B,) first and (B,) one past the last of the first ``positions`` events of each query."""
        start, stop = self._range(query_keys)
        return start, stop if positions is None else torch.minimum(stop, start + positions)

    def _range(self, query_keys: Tensor) -> tuple[Tensor, Tensor]:
        key = query_keys.clamp(min=0)
        start = self.offsets.index_select(0, key)
        return start, torch.where(query_keys < 0, start, self.offsets.index_select(0, key + 1))


@dataclass(frozen=True)
class HistoryColumn:
    """The encoded column of a query's earlier items: one code path for training, evaluation and serving.

    With ``elapsed`` a second column says how long each event was the last one known, see `elapsed_index`:
    until the query's next event, and for the last one until the request.
    """

    name: str
    history: History
    item_index: Tensor  # (n_items,) int64: vocabulary index of each item key
    max_length: int
    elapsed: bool = False

    @cached_property
    def _encoded(self) -> History:
        return replace(self.history, items=self.item_index[self.history.items])

    @cached_property
    def _elapsed(self) -> History:
        """In the items' place: the index of the time until the same query's next event."""
        h = self.history
        until = elapsed_index(h.times.diff(append=h.times[-1:]).double())
        until[h.offsets[1:][h.lengths > 0] - 1] = UNKNOWN
        return replace(h, items=until)

    def column(self, query_keys: Tensor, positions: Tensor | None = None) -> Tensor:
        """(B, max_length) vocabulary indices, oldest first, padded on the right; see `History.before`."""
        return self._encoded.before(query_keys, positions, self.max_length, fill=PAD)

    def window(self, starts: Tensor, lengths: Tensor, width: int) -> Batch:
        """The columns of stretches of the event list, (B, width) each; see `History.window`."""
        columns = Batch({self.name: self._encoded.window(starts, lengths, width, fill=PAD)})
        if self.elapsed:
            columns[elapsed_name(self.name)] = self._elapsed.window(starts, lengths, width, fill=PAD)
        return columns

    def join(
        self, query: Batch, query_keys: Tensor, positions: Tensor | None = None, times: Tensor | None = None
    ) -> Batch:
        """The encoded queries with this column beside the others; ``times`` (B,) is when each is asked."""
        columns = Batch({self.name: self.column(query_keys, positions)})
        if self.elapsed:
            columns[elapsed_name(self.name)] = self._until(query_keys, positions, times)
        return query.join(columns)

    def _until(self, query_keys: Tensor, positions: Tensor | None, times: Tensor | None) -> Tensor:
        """(B, max_length) as `elapsed_index`; the last event's until the request, unknown without it."""
        until = self._elapsed.before(query_keys, positions, self.max_length, fill=PAD)
        if until.shape[1] == 0 or not len(self.history):
            return until
        start, stop = self.history.bounds(query_keys, positions)
        last = torch.full_like(stop, UNKNOWN)
        if times is not None:
            last = elapsed_index(times.double() - self.history.times[(stop - 1).clamp(min=0)].double())
        place = ((stop - start).clamp(max=self.max_length) - 1).clamp(min=0)[:, None]
        return until.scatter(1, place, torch.where(stop > start, last, PAD)[:, None])
