"""What earlier stages knew of a pair (scores, ranks) as one more field of a ranker."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from twotower.nn.cost import linear_flops
from twotower.nn.mlp import RowNorm


class PairField(nn.Module):
    """Pair fields are standardised with running statistics and enter twice: as one more field vector, and
    with a weight of their own on the score.

    A ranker that zeroes its last layer therefore starts from the order it was handed, and can only be argued
    away from it.
    """

    def __init__(self, fields: int, embedding: int) -> None:
        super().__init__()
        self.norm = RowNorm(fields)
        self.vector = nn.Linear(fields, embedding)
        self.weight = nn.Parameter(torch.ones(fields))

    def forward(self, columns: Tensor) -> tuple[Tensor, Tensor]:
        """(Q, K, P) -> the field vector (Q, K, E) and the share of the score (Q, K)."""
        known = self.norm(columns)
        return self.vector(known), (known @ self.weight[:, None]).squeeze(-1)

    @property
    def flops(self) -> int:
        """FLOPs per pair."""
        return linear_flops(self.vector) + 2 * len(self.weight)
