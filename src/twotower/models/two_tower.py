"""The two-tower model: DSSM (Huang et al., CIKM 2013) with the choices that later work found to matter.

    score(q, i) = <u(q), v(i)> / tau + b_u(q) + b_v(i)

u and v are MLPs over the field vectors of their side (no layers: their sum); the query tower may add a
history, pooled or by causal self-attention (SASRec). Differs from DSSM: ids and tables instead of letter
trigrams, a plain dot product or a cosine with a learned temperature (DSSM fixes it), linear last layers (a
ReLU there would keep every cosine in [0, 1], and with tau = 1 caps what log loss can be reached), and a bias
per side. Temperature and biases live inside the vectors, so that serving is one inner product.

Letters: Q queries, C or K candidates, L places, T chosen (row, place) pairs, F fields, E embedding, D vector.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from pydantic import Field as Option
from torch import Tensor, nn

from twotower.data.spec import FeatureSpec
from twotower.models.base import masked
from twotower.models.decoupled import Decoupled, DecoupledConfig
from twotower.nn.cosine import LEAST_TEMPERATURE, factor, unit
from twotower.nn.mlp import Norm, mlp
from twotower.scores.dot import dot
from twotower.types import Batch, Rep, RepSpec


class TwoTowerConfig(DecoupledConfig):
    layers: tuple[int, ...] = Option((256, 64), description="both towers; () sums the field vectors")
    norm: Norm = Option("none", description="behind each layer but the last")
    dropout: float = Option(0.0, ge=0, lt=1, description="behind each layer but the last")
    similarity: Literal["dot", "cosine"] = "dot"
    temperature: float = Option(
        0.05, ge=LEAST_TEMPERATURE, description="cosine: where the learned temperature starts"
    )
    bias: bool = Option(True, description="a score per query and per item beside the inner product")


class TwoTower(Decoupled):
    kind = "dot"
    config: TwoTowerConfig

    def __init__(self, spec: FeatureSpec, config: TwoTowerConfig) -> None:
        super().__init__(spec, config)
        query_size, item_size = self.sizes
        self.query_tower = self._tower(query_size)
        self.item_tower = self._tower(item_size)
        self.dim = config.layers[-1] if config.layers else config.embedding
        if config.bias:
            self.query_bias = nn.Linear(query_size, 1)
            self.item_bias = nn.Linear(item_size, 1)
        if config.similarity == "cosine":
            self.log_scale = nn.Parameter(torch.tensor(-math.log(config.temperature)))

    @property
    def sizes(self) -> tuple[int, int]:
        """Floats that enter the query's and the item's tower."""
        return self.inputs.query_size, self.inputs.item_size

    def _tower(self, size: int) -> nn.Module | None:
        """MLP over the field vectors side by side; without layers the tower is their sum."""
        config = self.config
        if not config.layers:
            return None
        return mlp([size, *config.layers], norm=config.norm, dropout=config.dropout, last=False)

    def query_part(self, fields: Tensor) -> Rep:
        """The query's vector, with temperature and bias folded in."""
        vector = self._vector(fields, self.query_tower)
        if self.config.similarity == "cosine":
            vector = vector * factor(self.log_scale)
        if self.config.bias:
            bias = self.query_bias(fields.flatten(-2))
            vector = torch.cat([vector, torch.ones_like(bias), bias], dim=-1)
        return Rep(vector=vector)

    def item_part(self, fields: Tensor) -> Rep:
        vector = self._vector(fields, self.item_tower)
        if self.config.bias:
            bias = self.item_bias(fields.flatten(-2))
            vector = torch.cat([vector, bias, torch.ones_like(bias)], dim=-1)
        return Rep(vector=vector)

    def score(self, query: Rep, item: Rep, pair: Batch | None = None, mask: Tensor | None = None) -> Tensor:
        return masked(dot(query["vector"], item["vector"]), mask)

    def item_specs(self) -> tuple[RepSpec, ...]:
        return (RepSpec("vector", (self.dim + 2 * self.config.bias,)),)

    @property
    def flops_per_pair(self) -> int:
        return 2 * self.item_specs()[0].shape[0]

    def _vector(self, fields: Tensor, tower: nn.Module | None) -> Tensor:
        vector: Tensor = fields.sum(-2) if tower is None else tower(fields.flatten(-2))
        return unit(vector) if self.config.similarity == "cosine" else vector
