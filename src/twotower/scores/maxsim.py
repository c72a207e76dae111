"""MaxSim, the late interaction of ColBERT (Khattab & Zaharia, SIGIR 2020, equation 3).

    score(q, d) = sum over the query's tokens of the largest inner product with any of the document's tokens

Letters: Q queries of Lq tokens, C shared or K own documents of Ld tokens, N tokens of packed documents, D
vector length.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from twotower.scores.base import apply_mask, is_own
from twotower.types import Ragged

MEMORY_MB = 2.0
"""Inner products held at once: few enough to stay in the processor's cache until their largest is taken."""


def maxsim(
    query: Tensor,
    item: Tensor,
    mask: Tensor | None = None,
    *,
    query_mask: Tensor | None = None,
    item_mask: Tensor | None = None,
    empty: float = -torch.inf,
    memory_mb: float = MEMORY_MB,
) -> Tensor:
    """Query tokens (Q, Lq, D) with shared (C, Ld, D) -> (Q, C), or own (Q, K, Ld, D) -> (Q, K) documents.

    Parameters
    ----------
    query_mask
        (Q, Lq) bool: tokens that are real; the others add nothing.
    item_mask
        (C, Ld) or (Q, K, Ld) bool: tokens that are real; the others are never the largest, though all real
        similarities be negative.
    empty
        Score of a document without a token, whatever the query.
    memory_mb
        Bound on the inner products held at once. Where gradients are needed it bounds what one step
        computes, and what stays for the way back is the place of each largest one.

    >>> query = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
    >>> items = torch.tensor([[[5.0, -1.0], [2.0, 3.0]], [[-2.0, -3.0], [0.0, 0.0]]])
    >>> maxsim(query, items)  # 5 + 3, and 0 + 0
    tensor([[8., 0.]])
    >>> maxsim(query, items, item_mask=torch.tensor([[True, True], [True, False]]))  # -2 - 3
    tensor([[ 8., -5.]])
    """
    own = is_own(query, item)
    (Q, Lq, _), (C, Ld) = query.shape, item.shape[-3:-1]
    if not Ld or not C or not Q:
        return apply_mask(query.new_full((Q, C), empty), mask)
    rows = max(1, min(Q, _floats(memory_mb) // max(1, Lq * Ld)))
    columns = max(1, _floats(memory_mb) // max(1, rows * Lq * Ld))
    parts = []
    for start in range(0, Q, rows):
        asking = query[start : start + rows]
        part = []
        for first in range(0, C, columns):
            # of own documents those of these queries
            place = (slice(start, start + rows),) * own + (slice(first, first + columns),)
            part.append(_largest(asking, item[place], None if item_mask is None else item_mask[place]))
        largest = torch.cat(part, 1)  # (rows, C, Lq)
        if query_mask is not None:
            largest = largest.masked_fill(~query_mask[start : start + rows, None], 0)
        parts.append(largest.sum(-1))
    scores = torch.cat(parts)
    if item_mask is not None:
        scores = scores.masked_fill(~item_mask.any(-1), empty)
    return apply_mask(scores, mask)


def maxsim_packed(
    query: Tensor,
    items: Ragged,
    *,
    empty: float = -torch.inf,
    floor: Tensor | None = None,
    memory_mb: float = MEMORY_MB,
) -> Tensor:
    """Query tokens (Q, Lq, D) with all documents, packed as (N, D) float32 without padding -> (Q, C).

    As `maxsim`, without gradients, on the CPU. A query's padding is zero vectors, which add nothing. With a
    ``floor`` (Q, Lq) that is what a query token finds at least in every document, one without tokens
    included.

    >>> items = Ragged(torch.tensor([[5.0, -1.0], [2.0, 3.0], [-2.0, -3.0]]), torch.tensor([0, 2, 2, 3]))
    >>> maxsim_packed(torch.tensor([[[1.0, 0.0], [0.0, 1.0]]]), items).tolist()
    [[8.0, -inf, -5.0]]
    """
    (Q, Lq, D), C = query.shape, len(items)
    scores = torch.full((Q, C), empty) if floor is None else floor.sum(1, keepdim=True).repeat(1, C)
    there = items.lengths.nonzero()[:, 0]
    if not len(there) or not Q:
        return scores
    starts = items.offsets[there]
    flat = query.detach().reshape(Q * Lq, D)
    bounds = _cuts(items.offsets[there + 1], max(1, _floats(memory_mb) // max(1, Q * Lq)))
    out = np.empty((Q, len(there)), dtype=np.float32)
    for first, last in pairwise(bounds):
        begin, end = int(starts[first]), int(items.offsets[there[last - 1] + 1])
        inner = (flat @ items.values[begin:end].T).numpy()  # (Q * Lq, n), each document a run of columns
        best = np.maximum.reduceat(inner, (starts[first:last] - begin).numpy(), axis=1)
        if floor is not None:
            best = np.maximum(best, floor.reshape(-1, 1).numpy())
        best.reshape(Q, Lq, last - first).sum(1, out=out[:, first:last])
    scores[:, there] = torch.from_numpy(out)
    return scores


def _largest(query: Tensor, item: Tensor, item_mask: Tensor | None) -> Tensor:
    """Of each query token the largest inner product, (q, Lq, D) with (c, Ld, D) or (q, c, Ld, D) ->
    (q, c, Lq)."""
    q, Lq, _ = query.shape
    c, Ld, D = item.shape[-3:]
    if item.dim() == 4:
        inner = (item.reshape(q, c * Ld, D) @ query.transpose(1, 2)).view(q, c, Ld, Lq)
    else:  # one wide product, the documents' tokens first: the largest is then taken of whole rows
        inner = (item.reshape(c * Ld, D) @ query.reshape(q * Lq, D).T).view(c, Ld, q * Lq)
    if item_mask is not None:
        inner = inner.masked_fill_(~item_mask[..., None], -torch.inf)
    # with gradients only the places are kept for the way back, not all inner products
    best = inner.max(-2).values if inner.requires_grad else inner.amax(-2)
    return best if item.dim() == 4 else best.view(c, q, Lq).transpose(0, 1)


def _cuts(ends: Tensor, tokens: int) -> list[int]:
    """Numbers of documents, from 0 to all, with about ``tokens`` tokens between one and the next.

    >>> _cuts(torch.tensor([3, 6, 9, 30]), 6)
    [0, 2, 3, 4]
    """
    part = (ends - 1) // tokens
    changes = (part.diff() > 0).nonzero()[:, 0] + 1
    return [0, *changes.tolist(), len(ends)]


def _floats(memory_mb: float) -> int:
    return int(memory_mb * 2**20) // 4
