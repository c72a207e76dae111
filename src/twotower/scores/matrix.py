"""The matrix of similarities between a query's and an item's tokens, read piece by piece.

(Q, K, Lq, Ld) numbers are far too many to hold at once, and what a model reads off them (kernel sums, a
histogram, a pooled image) is small. So pairs go chunk by chunk; where gradients are needed the chunks are
computed again on the way back, and memory holds one chunk whatever the number of pairs.

Letters: Q queries, C shared or K own candidates, q and k those of a chunk, Lq and Ld token places of a query
and of an item, D vector length.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from twotower.errors import ConfigError
from twotower.scores.base import is_own

Read = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(q, k, Lq, Ld) similarities and which tokens are real, (q, 1, Lq) and (q or 1, k, Ld) -> (q, k, ...)."""

FLOATS_AT_ONCE = 2**22
"""Numbers that a chunk may hold: 16 MiB."""


def similarity_matrix(query: Tensor, item: Tensor) -> Tensor:
    """Inner products of all tokens: (Q, Lq, D) with (C, Ld, D) or (Q, K, Ld, D) -> (Q, C or K, Lq, Ld).

    >>> query = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
    >>> similarity_matrix(query, torch.tensor([[[2.0, 3.0], [4.0, 5.0]]]))
    tensor([[[[2., 4.],
              [3., 5.]]]])
    """
    if is_own(query, item):
        Q, K, Ld, D = item.shape
        wide = query @ item.reshape(Q, K * Ld, D).mT  # one product per query, not one per pair
        return wide.view(Q, query.shape[1], K, Ld).transpose(1, 2)
    (Q, Lq, D), (C, Ld, _) = query.shape, item.shape
    wide = query.reshape(Q * Lq, D) @ item.reshape(C * Ld, D).T
    return wide.view(Q, Lq, C, Ld).transpose(1, 2)


def read_matrix(
    query: Tensor,
    query_length: Tensor,
    item: Tensor,
    item_length: Tensor,
    read: Read,
    *,
    per_cell: int = 1,
) -> Tensor:
    """What ``read`` makes of every pair's similarities, (Q, C or K, ...).

    ``query`` (Q, Lq, D), of which row q has ``query_length`` (Q,) tokens; ``item`` and ``item_length`` are
    shared, (C, Ld, D) and (C,), or own, (Q, K, Ld, D) and (Q, K). What stands behind a length is never real,
    and ``read`` is told so. ``per_cell`` is how many floats ``read`` holds for one cell of the matrix.

    Raises
    ------
    ConfigError
        The shapes fit neither layout, or the lengths are not those of the tokens.
    """
    own = is_own(query, item)
    if query_length.shape != query.shape[:-2] or item_length.shape != item.shape[:-2]:
        raise ConfigError(
            f"tokens {tuple(query.shape)} and {tuple(item.shape)} need lengths {tuple(query.shape[:-2])} and "
            f"{tuple(item.shape[:-2])}; found {tuple(query_length.shape)} and {tuple(item_length.shape)}"
        )
    Q, K = len(query), item.shape[-3]
    query_real = real_places(query_length, query.shape[-2]).unsqueeze(1)  # (Q, 1, Lq)
    item_real = real_places(item_length, item.shape[-2])
    item_real = item_real if own else item_real.unsqueeze(0)  # (Q or 1, K, Ld)

    def piece(rows: slice, columns: slice) -> Tensor:
        tokens = item[rows, columns] if own else item[columns]
        known = item_real[rows, columns] if own else item_real[:, columns]
        return read(similarity_matrix(query[rows], tokens), query_real[rows], known)

    cells = query.shape[-2] * item.shape[-2] * per_cell
    some_rows = max(1, min(Q, FLOATS_AT_ONCE // max(1, K * cells)))
    some_columns = max(1, min(K, FLOATS_AT_ONCE // max(1, cells)))
    if some_rows >= Q and some_columns >= K:
        return piece(slice(None), slice(None))
    again = torch.is_grad_enabled()
    bands = []
    for row in range(0, Q, some_rows):
        rows = slice(row, row + some_rows)
        places = [slice(column, column + some_columns) for column in range(0, K, some_columns)]
        parts = [
            checkpoint(piece, rows, columns, use_reentrant=False) if again else piece(rows, columns)
            for columns in places
        ]
        bands.append(torch.cat(parts, dim=1))
    return torch.cat(bands)


def real_places(length: Tensor, width: int) -> Tensor:
    """(..., width) bool: true at the places that hold a token.

    >>> real_places(torch.tensor([2, 0]), 3)
    tensor([[ True,  True, False],
            [False, False, False]])
    """
    return torch.arange(width, device=length.device) < length.unsqueeze(-1)
