"""Mixture of logits: MoL (Zhai et al., "Revisiting Neural Retrieval on Accelerators", KDD 2023; Ding & Zhai,
"Retrieval with Learned Similarities" (RAILS), WWW 2025).

Several unit vectors a side; a pair's inner products, over the temperature, are mixed by gates that know the
query, the item and the inner products themselves:

    l_xq = <x_x(i), q_q(u)> / tau        pi = softmax(silu(g_q(u) * g_x(i) + g_l(l)))      score = pi . l

with dropout on pi, and a load-balance penalty, the mean entropy of pi minus the entropy of the mean pi. One
query vector may come from the query's id alone. Any similarity can be approximated so; inner products cannot
cross rank D.

Differs from the papers: the temperature is learned and starts at .2 (RAILS: .05, whose first scores spread so
far that they cost a binary cross entropy of about 1 instead of .69), and a bias per side may be added (binary
cross entropy needs both); the vectors are linear in the tower's last layer, for queries too (RAILS: a gated
layer of 512); by default g_l is one linear layer (RAILS: 128 hidden units, eight times the arithmetic of a
pair at 4 x 4, see ``cross``); the penalty is estimated on a few candidates per query; the id's vector is held
by the optimizer's weight decay, not by a penalty of its own.

Letters: Q queries, T chosen (row, place) pairs, C shared or K own candidates, F fields, E embedding, Pq and
Px vectors of a query and an item, P = Px * Pq, D vector length.
"""

from __future__ import annotations

import math

import torch
from pydantic import Field as Option
from torch import Tensor, nn

from twotower.data.spec import FeatureSpec
from twotower.errors import ConfigError
from twotower.models.base import masked
from twotower.models.decoupled import Decoupled, DecoupledConfig
from twotower.nn.cosine import LEAST_TEMPERATURE, factor, unit
from twotower.nn.cost import linear_flops
from twotower.nn.dropout import Dropout, dropout
from twotower.nn.embedding import Embeddings
from twotower.nn.mlp import Norm, mlp
from twotower.scores.mixture import component_logits, load_balance, mixing_weights, mixture
from twotower.types import Batch, Rep, RepSpec

BALANCED_ON = 16
"""Candidates per query on which the load-balance penalty is estimated."""


class MoLConfig(DecoupledConfig):
    layers: tuple[int, ...] = Option((256,), description="both towers; () sums the field vectors")
    norm: Norm = Option("none", description="behind each layer")
    dropout: float = Option(0.0, ge=0, lt=1, description="behind each layer, or on the sum of the fields")
    query_vectors: int = Option(4, ge=1)
    item_vectors: int = Option(4, ge=1)
    dim: int = Option(32, ge=1, description="length of each vector")
    gate: int = Option(128, ge=1, description="hidden units of the gates of the query and of the item")
    cross: int = Option(0, ge=0, description="hidden units of the pair's own gate; 0 is one linear layer")
    gate_dropout: float = Option(0.2, ge=0, lt=1, description="share of mixing weights left out in training")
    balance: float = Option(0.001, ge=0, description="weight of the load-balance penalty")
    temperature: float = Option(
        0.2, ge=LEAST_TEMPERATURE, description="where the learned temperature starts (RAILS: 0.05)"
    )
    bias: bool = Option(True, description="a score per query and per item beside the mixture")
    query_id: str | None = Option(None, description="id column that gives one of the query's vectors")
    query_id_dropout: float = Option(0.5, ge=0, lt=1, description="of that vector's entries")


