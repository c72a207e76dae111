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
from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field as Option
from torch import Tensor, nn
from torch.nn import functional

from twotower.config import Config
from twotower.data.spec import Column, FeatureSpec
from twotower.errors import ConfigError
from twotower.models.base import SequenceModel, masked
from twotower.nn.embedding import Embeddings
from twotower.nn.history import History, HistoryConfig
from twotower.nn.mlp import Norm, mlp
from twotower.scores.dot import dot
from twotower.types import Batch, Rep, RepSpec


class TwoTowerConfig(Config):
    embedding: int = Option(32, ge=1, description="floats per field")
    layers: tuple[int, ...] = Option((256, 64), description="both towers; () sums the field vectors")
    norm: Norm = "none"
    dropout: float = Option(0.0, ge=0, lt=1)
    similarity: Literal["dot", "cosine"] = "dot"
    temperature: float = Option(0.05, gt=0, description="cosine: where the learned temperature starts")
    bias: bool = Option(True, description="a score per query and per item beside the inner product")
    history: HistoryConfig | None = Option(None, description="how the query tower reads the history column")
    sparse: bool = Option(False, description="row-wise updates of the table, for large vocabularies")


class TwoTower(SequenceModel):
    kind = "dot"
    config: TwoTowerConfig

    def __init__(self, spec: FeatureSpec, config: TwoTowerConfig) -> None:
        super().__init__()
        self.spec, self.config = spec, config
        fields = [c for c in spec.columns if c.kind not in ("sequence", "text")]
        self.query_columns = [c for c in fields if c.side in ("query", "context")]
        self.item_columns = [c for c in fields if c.side == "item"]
        sequences = [c for c in spec.columns if c.kind == "sequence"] if config.history else []
        if config.history and not sequences:
            raise ConfigError("the model reads a history, but the schema declares no sequence field")
        self.embeddings = Embeddings([*fields, *sequences], config.embedding, sparse=config.sparse)
        self.past = History(sequences[0], config.embedding, config.history) if config.history else None
        self.history = sequences[0].name if sequences else None
        self.query_tower = self._tower(len(self.query_columns) + len(sequences))
        self.item_tower = self._tower(len(self.item_columns))
        self.dim = config.layers[-1] if config.layers else config.embedding
        if config.bias:
            self.query_bias = nn.Linear(config.embedding * (len(self.query_columns) + len(sequences)), 1)
            self.item_bias = nn.Linear(config.embedding * len(self.item_columns), 1)
        if config.similarity == "cosine":
            self.log_scale = nn.Parameter(torch.tensor(-math.log(config.temperature)))

    def _tower(self, fields: int) -> nn.Module | None:
        """MLP over the field vectors side by side; without layers the tower is their sum."""
        config = self.config
        if not fields:
            raise ConfigError("a tower has no features: declare fields for both the query and the item")
        if not config.layers:
            return None
        sizes = [fields * config.embedding, *config.layers]
        return mlp(sizes, norm=config.norm, dropout=config.dropout, last=False)

    def encode_query(self, query: Batch) -> Rep:
        parts = [self._fields(query, self.query_columns)] if self.query_columns else []
        if self.past is not None:
            parts.append(self.past(query, self.embeddings).unsqueeze(-2))
        return self._query_rep(torch.cat(parts, dim=-2))

    def encode_places(self, query: Batch, at: Tensor) -> Rep:
        if self.past is None:
            raise ConfigError("training on sequences needs a query tower with a history (set history:)")
        parts = [self.past.places(query, self.embeddings)[at].unsqueeze(-2)]  # (T, 1, E)
        if self.query_columns:
            row = at.nonzero()[:, 0]
            parts.insert(0, self._fields(query, self.query_columns)[row])  # (T, F, E)
        return self._query_rep(torch.cat(parts, dim=-2))

    def encode_item(self, item: Batch) -> Rep:
        fields = self._fields(item, self.item_columns)  # (..., F, E)
        vector = self._vector(fields, self.item_tower)
        if self.config.bias:
            bias = self.item_bias(fields.flatten(-2))
            vector = torch.cat([vector, bias, torch.ones_like(bias)], dim=-1)
        return Rep(vector=vector)

    def score(self, query: Rep, item: Rep, pair: Batch | None = None, mask: Tensor | None = None) -> Tensor:
        return masked(dot(query["vector"], item["vector"]), mask)

    def item_specs(self) -> tuple[RepSpec, ...]:
        return (RepSpec("vector", (self.dim + 2 * self.config.bias,)),)

    def _fields(self, batch: Batch, columns: Sequence[Column]) -> Tensor:
        fields: Tensor = self.embeddings(batch, columns)
        return fields

    def _query_rep(self, fields: Tensor) -> Rep:
        """(..., F, E) -> the query's vector, with temperature and bias folded in."""
        vector = self._vector(fields, self.query_tower)
        if self.config.similarity == "cosine":
            vector = vector * self.log_scale.clamp(max=5.0).exp()  # tau >= 0.0067 keeps the softmax finite
        if self.config.bias:
            bias = self.query_bias(fields.flatten(-2))
            vector = torch.cat([vector, torch.ones_like(bias), bias], dim=-1)
        return Rep(vector=vector)

    def _vector(self, fields: Tensor, tower: nn.Module | None) -> Tensor:
        vector: Tensor = fields.sum(-2) if tower is None else tower(fields.flatten(-2))
        return functional.normalize(vector, dim=-1) if self.config.similarity == "cosine" else vector
