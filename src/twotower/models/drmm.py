"""DRMM (Guo et al., "A Deep Relevance Matching Model for Ad-hoc Retrieval", CIKM 2016).

    h_i = log(1 + counts of cos(q_i, d_j) over bins of [-1, 1), and of exact matches)       (LCH)
    z_i = w . tanh(W h_i + b) + c                              one network for all query tokens
    score = sum_i g_i z_i,  g = softmax over the query's tokens of w idf_i, or of w . x_i

Hard counts have no gradient, so token vectors do not learn: they are what they were made, and stay out of the
optimizer. Frozen random ones tell the same word from another and no more; give ``text`` a pretrained encoder,
or write known vectors into the table, for anything softer. The item table outlives training.

Differs from the paper: log(1 + count), since a count may be 0; no tanh behind the last layer, whose bound of
one would hold back losses that want sure scores.

Letters: q queries and k candidates of a chunk, Q, K, Lq and Ld token places, H bins.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Literal, Self

import torch
from pydantic import Field as Option
from torch import Tensor, nn

from twotower.data.spec import FeatureSpec
from twotower.models.matrix_ranker import MatrixConfig, MatrixRanker
from twotower.nn.cost import linear_flops
from twotower.nn.histogram import matching_histogram
from twotower.nn.term_weight import InverseFrequency, TermVector
from twotower.types import Batch, Rep


class DRMMConfig(MatrixConfig):
    bins: int = Option(30, ge=2, description="of which one counts exact matches")
    layers: tuple[int, ...] = Option((5,), description="hidden layers over a token's histogram")
    gate: Literal["idf", "vector"] = Option("idf", description="how the query's tokens are weighed")


class DRMM(MatrixRanker):
    config: DRMMConfig

    def __init__(self, spec: FeatureSpec, config: DRMMConfig) -> None:
        super().__init__(spec, config)
        self.lists.requires_grad_(False)
        self.gate: nn.Module = (
            InverseFrequency(self.lists.n_terms) if config.gate == "idf" else TermVector(self.lists.dim)
        )
        sizes = [config.bins, *config.layers]
        last = nn.Linear(sizes[-1], 1)
        hidden = [layer for a, b in pairwise(sizes) for layer in (nn.Linear(a, b), nn.Tanh())]
        self.network = nn.Sequential(*hidden, last)
        self.start_from_pair(last)

    def see_items(self, items: Batch) -> None:
        """Learn the terms' document frequencies: ``items`` are the encoded columns of the catalogue."""
        if isinstance(self.gate, InverseFrequency):
            self.gate.see(self.lists.item_terms(items).to(self.device))

    def train(self, mode: bool = True) -> Self:
        """Vectors that do not learn do not drop out either."""
        super().train(mode)
        self.lists.eval()
        return self

    def encode_query(self, query: Batch) -> Rep:
        with torch.no_grad():
            tokens = self.lists.query(query)
        return Rep(self.units(tokens), gate=self.gate(tokens))

    @torch.no_grad()
    def encode_item(self, item: Batch) -> Rep:
        return super().encode_item(item)

    def read(self, matrix: Tensor, query_real: Tensor, item_real: Tensor) -> Tensor:
        """(q, k, Lq, H) histograms of all query tokens."""
        return matching_histogram(matrix, item_real, self.config.bins).log1p()

    def judge(self, features: Tensor, query: Rep) -> Tensor:
        each: Tensor = self.network(features).squeeze(-1)  # (Q, K, Lq)
        return (each * query["gate"].unsqueeze(1)).sum(-1)

    @property
    def judge_flops(self) -> int:
        return self.lists.query_width * linear_flops(self.network)
