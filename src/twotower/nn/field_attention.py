"""Multi-head self-attention across fields (AutoInt, Song et al., CIKM 2019, eq. 5-8).

    a_h(m, k) = softmax_k <Q_h e_m, K_h e_k>,   e'_m = relu([sum_k a_h(m, k) V_h e_k]_h + R e_m)

No scale, no bias, no dropout, as in the paper. Q, K, V and R see one field at a time: for fields that are
known ahead so are their projections.

Letters: F fields, E embedding, H heads, D = width of a head.
"""

from __future__ import annotations

from torch import Tensor, nn

from twotower.nn.cost import linear_flops


class FieldAttention(nn.Module):
    """`project` sees fields one by one, `attend` mixes them; a forward pass is one after the other."""

    def __init__(self, inside: int, heads: int, dim: int) -> None:
        super().__init__()
        self.heads, self.dim = heads, dim
        self.width = heads * dim
        """Floats of a field behind the layer."""
        self.projections = nn.Linear(inside, 4 * self.width, bias=False)  # Q, K, V and R

    def project(self, fields: Tensor) -> Tensor:
        """(..., F, E) -> (..., F, 4 H D): queries, keys, values and residuals side by side."""
        out: Tensor = self.projections(fields)
        return out

    def attend(self, projected: Tensor) -> Tensor:
        """(..., F, 4 H D) -> (..., F, H D)"""
        *rest, residual = projected.chunk(4, dim=-1)
        query, key, value = (
            x.reshape(*x.shape[:-1], self.heads, self.dim).transpose(-2, -3) for x in rest
        )  # each (..., H, F, D)
        mixed = (query @ key.mT).softmax(-1) @ value
        return (mixed.transpose(-2, -3).flatten(-2) + residual).relu()

    def forward(self, fields: Tensor) -> Tensor:
        """(..., F, E) -> (..., F, H D)"""
        return self.attend(self.project(fields))

    def project_flops(self, fields: int) -> int:
        """FLOPs of `project` for so many fields."""
        return fields * linear_flops(self.projections)

    def attend_flops(self, fields: int) -> int:
        """FLOPs of `attend` across so many fields."""
        return 4 * fields * fields * self.width
