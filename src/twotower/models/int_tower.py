"""IntTower (Li et al., CIKM 2022): two towers whose layers meet head by head, as pre-ranker.

    fields of a side -> gate (Light-SE: e_f * (1 + softmax(W z)_f)) -> MLP with layer outputs h_1 .. h_L
    m_u^l = W_u^l h_u^l,  m_v = W_v h_v^L        H heads of length D each (FE-Block)
    s_l = sum over heads h of max over heads j of <m_u^{l,h}, m_v^j>
    score(q, i) = sum over l of w_l s_l + b_u(q) + b_v(i)
    loss += cir * InfoNCE(h_u^L, h_v^L)          (CIR: contrastive interaction regularisation)

The heads read layer *outputs*, the last included, as in the paper (the published code reads layer inputs and
leaves the last layer of the user tower without a gradient). CIR contrasts true positive pairs with the other
positives' items (the published code computes a penalty of another form, and then leaves it out).

Differs from the paper: a learned positive weight w_l per layer, starting at the mean over heads and layers
(unweighted sums of many heads start training with huge logits); a bias per side instead of one for all
(``bias: false`` is the paper's); linear last layers, so that the cosines of CIR, and without the FE-Block the
inner product, may be negative; at most ``cir_anchors`` pairs of a batch are contrasted, since the cost grows
with their square; what the same user liked as well, or the same item, is no negative in CIR (known by the
first id column of each side, before id dropout). The w_l live inside the query's heads: positive, they pass
through the maximum.

Letters: Q queries, C shared or K own candidates, F fields, E embedding, L layers, H heads, D head length.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from pydantic import Field as Option
from torch import Tensor, nn

from twotower.data.spec import FeatureSpec
from twotower.losses.contrastive import info_nce
from twotower.models.base import masked
from twotower.models.decoupled import Decoupled, DecoupledConfig
from twotower.nn.gate import GateKind, gate
from twotower.nn.mlp import Norm, mlp
from twotower.scores.dot import dot
from twotower.scores.multihead import multihead
from twotower.types import UNKNOWN, Batch, Rep, RepSpec


class IntTowerConfig(DecoupledConfig):
    layers: tuple[int, ...] = Option((256, 64), min_length=1, description="both towers")
    norm: Norm = "none"
    dropout: float = Option(0.0, ge=0, lt=1)
    gate: GateKind = Option("light_se", description="how fields are weighed before the tower")
    fe: bool = Option(True, description="heads of all layers meet; false: inner product of the last layers")
    fe_layers: Literal["all", "last"] = Option("all", description="query layers whose heads meet the item's")
    heads: int = Option(4, ge=1)
    head_dim: int = Option(32, ge=1, description="floats per head; an item keeps heads x head_dim")
    scale: bool = Option(True, description="a learned weight per layer; false: the plain sum of the paper")
    bias: bool = Option(True, description="a score per query and per item; false: one for all")
    cir: float = Option(0.1, ge=0, description="weight of the contrastive regulariser; 0 switches it off")
    cir_temperature: float = Option(0.1, gt=0)
    cir_anchors: int = Option(1024, ge=2, description="positive pairs contrasted per batch, at most")


class IntTower(Decoupled):
    kind = "late"
    config: IntTowerConfig

    def __init__(self, spec: FeatureSpec, config: IntTowerConfig) -> None:
        super().__init__(spec, config)
        sizes = self.inputs.query_size, self.inputs.item_size
        self.query_gate, self.item_gate = (gate(config.gate, size // config.embedding) for size in sizes)
        self.query_tower, self.item_tower = (self._tower(size) for size in sizes)
        if config.fe:
            met = config.layers if config.fe_layers == "all" else config.layers[-1:]
            width = config.heads * config.head_dim
            self.query_heads = nn.ModuleList(nn.Linear(size, width) for size in met)
            self.item_heads = nn.Linear(config.layers[-1], width)
            if config.scale:
                start = -math.log(len(met) * config.heads)
                self.log_scale = nn.Parameter(torch.full((len(met),), start))
        if config.bias:
            self.query_bias, self.item_bias = (nn.Linear(size, 1) for size in sizes)
        else:
            self.offset = nn.Parameter(torch.zeros(()))
        self.item_id = next((c.name for c in self.inputs.item_columns if c.kind == "id"), None)
        query_ids = (c.name for c in self.inputs.query_columns if c.kind == "id" and c.side == "query")
        self.query_id = next(query_ids, None)

    def _tower(self, size: int) -> nn.ModuleList:
        """The layers one by one, for their outputs are read; the last one is linear."""
        config, sizes = self.config, [size, *self.config.layers]
        return nn.ModuleList(
            mlp(sizes[i : i + 2], norm=config.norm, dropout=config.dropout, last=i < len(config.layers) - 1)
            for i in range(len(config.layers))
        )

    def query_part(self, fields: Tensor) -> Rep:
        outputs = _outputs(self.query_tower, self.query_gate(fields).flatten(-2))
        bias = self.query_bias(fields.flatten(-2)).squeeze(-1) if self.config.bias else self.offset
        rep = Rep(bias=bias.expand(len(fields)), **self._latent(outputs[-1]))
        if not self.config.fe:
            return Rep(rep, vector=outputs[-1])
        met = outputs[-len(self.query_heads) :]
        # (Q, L, H * D)
        heads = torch.stack([read(h) for read, h in zip(self.query_heads, met, strict=True)], dim=1)
        if self.config.scale:
            heads = heads * self.log_scale.exp()[:, None]
        shape = len(met) * self.config.heads, self.config.head_dim
        return Rep(rep, heads=heads.view(len(fields), *shape))  # (Q, L * H, D)

    def item_part(self, fields: Tensor) -> Rep:
        last = _outputs(self.item_tower, self.item_gate(fields).flatten(-2))[-1]
        rep = Rep(self._latent(last))
        if self.config.bias:
            rep["bias"] = self.item_bias(fields.flatten(-2)).squeeze(-1)
        if not self.config.fe:
            return Rep(rep, vector=last)
        shape = self.config.heads, self.config.head_dim
        return Rep(rep, heads=self.item_heads(last).unflatten(-1, shape))

    def encode_query(self, query: Batch) -> Rep:
        rep = super().encode_query(query)
        if self._contrasts and self.query_id is not None:
            rep["id"] = query[self.query_id]
        return rep

    def encode_places(self, query: Batch, at: Tensor) -> Rep:
        rep = super().encode_places(query, at)
        if self._contrasts and self.query_id is not None:
            rep["id"] = query[self.query_id][at.nonzero()[:, 0]]
        return rep

    def encode_item(self, item: Batch) -> Rep:
        rep = super().encode_item(item)
        if self._contrasts and self.item_id is not None:
            rep["id"] = item[self.item_id]
        return rep

    def score(self, query: Rep, item: Rep, pair: Batch | None = None, mask: Tensor | None = None) -> Tensor:
        if self.config.fe:
            scores = multihead(query["heads"], item["heads"])
        else:
            scores = dot(query["vector"], item["vector"])
        scores = scores + query["bias"][:, None]
        return masked(scores + item["bias"] if self.config.bias else scores, mask)

    def penalties(
        self, query: Rep, item: Rep, labels: Tensor, mask: Tensor | None = None
    ) -> dict[str, Tensor]:
        """CIR: each positive pair against the items of the positive pairs of other users."""
        if not self._contrasts:
            return {}
        row, column = (labels > 0.5).nonzero()[: self.config.cir_anchors].unbind(1)  # batches are shuffled
        at = (row, column) if item["latent"].dim() == 3 else (column,)  # own, or shared
        users, items = query["latent"][row], item["latent"][at]
        loss = info_nce(
            users,
            items,
            temperature=self.config.cir_temperature,
            item_keys=item["id"][at] if "id" in item else None,
            seen=_same(query["id"][row]) if "id" in query else None,
        )
        return {"cir": self.config.cir * loss}

    def item_specs(self) -> tuple[RepSpec, ...]:
        config = self.config
        shape = RepSpec("heads", (config.heads, config.head_dim))
        kept = shape if config.fe else RepSpec("vector", (config.layers[-1],))
        return (kept, RepSpec("bias", ())) if config.bias else (kept,)

    @property
    def flops_per_pair(self) -> int:
        config = self.config
        if not config.fe:
            return 2 * config.layers[-1]
        return 2 * len(self.query_heads) * config.heads * config.heads * config.head_dim

    @property
    def _contrasts(self) -> bool:
        """Whether representations carry what CIR reads."""
        return self.training and self.config.cir > 0

    def _latent(self, last: Tensor) -> dict[str, Tensor]:
        return {"latent": last} if self._contrasts else {}


def _same(users: Tensor) -> Tensor:
    """(B, B): whether two rows are of the same user; of unknown users nobody knows."""
    return (users[:, None] == users) & (users != UNKNOWN)


def _outputs(tower: nn.ModuleList, x: Tensor) -> list[Tensor]:
    """The output of every layer."""
    outputs = []
    for layer in tower:
        x = layer(x)
        outputs.append(x)
    return outputs
