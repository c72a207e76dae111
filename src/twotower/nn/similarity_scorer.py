"""A small network reads a score off the similarities of all heads: the scorer of FIT (SIGIR 2025) and, over
tokens, LITE (Ji et al., 2024). Enough hidden units approximate any continuous function of the matrix.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class SimilarityScorer(nn.Module):
    """S (G, H) cosines of G query and H item heads -> rows: FC, ReLU -> columns: FC, ReLU -> linear.

    The cosines are multiplied by a learned scale, which starts at ``scale``: inputs much smaller than one
    would leave the score to the layers' offsets, and the heads without a gradient.
    """

    def __init__(self, query_heads: int, item_heads: int, hidden: int, scale: float) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor(math.log(scale)))
        self.rows = nn.Linear(item_heads, hidden)
        self.columns = nn.Linear(query_heads, hidden)
        self.out = nn.Linear(hidden * hidden, 1)

    def forward(self, similarity: Tensor) -> Tensor:
        """(..., G, H) -> (...)."""
        x = self.rows(similarity * self.log_scale.exp()).relu()  # (..., G, hidden)
        x = self.columns(x.transpose(-1, -2)).relu()  # (..., hidden, hidden)
        score: Tensor = self.out(x.flatten(-2)).squeeze(-1)
        return score

    @property
    def flops(self) -> int:
        """FLOPs per pair."""
        G, H, hidden = self.columns.in_features, self.rows.in_features, self.out.in_features
        return 2 * (G * H * self.rows.out_features + G * hidden + hidden)
