"""Batch normalisation that minds neither single rows nor gaps. D vector length."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional


class BatchNorm(nn.BatchNorm1d):
    """`torch.nn.BatchNorm1d`, but a batch of one row, which has no spread, goes by the running statistics."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, D) -> (N, D)"""
        if self.training and len(x) < 2:
            still = (self.running_mean, self.running_var, self.weight, self.bias)
            return functional.batch_norm(x, *still, training=False, eps=self.eps)
        out: Tensor = super().forward(x)
        return out


class RowNorm(nn.Module):
    """Batch normalisation over all leading axes, so that (Q, K, D) candidates are Q x K rows."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = BatchNorm(dim)

    def forward(self, x: Tensor, real: Tensor | None = None) -> Tensor:
        """(..., D) -> (..., D); in training, rows that are not ``real`` (...) do not count and become 0."""
        if real is None or not self.training:
            rows: Tensor = self.norm(x.reshape(-1, x.shape[-1]))
            return rows.reshape(x.shape)
        real = real.expand(x.shape[:-1])
        rows = self.norm(x[real])
        return rows.new_zeros(x.shape).index_put((real,), rows)
