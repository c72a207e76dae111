"""Scoring the whole catalogue in chunks, and the exact best k of it.

Q queries, N items, c items of a chunk. Equal scores stand in the order of rising keys, so the result does not
depend on the chunks. Minus infinity means 'no candidate' and is never returned.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from twotower.errors import ConfigError
from twotower.scores.dot import dot
from twotower.types import NO_ITEM, Candidates, Ragged

ScoreChunk = Callable[[int, int], Tensor]
"""Scores of items start .. stop - 1 for all queries: (Q, stop - start)."""

BLOCK = 64
"""Items whose maximum stands for them while looking for the best; a few cache lines of scores."""
ITEMS_AT_ONCE = 2**17
"""Items that one chunk should reach, before more queries join the round."""


def top_k(
    query: Tensor,
    item: Tensor,
    k: int,
    *,
    exclude: Ragged | None = None,
    mask: Tensor | None = None,
    memory_mb: float = 32.0,
) -> Candidates:
    """The k items of highest inner product for each query; keys are the rows of ``item``.

    ``query`` (Q, D); ``item`` (N, D); ``exclude`` holds the keys each query may not get (Q lists); ``mask``
    (N,) bool is false for items nobody may get; ``memory_mb`` bounds the scores held at once. Where fewer
    than k items are left, the tail is `NO_ITEM` with minus infinity.

    >>> item = torch.tensor([[1.0], [3.0], [2.0], [3.0]])
    >>> top_k(torch.tensor([[1.0]]), item, k=3, exclude=Ragged.of([[0]])).keys
    tensor([[1, 3, 2]])
    """
    n_items = len(item)
    step = _queries_at_once(len(query), n_items, memory_mb)
    parts = []
    for start in range(0, max(1, len(query)), step):
        rows = query[start : start + step]
        banned = None
        if exclude is not None:
            banned = exclude.take(torch.arange(start, start + len(rows), device=exclude.offsets.device))

        def score(first: int, last: int, rows: Tensor = rows) -> Tensor:
            return dot(rows, item[first:last], None if mask is None else mask[first:last])

        parts.append(top_k_of(score, len(rows), n_items, k, exclude=banned, memory_mb=memory_mb, fresh=True))
    return Candidates(torch.cat([p.keys for p in parts]), torch.cat([p.scores for p in parts]))


def top_k_of(
    score: ScoreChunk,
    n_queries: int,
    n_items: int,
    k: int,
    *,
    exclude: Ragged | None = None,
    memory_mb: float = 32.0,
    fresh: bool = False,
) -> Candidates:
    """The k best of all items by any scorer: ``score(start, stop)`` gives (Q, stop - start).

    As `top_k` otherwise. Scores are compared in float32; NaN is no candidate. A chunk takes about
    ``memory_mb`` of scores; what the scorer needs beside them is its own affair, so heavy scorers are given a
    smaller budget. ``fresh`` says that nobody else holds the tensors ``score`` returns, so exclusions are
    written into them uncopied.

    Raises
    ------
    ConfigError
        k below 1, as many lists in ``exclude`` as there are not queries, or scores of a wrong shape.

    >>> popularity = torch.tensor([[5.0, 9.0, 5.0]])
    >>> top_k_of(lambda start, stop: popularity[:, start:stop], 1, 3, k=2).keys
    tensor([[1, 0]])
    """
    if k < 1:
        raise ConfigError(f"k must be at least 1, found {k}")
    if exclude is not None and len(exclude) != n_queries:
        raise ConfigError(f"exclude holds {len(exclude)} lists for {n_queries} queries")
    banned_row = None if exclude is None else exclude.row_of_value()
    best: Candidates | None = None
    for start, stop in chunks(n_queries, n_items, memory_mb):
        scores = score(start, stop).detach().float()
        if scores.shape != (n_queries, stop - start):
            raise ConfigError(
                f"the scorer gave {tuple(scores.shape)} for items {start} to {stop}, "
                f"expected {(n_queries, stop - start)}"
            )
        if exclude is not None and banned_row is not None:
            here = (exclude.values >= start) & (exclude.values < stop)
            scores = scores if fresh else scores.clone()
            scores[banned_row[here], exclude.values[here] - start] = -torch.inf
        columns = _best_columns(scores, k)
        values = scores.gather(1, columns)
        if values.isnan().any():  # it would stand first in a chunk, and last among several
            scores = scores.masked_fill(scores.isnan(), -torch.inf)
            columns = _best_columns(scores, k)
            values = scores.gather(1, columns)
        keys = (columns + start).masked_fill(values == -torch.inf, NO_ITEM)
        if best is not None:
            keys, values = torch.cat([best.keys, keys], 1), torch.cat([best.scores, values], 1)
        best = Candidates(keys, values).sorted().best(k)
    if best is None:
        best = Candidates(torch.zeros(n_queries, 0, dtype=torch.int64), torch.zeros(n_queries, 0))
    missing = (0, k - best.keys.shape[1])
    pad = torch.nn.functional.pad
    return Candidates(pad(best.keys, missing, value=NO_ITEM), pad(best.scores, missing, value=-torch.inf))


def chunks(n_queries: int, n_items: int, memory_mb: float) -> list[tuple[int, int]]:
    """Item ranges such that (Q, c) float32 scores stay within the budget, of nearly equal length.

    >>> chunks(n_queries=2**20, n_items=10, memory_mb=16.0)
    [(0, 4), (4, 8), (8, 10)]
    """
    size = max(1, int(memory_mb * 2**20) // (4 * max(1, n_queries)))
    return [(start, min(start + size, n_items)) for start in range(0, n_items, size)]


def _queries_at_once(n_queries: int, n_items: int, memory_mb: float) -> int:
    """Queries per round: few, so that a chunk holds many items and there is little to merge."""
    return max(1, min(n_queries, int(memory_mb * 2**20) // (4 * min(max(1, n_items), ITEMS_AT_ONCE))))


def _best_columns(scores: Tensor, k: int) -> Tensor:
    """Columns (Q, min(k, c)) of each row's best scores, ties to the lower column; in no stated order.

    Looks at the maxima of blocks first: the best k + 1 values lie in the k + 1 blocks with the highest
    maxima. Where the last chosen value is unique these are the answer; else the row is settled one by one.
    """
    n_queries, n_columns = scores.shape
    if k >= n_columns:
        return torch.arange(n_columns, device=scores.device).expand(n_queries, n_columns)
    n_blocks = n_columns // BLOCK
    if n_blocks > 4 * (k + 1):
        whole = n_blocks * BLOCK
        blocks = scores[:, :whole].reshape(n_queries, n_blocks, BLOCK)
        chosen = blocks.amax(2).topk(k + 1, dim=1, sorted=False).indices
        within = torch.arange(BLOCK, device=scores.device)
        pool = (chosen[:, :, None] * BLOCK + within).reshape(n_queries, -1)
        rest = torch.arange(whole, n_columns, device=scores.device).expand(n_queries, -1)
        pool = torch.cat([pool, rest], 1)
        top = scores.gather(1, pool).topk(k + 1, dim=1)
        columns = pool.gather(1, top.indices)
    else:
        top = scores.topk(k + 1, dim=1)
        columns = top.indices
    last, next_best = top.values[:, k - 1], top.values[:, k]
    columns = columns[:, :k].clone()
    tied = ((last == next_best) & (last != -torch.inf)).nonzero()[:, 0]
    if len(tied):
        rows, bar = scores[tied], last[tied, None]
        above, equal = rows > bar, rows == bar
        room = k - above.sum(1, keepdim=True)
        taken = above | (equal & (equal.cumsum(1) <= room))
        columns[tied] = taken.nonzero()[:, 1].reshape(len(tied), k)
    return columns
