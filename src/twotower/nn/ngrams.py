"""N-gram vectors (Conv-KNRM, Dai et al., WSDM 2018, eq. 1): a convolution per length over word vectors.

    g_i^h = relu(W_h [x_i; ...; x_{i + h - 1}] + b_h)                 h = 1 .. H

Letters: N rows, L places, D vector length, H longest n-gram, F filters.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class NGrams(nn.Module):
    """An n-gram of each length begins at every place; behind the last token stand zeros."""

    def __init__(self, dim: int, longest: int, filters: int) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(nn.Conv1d(dim, filters, h) for h in range(1, longest + 1))

    def forward(self, vectors: Tensor, real: Tensor) -> Tensor:
        """(..., L, D) and which places are real (..., L) -> (..., L, H, F), zero where no token is."""
        x = (vectors * real.unsqueeze(-1)).flatten(0, -3).mT  # (N, D, L)
        grams = [
            convolve(functional.pad(x, (0, h))).relu().mT for h, convolve in enumerate(self.convolutions)
        ]
        each = torch.stack(grams, dim=-2)  # (N, L, H, F)
        return each.view(*real.shape, *each.shape[2:]) * real[..., None, None]
