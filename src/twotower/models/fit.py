"""FIT, the fully interacted two-tower (SIGIR 2025), as pre-ranker: the item tells the query tower what kind
of item is asked about, and a small network reads the score off a matrix of similarities.

    Meta query module   p = softmax(W x_i . M^T / tau)            tau falls from 1 to 0.001, then stays there
                        c_n = target attention of row n of (M M^T) M over the query's events
                        u_n = heads of MLP([fields; c_n])         n = 1 .. N, once per request
    Similarity scorer   S = cosines of the heads of sum over n of p_n u_n with those of v_i, at whatever p
                        score = w . relu(columns relu(rows S)) + b_u + b_v

Serving keeps the index of the item's largest p with its heads, so a candidate meets just one u_n.

Differs from the paper: in training the shares p mix the N finished query vectors, not the meta queries that
go into them (both are the same once p has hardened; mixed before, shared candidates would need a query tower
per pair), and each head of the mixture is brought back to unit length; attention is a scaled dot product, so
that every place of a history can be answered in one pass; without a history it runs over the query's own
fields; the scale of the cosines is learned and starts where random heads have unit variance; a bias per side.

tau falls over the first ``anneal`` steps, not over the whole training, whose length no model is told.
Validation and serving take the best meta query from the start: a fall that early stopping cuts short would
leave a model that has never trained as it is served.

Letters: Q queries, C shared or K own candidates, L places, F fields, E embedding, N meta queries, G = H heads
of a query and of an item, D head length.
"""

from __future__ import annotations

import math

import torch
from pydantic import Field as Option
from torch import Tensor, nn
from torch.nn import functional

from twotower.data.spec import FeatureSpec
from twotower.models.base import masked
from twotower.models.decoupled import Decoupled, DecoupledConfig
from twotower.nn.cosine import SHORTEST, unit
from twotower.nn.meta_query import MetaQueries, attend, attend_places
from twotower.nn.mlp import Norm, behind, mlp
from twotower.nn.similarity_scorer import SimilarityScorer
from twotower.nn.split import SplitLinear
from twotower.types import PAD, Batch, Rep, RepSpec

FIELDS, SEEN = 0, 1  # the parts of the query tower's input


class FITConfig(DecoupledConfig):
    layers: tuple[int, ...] = Option((256, 64), min_length=1, description="hidden layers of both towers")
    norm: Norm = "none"
    dropout: float = Option(0.0, ge=0, lt=1)
    metas: int = Option(4, ge=1, description="meta queries: vectors of a query, of which an item meets one")
    anneal: int = Option(
        200, ge=1, description="training steps until an item meets one alone; fewer than training has"
    )
    heads: int = Option(4, ge=1)
    head_dim: int = Option(32, ge=1, description="floats per head; an item keeps heads x head_dim")
    hidden: int = Option(8, ge=1, description="units of the similarity scorer, per row and per column")
    bias: bool = Option(True, description="a score per query and per item beside the scorer's")


