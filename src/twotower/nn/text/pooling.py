"""One vector of a text from the vectors of its tokens."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Pool = Literal["mean", "first", "max"]


def pool(vectors: Tensor, mask: Tensor, how: Pool = "mean") -> Tensor:
    """(N, L, D) vectors and their (N, L) mask -> (N, D); a text without tokens is zero.

    >>> vectors = torch.tensor([[[1.0, 8.0], [3.0, 2.0], [9.0, 9.0]]])
    >>> mask = torch.tensor([[True, True, False]])
    >>> [pool(vectors, mask, how).tolist() for how in ("mean", "first", "max")]
    [[[2.0, 5.0]], [[1.0, 8.0]], [[3.0, 8.0]]]
    """
    real = mask.unsqueeze(-1)
    match how:
        case "mean":
            return vectors.masked_fill(~real, 0.0).sum(1) / real.sum(1).clamp(min=1)
        case "first":
            return vectors[:, 0].masked_fill(~real[:, 0], 0.0)
        case "max":
            top = vectors.masked_fill(~real, -torch.inf).amax(1)
            return top.masked_fill(~mask.any(1, keepdim=True), 0.0)
