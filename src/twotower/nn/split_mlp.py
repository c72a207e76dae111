"""A deep network over [query; item; pair] whose first layer is computed apart for each."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from twotower.nn.activation import Activation
from twotower.nn.cost import linear_flops
from twotower.nn.mlp import Norm, behind, mlp
from twotower.nn.split import SplitLinear


class SplitMLP(nn.Module):
    """An MLP whose input arrives in parts: `part` gives a part's share of the first layer, `forward` takes
    the sum of all shares through the rest.

    >>> import torch
    >>> network = SplitMLP((3, 2), (8, 4))
    >>> q, i = torch.ones(3), torch.ones(2)
    >>> network(network.part(0, q) + network.part(1, i)).shape
    torch.Size([4])
    """

    def __init__(
        self,
        sizes: Sequence[int],
        layers: Sequence[int],
        *,
        norm: Norm = "none",
        dropout: float = 0.0,
        bend: Activation = "relu",
    ) -> None:
        super().__init__()
        self.first = SplitLinear(sizes, layers[0])
        self.rest = nn.Sequential(
            *behind(layers[0], norm=norm, dropout=dropout, bend=bend),
            *mlp(layers, norm=norm, dropout=dropout, bend=bend),
        )

    def part(self, which: int, x: Tensor) -> Tensor:
        """(..., size of the part) -> (..., width of the first layer); the bias goes with part 0."""
        return self.first.part(which, x)

    def forward(self, shares: Tensor) -> Tensor:
        """(..., width of the first layer) -> (..., width of the last)."""
        out: Tensor = self.rest(shares)
        return out

    def part_flops(self, which: int) -> int:
        """FLOPs of one row of part ``which``."""
        return self.first.flops(which)

    @property
    def rest_flops(self) -> int:
        """FLOPs of one row behind the first layer."""
        return linear_flops(self.rest)
