"""Kernel pooling (KNRM, Xiong et al., SIGIR 2017, eq. 3-5): soft counts of how well each query token is met.

    K_k(i) = sum_j exp(-(M_ij - mu_k)^2 / (2 sigma_k^2))           phi_k = sum_i log K_k(i)

One narrow kernel at 1 counts exact matches, the others tile [-1, 1].

Letters: Lq and Ld token places of a query and of an item, K kernels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

FAR = 1e4
"""A similarity that no kernel sees: stands at padding, where 0 would count as 'unrelated'."""
LEAST = 1e-10
"""The least soft count whose logarithm is taken."""
SCALE = 0.01
"""Of the logarithms (the published code's): plain sums of them swamp a layer that starts as layers do."""


class KernelPooling(nn.Module):
    """``kernels`` - 1 kernels of width ``sigma`` in the middle of equal bins of [-1, 1], and the exact one.

    >>> pool = KernelPooling(11)
    >>> [round(mu, 1) for mu in pool.means]
    [1.0, 0.9, 0.7, 0.5, 0.3, 0.1, -0.1, -0.3, -0.5, -0.7, -0.9]
    """

    def __init__(self, kernels: int = 11, sigma: float = 0.1, exact_sigma: float = 1e-3) -> None:
        super().__init__()
        step = 2 / max(1, kernels - 1)
        self.means = (1.0, *(1 - step * (k + 0.5) for k in range(kernels - 1)))
        self.sigmas = (exact_sigma, *[sigma] * (kernels - 1))

    def forward(self, matrix: Tensor, query_real: Tensor, item_real: Tensor) -> Tensor:
        """(..., Lq, Ld) cosines; real places, broadcast to (..., Lq) and (..., Ld) -> (..., K) features.

        No real item token: the logarithm of `LEAST` per query token. No query token: zeros.
        """
        seen = matrix.masked_fill(~item_real.unsqueeze(-2), FAR)
        counts = torch.stack(
            [
                ((seen - mu).square() * (-0.5 / sigma**2)).exp().sum(-1)
                for mu, sigma in zip(self.means, self.sigmas, strict=True)
            ],
            dim=-1,
        )  # (..., Lq, K)
        logs = counts.clamp(min=LEAST).log() * SCALE
        return (logs * query_real.unsqueeze(-1)).sum(-2)