class FIT(Decoupled):
    kind = "late"
    config: FITConfig

    def __init__(self, spec: FeatureSpec, config: FITConfig) -> None:
        super().__init__(spec, config)
        query_size, item_size, E = self.inputs.query_size, self.inputs.item_size, config.embedding
        width = config.heads * config.head_dim
        self.metas = MetaQueries(config.metas, E, item_size, config.anneal)
        self.first = SplitLinear((query_size, E), config.layers[0])
        self.query_tower = nn.Sequential(
            *behind(config.layers[0], norm=config.norm, dropout=config.dropout),
            *mlp([*config.layers, width], norm=config.norm, dropout=config.dropout, last=False),
        )
        self.item_tower = mlp(
            [item_size, *config.layers, width], norm=config.norm, dropout=config.dropout, last=False
        )
        self.scorer = SimilarityScorer(
            config.heads, config.heads, config.hidden, scale=math.sqrt(config.head_dim)
        )
        if config.bias:
            self.query_bias, self.item_bias = nn.Linear(query_size, 1), nn.Linear(item_size, 1)

    # towers -------------------------------------------------------------------------------------------

    def encode_query(self, query: Batch) -> Rep:
        if self.history is None:
            return super().encode_query(query)
        there = query[self.history] != PAD
        return self._answer(self.inputs.query(query), attend(self.metas(), self._events(query), there))

    def encode_places(self, query: Batch, at: Tensor) -> Rep:
        fields = self.inputs.places(query, at)  # refuses a model without a history
        return self._answer(fields, attend_places(self.metas(), self._events(query), at))

    def query_part(self, fields: Tensor) -> Rep:
        """Without a history: the meta queries attend over the fields."""
        return self._answer(fields, attend(self.metas(), fields, fields.new_ones(fields.shape[:2])))

    def item_part(self, fields: Tensor) -> Rep:
        x = fields.flatten(-2)
        rep = Rep(heads=self._heads(self.item_tower(x)))
        if self.training:
            rep["share"] = self.metas.shares(x)
        else:
            rep["meta"] = self.metas.choice(x)
        return Rep(**rep, bias=self.item_bias(x).squeeze(-1)) if self.config.bias else rep

    def _events(self, query: Batch) -> Tensor:
        """(Q, L, E) vectors of the history's items."""
        assert self.history is not None
        return self.inputs.embeddings.sequence(self.history, query[self.history])

    def _answer(self, fields: Tensor, seen: Tensor) -> Rep:
        """A query's N sets of heads, from its fields (Q, F, E) and what each meta query saw (Q, N, E)."""
        x = fields.flatten(-2)
        first = self.first.part(FIELDS, x)[:, None] + self.first.part(SEEN, seen)
        rep = Rep(heads=self._heads(self.query_tower(first)))  # (Q, N, G, D)
        return Rep(**rep, bias=self.query_bias(x).squeeze(-1)) if self.config.bias else rep

    def _heads(self, x: Tensor) -> Tensor:
        """(..., H, D) unit vectors."""
        heads = x.reshape(*x.shape[:-1], self.config.heads, self.config.head_dim)
        return unit(heads)

    # interaction --------------------------------------------------------------------------------------

    def score(self, query: Rep, item: Rep, pair: Batch | None = None, mask: Tensor | None = None) -> Tensor:
        own = item["heads"].dim() == query["heads"].dim()
        scores: Tensor = self.scorer(self._own(query, item) if own else self._shared(query, item))
        if self.config.bias:
            scores = scores + query["bias"][:, None] + item["bias"]
        return masked(scores, mask)

    def _own(self, query: Rep, item: Rep) -> Tensor:
        """(Q, K, G, H) similarities: each candidate meets the vectors of its meta query, or their mixture."""
        users = query["heads"]
        if "share" in item:
            met = (item["share"] @ users.flatten(2)).reshape(*item["share"].shape[:2], *users.shape[2:])
            met = unit(met)
        else:
            met = users[torch.arange(len(users), device=users.device)[:, None], item["meta"]]
        return met @ item["heads"].transpose(-1, -2)

    def _shared(self, query: Rep, item: Rep) -> Tensor:
        """(Q, C, G, H) of all pairs: <sum over n of p_n u_n, v> = <[u_1 .. u_N], [p_1 v .. p_N v]>.

        In training over the length of the sum.
        """
        (Q, N, G, _), (C, H, _) = query["heads"].shape, item["heads"].shape
        share = item["share"] if "share" in item else functional.one_hot(item["meta"], N)
        length = N * query["heads"].shape[-1]
        users = query["heads"].transpose(1, 2).reshape(Q * G, length)
        items = (share[:, None, :, None] * item["heads"].unsqueeze(2)).reshape(C * H, length)
        similarity: Tensor = (users @ items.T).view(Q, G, C, H)
        if "share" in item:
            similarity = similarity / self._lengths(query["heads"], share).unsqueeze(-1)
        return similarity.transpose(1, 2)

    def _lengths(self, users: Tensor, share: Tensor) -> Tensor:
        """(Q, G, C): |sum over n of p_n u_n|, from the products of a query's own heads (Q, N, G, D)."""
        users = users.transpose(1, 2)
        products = (users @ users.transpose(-1, -2)).flatten(-2)  # (Q, G, N * N)
        weights = (share.unsqueeze(-1) * share.unsqueeze(-2)).flatten(-2)  # (C, N * N)
        return (products @ weights.T).clamp(min=SHORTEST**2).sqrt()

    def item_specs(self) -> tuple[RepSpec, ...]:
        config = self.config
        specs = (RepSpec("heads", (config.heads, config.head_dim)), RepSpec("meta", (), "int64"))
        return (*specs, RepSpec("bias", ())) if config.bias else specs

    @property
    def flops_per_pair(self) -> int:
        return 2 * self.config.heads**2 * self.config.head_dim + self.scorer.flops
