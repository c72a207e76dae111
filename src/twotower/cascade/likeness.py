"""How alike the candidates of one list are, from 0 (nothing in common) to 1 (the same).

Letters: Q queries, K candidates of a query, D vector length, W width of a bag.

Both kinds are a positive semi-definite matrix (K, K) per query, as a DPP needs. It is asked row by row and
never made: choosing k of K candidates reads k rows. All is float64, as a determinant of similar items is a
small difference of large numbers.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from twotower.errors import DataError
from twotower.types import UNKNOWN

Likeness = Callable[[Tensor], Tensor]
"""One column per query, (Q,) int64, to its likeness with every candidate of the query, (Q, K) float64."""


def by_angle(vectors: Tensor) -> Likeness:
    """(1 + cosine) / 2 of vectors (Q, K, D): 1 for one direction, 0 for opposite ones.

    A determinant takes opposite vectors for the same; moved into [0, 1] they are what they should be, the
    least alike (Chen, Zhang and Zhou, NeurIPS 2018, on the kernel). For MMR it is the cosine on another
    scale. A vector of zeros is like everything by one half.

    Raises
    ------
    DataError
        A vector holds NaN or infinity.

    >>> by_angle(torch.tensor([[[2.0, 0.0], [0.0, 1.0], [-3.0, 0.0]]]))(torch.tensor([0])).tolist()
    [[1.0, 0.5, 0.0]]
    """
    vectors = vectors.double()
    norm: Tensor = torch.linalg.vector_norm(vectors, dim=-1, keepdim=True)
    if not bool(norm.isfinite().all()):
        raise DataError("an item vector holds NaN or infinity", remedy="look at the model that made it")
    unit = vectors / norm.clamp_min(torch.finfo(torch.float64).tiny)
    rows = torch.arange(len(unit), device=unit.device)

    def row(column: Tensor) -> Tensor:
        cosine: Tensor = (unit @ unit[rows, column, :, None])[..., 0]
        return (1 + cosine) / 2

    return row


def by_values(codes: Tensor) -> Likeness:
    """Cosine of two bags of values, (Q, K) or (Q, K, W) vocabulary indices: |A and B| / sqrt(|A| |B|).

    Padding and unknown values are no values: an item without any is like none.

    >>> genres = torch.tensor([[[2, 3], [3, 0], [4, 5], [1, 0]]])
    >>> by_values(genres)(torch.tensor([0])).round(decimals=2).tolist()
    [[1.0, 0.71, 0.0, 0.0]]
    """
    codes = codes[..., None] if codes.dim() == 2 else codes.flatten(2)
    norm = _in_common(codes, codes).sqrt()
    rows = torch.arange(len(codes), device=codes.device)

    def row(column: Tensor) -> Tensor:
        common = _in_common(codes, codes[rows, column, None])
        return common / (norm * norm[rows, column, None]).clamp_min(1)

    return row


def _in_common(a: Tensor, b: Tensor) -> Tensor:
    """(Q, K) pairs of equal values; a value that a bag holds twice counts twice, as in its vector."""
    equal = (a[..., :, None] == b[..., None, :]) & (a[..., :, None] > UNKNOWN)
    return equal.sum((-2, -1)).double()
