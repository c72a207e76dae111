"""MatchPyramid (Pang et al., "Text Matching as Image Recognition", AAAI 2016; for search, "A Study of
MatchPyramid Models on Ad-hoc Retrieval", Neu-IR 2016).

    M_ij = cos(q_i, d_j)                                       an image, one pixel per pair of tokens
    Z = relu(convolutions(M)) -> dynamic max pooling to a fixed grid -> MLP -> score

Convolutions read zeros beyond the last real token, as if the image ended there, so padding changes nothing.

Differs from the paper: convolutions come before the one pooling (the paper's first figure convolves and pools
again behind it; its study for search found one of each best, the default here).

Letters: q queries and k candidates of a chunk, N = q k pairs, Lq and Ld token places, F channels, P x R grid.
"""

from __future__ import annotations

import math
from itertools import pairwise

from pydantic import Field as Option
from torch import Tensor, nn
from torch.nn import functional

from twotower.data.spec import FeatureSpec
from twotower.models.matrix_ranker import MatrixConfig, MatrixRanker
from twotower.nn.cost import linear_flops
from twotower.nn.dynamic_pooling import dynamic_max_pool
from twotower.nn.mlp import mlp
from twotower.types import Rep


class MatchPyramidConfig(MatrixConfig):
    channels: tuple[int, ...] = Option((8,), min_length=1, description="of each convolution")
    kernel: tuple[int, int] = Option((3, 3), description="query tokens x item tokens that a pixel sees")
    grid: tuple[int, int] = Option((3, 10), description="cells that the image is pooled to")
    layers: tuple[int, ...] = Option((32,), description="hidden layers over the pooled image")
    dropout: float = Option(0.0, ge=0, lt=1, description="behind each of them")


class MatchPyramid(MatrixRanker):
    config: MatchPyramidConfig

    def __init__(self, spec: FeatureSpec, config: MatchPyramidConfig) -> None:
        super().__init__(spec, config)
        sizes = [1, *config.channels]
        self.convolutions = nn.ModuleList(
            nn.Conv2d(inside, outside, config.kernel) for inside, outside in pairwise(sizes)
        )
        self.pooled = config.channels[-1] * math.prod(config.grid)
        widths = [self.pooled, *config.layers]
        last = nn.Linear(widths[-1], 1)
        self.network = nn.Sequential(*mlp(widths, dropout=config.dropout), last)
        self.start_from_pair(last)

    def read(self, matrix: Tensor, query_real: Tensor, item_real: Tensor) -> Tensor:
        """(q, k, F * P * R): the pooled images."""
        real = query_real.unsqueeze(-1) & item_real.unsqueeze(-2)  # (q, k, Lq, Ld)
        no_rows, no_columns = (int(n == 0) for n in matrix.shape[2:])  # nothing has no maximum
        beyond = (0, no_columns, 0, no_rows)
        inside = functional.pad(real, beyond).flatten(0, 1).unsqueeze(1)  # (N, 1, Lq, Ld)
        images = functional.pad(matrix, beyond).flatten(0, 1).unsqueeze(1) * inside
        a, b = self.config.kernel
        around = ((b - 1) // 2, b // 2, (a - 1) // 2, a // 2)  # an image keeps its size
        for convolve in self.convolutions:
            images = convolve(functional.pad(images, around)).relu() * inside
        rows, columns = (part.sum(-1).expand(matrix.shape[:2]).flatten() for part in (query_real, item_real))
        pooled = dynamic_max_pool(images, rows, columns, self.config.grid)
        return pooled.view(*matrix.shape[:2], self.pooled)

    def judge(self, features: Tensor, query: Rep) -> Tensor:
        scores: Tensor = self.network(features).squeeze(-1)
        return scores

    @property
    def judge_flops(self) -> int:
        cells = self.lists.query_width * self.lists.item_width
        sizes = pairwise([1, *self.config.channels])
        convolutions = sum(2 * cells * a * b * math.prod(self.config.kernel) for a, b in sizes)
        return convolutions + linear_flops(self.network)

    @property
    def per_cell(self) -> int:
        return 4 * max(self.config.channels)
