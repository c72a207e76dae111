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
    found, K = theirs > 0, reference.shape[1]
    own = real.cumsum(1)[real]  # from 1; empty slots stand last
    depth = torch.maximum(theirs, own)[found].clamp(max=K + 1)  # from here on the item is in both
    n = lengths.repeat_interleave(lengths)[found]  # of the item's query
    # an item counts 1 / K at the depths K up to n, and 1 / n behind
    long = depth <= n
    near = torch.bincount(depth[long], minlength=K + 2) - torch.bincount(n[long] + 1, minlength=K + 2)
    far = torch.bincount(torch.maximum(depth, n + 1).clamp(max=K + 1), 1 / n.double(), minlength=K + 2)
    sums = near.cumsum(0)[1:-1] / torch.arange(1, K + 1, dtype=torch.float64) + far.cumsum(0)[1:-1]
    return sums / (lengths > 0).sum()
