"""Dropout whose mask is drawn in bits: on a CPU, PyTorch's own is a quarter of what training a tower costs.

Srivastava et al. 2014, inverted: what is kept grows by 1 / (1 - p). PyTorch draws one Bernoulli number per
entry, here each 64 random bits decide four entries, so p is a multiple of 1/65536.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

_LEVELS = 1 << 16


class Dropout(nn.Module):
    """In training each entry is zero with probability ``p``; otherwise the input as it is."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        return dropout(x, self.p, self.training)

    def extra_repr(self) -> str:
        return f"p={self.p}"


def dropout(x: Tensor, p: float, training: bool) -> Tensor:
    """Any shape; ``p`` in [0, 1). Accelerators draw masks fast themselves."""
    if not training or p == 0:
        return x
    if x.device.type != "cpu":
        return functional.dropout(x, p)
    dropped = min(round(p * _LEVELS), _LEVELS - 1)
    kept = _draw(x.numel()) >= dropped - _LEVELS // 2
    return x * kept.view(x.shape).to(x.dtype).mul_(_LEVELS / (_LEVELS - dropped))


def _draw(n: int) -> Tensor:
    """(n,) int16, uniform over all 65536 values."""
    bits = torch.empty((n + 3) // 4, dtype=torch.int64).random_(-(1 << 63), None)
    return bits.view(torch.int16)[:n]
