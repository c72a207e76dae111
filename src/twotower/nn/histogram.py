"""Matching histograms (DRMM, Guo et al., CIKM 2016, section 4.1): hard counts of how a query token is met.

The bins tile [-1, 1) and one more holds exact matches. Counts have no gradient: vectors do not learn
through them.

Letters: Lq and Ld token places of a query and of an item, H bins.
"""

from __future__ import annotations

import torch
from torch import Tensor

EXACT = 0.999
"""From which cosine on two tokens are the same one: 1 up to rounding, in half precision too."""


@torch.no_grad()
def matching_histogram(matrix: Tensor, item_real: Tensor, bins: int) -> Tensor:
    """(..., Lq, Ld) cosines, real places broadcast to (..., Ld) -> (..., Lq, H) counts, exact matches last.

    >>> cosines = torch.tensor([[1.0, 0.2, 0.7, 0.3, -0.1, 0.1]])
    >>> matching_histogram(cosines, torch.ones(6, dtype=torch.bool), bins=5)  # the paper's example
    tensor([[0., 1., 3., 1., 1.]])
    """
    place = ((matrix + 1) * ((bins - 1) / 2)).floor_().clamp_(0, bins - 2)
    place = place.masked_fill_(matrix >= EXACT, bins - 1)
    place = place.masked_fill_(~item_real.unsqueeze(-2), bins)  # one bin more, that nobody reads
    rows = place.flatten(0, -2).long()
    start = torch.arange(len(rows), device=rows.device).unsqueeze(-1) * (bins + 1)
    counts = torch.bincount((rows + start).flatten(), minlength=len(rows) * (bins + 1))
    return counts.view(*matrix.shape[:-1], bins + 1)[..., :bins].to(matrix.dtype)