class MoL(Decoupled):
    kind = "late"
    config: MoLConfig

    def __init__(self, spec: FeatureSpec, config: MoLConfig) -> None:
        super().__init__(spec, config)
        self.query_tower = self._tower(self.inputs.query_size)
        self.item_tower = self._tower(self.inputs.item_size)
        inside = config.layers[-1] if config.layers else config.embedding
        P = config.query_vectors * config.item_vectors
        if config.query_id is not None:
            self.ids = self._id_table(config.query_id)
        self.query_vectors = nn.Linear(
            inside, (config.query_vectors - (config.query_id is not None)) * config.dim
        )
        self.item_vectors = nn.Linear(inside, config.item_vectors * config.dim)
        self.query_gate = _gate(inside, config.gate, P)
        self.item_gate = _gate(inside, config.gate, P)
        self.cross_gate = _gate(P, config.cross, P)
        self.log_scale = nn.Parameter(torch.tensor(-math.log(config.temperature)))
        if config.bias:
            self.query_bias = nn.Linear(inside, 1)
            self.item_bias = nn.Linear(inside, 1)

    def _tower(self, size: int) -> nn.Module:
        config = self.config
        if not config.layers:
            return Dropout(config.dropout)
        return mlp([size, *config.layers], norm=config.norm, dropout=config.dropout)

    def _id_table(self, name: str) -> Embeddings:
        columns = [c for c in self.inputs.query_columns if c.name == name and c.kind == "id"]
        if not columns or self.config.query_vectors < 2:
            known = [c.name for c in self.inputs.query_columns if c.kind == "id"]
            raise ConfigError(
                f"query_id: {name!r} must be an id of the query (known: {known}), and takes one of at least "
                f"two query_vectors (found {self.config.query_vectors})"
            )
        return Embeddings(columns, self.config.dim, sparse=self.config.sparse)

    # towers -------------------------------------------------------------------------------------------

    def encode_query(self, query: Batch) -> Rep:
        return self._with_id(super().encode_query(query), query, None)

    def encode_places(self, query: Batch, at: Tensor) -> Rep:
        return self._with_id(super().encode_places(query, at), query, at.nonzero()[:, 0])

    def query_part(self, fields: Tensor) -> Rep:
        """The query's vectors, the temperature folded in; that of its id is still missing."""
        inside = self._inside(fields, self.query_tower)
        vectors = self._vectors(inside, self.query_vectors) * factor(self.log_scale)
        rep = Rep(vectors=vectors, gate=self.query_gate(inside))
        return Rep(**rep, bias=self.query_bias(inside).squeeze(-1)) if self.config.bias else rep

    def item_part(self, fields: Tensor) -> Rep:
        inside = self._inside(fields, self.item_tower)
        rep = Rep(vectors=self._vectors(inside, self.item_vectors), gate=self.item_gate(inside))
        return Rep(**rep, bias=self.item_bias(inside).squeeze(-1)) if self.config.bias else rep

    def _inside(self, fields: Tensor, tower: nn.Module) -> Tensor:
        out: Tensor = tower(fields.flatten(-2) if self.config.layers else fields.sum(-2))
        return out

    def _vectors(self, inside: Tensor, linear: nn.Linear) -> Tensor:
        """(..., n, D) unit vectors."""
        vectors = linear(inside).unflatten(-1, (-1, self.config.dim))
        return unit(vectors)

    def _with_id(self, rep: Rep, query: Batch, row: Tensor | None) -> Rep:
        """The id's vector beside the others; ``row`` (T,) says whose place each one is."""
        if self.config.query_id is None:
            return rep
        ids = Batch({self.config.query_id: query[self.config.query_id]})
        vector = self.ids(ids if row is None else ids.take(row), [self.spec[self.config.query_id]])
        vector = dropout(vector, self.config.query_id_dropout, self.training)
        vector = unit(vector) * factor(self.log_scale)
        return Rep({**rep, "vectors": torch.cat([rep["vectors"], vector], dim=-2)})

    # interaction --------------------------------------------------------------------------------------

    def score(self, query: Rep, item: Rep, pair: Batch | None = None, mask: Tensor | None = None) -> Tensor:
        scores = mixture(
            query["vectors"],
            query["gate"],
            item["vectors"],
            item["gate"],
            self.cross_gate,
            dropout=self.config.gate_dropout if self.training else 0.0,
        )
        if self.config.bias:
            scores = scores + query["bias"][:, None] + item["bias"]
        return masked(scores, mask)

    def penalties(
        self, query: Rep, item: Rep, labels: Tensor, mask: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Load balance, on `BALANCED_ON` candidates of each query (shared ones: in turn)."""
        if not self.config.balance:
            return {}
        vectors, gate = item["vectors"], item["gate"]
        if vectors.dim() == 3:
            turn = torch.arange(len(labels) * BALANCED_ON, device=labels.device) % len(vectors)
            vectors, gate = (t[turn.view(len(labels), BALANCED_ON)] for t in (vectors, gate))
        vectors, gate = vectors[:, :BALANCED_ON], gate[:, :BALANCED_ON]
        logits = component_logits(query["vectors"], vectors)
        weights = mixing_weights(logits, query["gate"], gate, self.cross_gate)
        rows = weights.flatten(0, -2) if mask is None else weights[mask[:, :BALANCED_ON]]
        return {"balance": self.config.balance * (load_balance(rows) if len(rows) else rows.sum())}

    def item_specs(self) -> tuple[RepSpec, ...]:
        config = self.config
        specs = (
            RepSpec("vectors", (config.item_vectors, config.dim)),
            RepSpec("gate", (config.item_vectors * config.query_vectors,)),
        )
        return (*specs, RepSpec("bias", ())) if config.bias else specs

    @property
    def flops_per_pair(self) -> int:
        config = self.config
        products = 2 * config.query_vectors * config.item_vectors * config.dim
        return products + linear_flops(self.cross_gate)


def _gate(inside: int, hidden: int, P: int) -> nn.Module:
    if not hidden:
        return nn.Linear(inside, P)
    return nn.Sequential(nn.Linear(inside, hidden), nn.SiLU(), nn.Linear(hidden, P))
