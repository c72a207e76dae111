"""Cross layers of DCN-V2 (Wang et al., WWW 2021, eq. 1): x_{l+1} = x_0 * (W_l x_l + b_l) + x_l."""

from __future__ import annotations

from torch import Tensor, nn


class CrossLayer(nn.Module):
    """One cross layer; ``rank`` > 0 replaces W by U V with U (D, rank) and V (rank, D)."""

    def __init__(self, dim: int, rank: int = 0) -> None:
        super().__init__()
        self.linear: nn.Module = (
            nn.Sequential(nn.Linear(dim, rank, bias=False), nn.Linear(rank, dim))
            if rank
            else nn.Linear(dim, dim)
        )

    def forward(self, x0: Tensor, x: Tensor) -> Tensor:
        out: Tensor = x0 * self.linear(x) + x
        return out
