"""How far two neighbouring stages agree on what is best, at every depth.

Shape letters: Q queries, K candidates of one query.
"""

from __future__ import annotations

import torch
from torch import Tensor

from twotower.metrics.ranking import relevant_ranks
from twotower.types import NO_ITEM, Ragged


def overlap_by_depth(keys: Tensor, reference: Tensor) -> Tensor:
    """Overlap@1, @2, ... @K of two orders, mean over queries: `twotower.metrics.funnel.overlap` at once.

    ``keys`` (Q, K') and ``reference`` (Q, K) hold item keys, best first, -1 for an empty slot; the reference
    is the later stage. Where it has fewer than a depth asks, its own number is the denominator; queries for
    which it has nothing do not count. Returns (K,) float64, NaN everywhere when no query counts.

    >>> overlap_by_depth(torch.tensor([[1, 2, 3, 4]]), torch.tensor([[2, 1, 4]])).tolist()
    [0.0, 1.0, 0.666666666666...]
    """
    real = (reference != NO_ITEM).cpu()
    lengths = real.sum(1)
    offsets = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
    theirs = relevant_ranks(keys, Ragged(reference.cpu()[real], offsets))
    own = real.cumsum(1)[real]  # from 1; empty slots stand last
    row = torch.arange(len(real))[:, None].expand_as(real)[real]
    depth = torch.maximum(theirs, own)[theirs > 0]  # from this depth on the item is in both
    Q, K = reference.shape
    inside = depth <= K
    cell = row[theirs > 0][inside] * K + depth[inside] - 1
    common = torch.bincount(cell, minlength=Q * K).view(Q, K).cumsum(1)
    wanted = torch.minimum(torch.arange(1, K + 1), lengths[:, None])
    values: Tensor = (common.double() / wanted)[lengths > 0].mean(0)
    return values
