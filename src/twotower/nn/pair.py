"""What earlier stages knew of a pair (scores, ranks): a share of the score, one more field of a ranker."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from twotower.nn.cost import linear_flops
from twotower.nn.row_norm import RowNorm


class _Weighed(nn.Module):
    """Pair fields, standardised with running statistics, and a weight of each.

    A model whose own part begins at zero starts from the order they give, and can only be argued away from
    it: the higher the better, but of a rank, a field called ``<stage>_rank``, the lower.
    """

    def __init__(self, fields: Sequence[str]) -> None:
        super().__init__()
        self.norm = RowNorm(len(fields))
        self.weight = nn.Parameter(torch.tensor([-1.0 if f.endswith("_rank") else 1.0 for f in fields]))

    def weighed(self, known: Tensor) -> Tensor:
        """The share of the score (...) that standardised columns (..., P) have."""
        return (known @ self.weight[:, None]).squeeze(-1)

    @property
    def flops(self) -> int:
        """FLOPs per pair."""
        return 2 * len(self.weight)


class PairShare(_Weighed):
    """Pair fields that have a share of the score, and nothing else."""

    def forward(self, columns: Tensor, real: Tensor | None = None) -> Tensor:
        """(..., P) -> (...); pairs that are not ``real`` (...) have no part in the statistics."""
        return self.weighed(self.norm(columns, real))


class PairField(_Weighed):
    """Pair fields that enter twice: as one more field vector, and with their own share of the score."""

    def __init__(self, fields: Sequence[str], embedding: int) -> None:
        super().__init__(fields)
        self.vector = nn.Linear(len(fields), embedding)

    def forward(self, columns: Tensor, real: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """(Q, K, P) -> the field vector (Q, K, E) and the share of the score (Q, K); ``real`` is (Q, K)."""
        known = self.norm(columns, real)
        return self.vector(known), self.weighed(known)

    @property
    def flops(self) -> int:
        """FLOPs per pair."""
        return linear_flops(self.vector) + super().flops
