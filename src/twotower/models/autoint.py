"""AutoInt (Song et al., CIKM 2019): self-attention finds which fields meet; AutoInt+ adds a deep network.

    E_0 = [e_1; ...; e_F],   E_{l+1} = attention(E_l)        (eq. 5-8, `twotower.nn.field_attention`)
    score = w . flat(E_L) + b [+ MLP(flat(E_0))]             (eq. 9, before the sigmoid)

The first layer's projections see one field at a time and the network's first layer is linear: both split
exactly, so that an item keeps its fields' queries, keys, values and residuals. From the first softmax on the
sides are mixed and nothing splits.

Differs from the paper: a number becomes a vector by two weights, its value's and its absence's; the network
is on by default.

Letters: Q queries, C shared or K own candidates, F fields of both sides and the pair, E embedding, W width of
a projected field.
"""

from __future__ import annotations

import torch
from pydantic import Field as Option
from torch import Tensor, nn

from twotower.data.spec import FeatureSpec
from twotower.models.joint import ITEM, PAIR, QUERY, DeepConfig, Joint
from twotower.nn.cost import linear_flops
from twotower.nn.field_attention import FieldAttention
from twotower.nn.split_mlp import SplitMLP
from twotower.types import Rep, RepSpec


class AutoIntConfig(DeepConfig):
    blocks: int = Option(3, ge=1, description="self-attention layers")
    heads: int = Option(2, ge=1)
    head_dim: int = Option(16, ge=1, description="floats of a field per head")
    layers: tuple[int, ...] = Option((256, 256), description="the deep network of AutoInt+; () has none")


class AutoInt(Joint):
    config: AutoIntConfig

    def __init__(self, spec: FeatureSpec, config: AutoIntConfig) -> None:
        super().__init__(spec, config)
        self.fields = [size // config.embedding for size in self.sizes]  # of each part
        self.first = FieldAttention(config.embedding, config.heads, config.head_dim)
        width = self.first.width
        self.attention = nn.Sequential(
            *(FieldAttention(width, config.heads, config.head_dim) for _ in range(config.blocks - 1))
        )
        self.deep = (
            SplitMLP(self.sizes, config.layers, norm=config.norm, dropout=config.dropout)
            if config.layers
            else None
        )
        self.out = nn.Linear(sum(self.fields) * width + sum(config.layers[-1:]), 1)
        self.start_from_pair(self.out)

    def query_part(self, fields: Tensor) -> Rep:
        return self._part(fields, QUERY)

    def item_part(self, fields: Tensor) -> Rep:
        return self._part(fields, ITEM)

    def part_specs(self) -> tuple[RepSpec, ...]:
        projected = RepSpec("projected", (self.fields[ITEM], 4 * self.first.width))
        return (projected, *(RepSpec("deep", (width,)) for width in self.config.layers[:1]))

    def interact(self, query: Rep, item: Rep, pair: Tensor | None) -> Tensor:
        ours, theirs = query["projected"], item["projected"]
        Q, K = len(ours), theirs.shape[-3]
        fields = [ours[:, None].expand(Q, K, -1, -1), theirs.expand(Q, K, -1, -1)]
        if pair is not None:
            fields.append(self.first.project(pair.unsqueeze(-2)))
        x = self.first.attend(torch.cat(fields, dim=-2))  # (Q, K, F, W)
        x = self.attention(x).flatten(-2)
        if self.deep is not None:
            deep = query["deep"][:, None] + item["deep"]
            x = torch.cat([x, self.deep(deep if pair is None else deep + self.deep.part(PAIR, pair))], dim=-1)
        out: Tensor = self.out(x).squeeze(-1)
        return out

    @property
    def part_flops(self) -> int:
        return self._part_flops(ITEM)

    @property
    def interact_flops(self) -> int:
        F = sum(self.fields)
        later = sum(layer.project_flops(F) + layer.attend_flops(F) for layer in self._later())
        own = self.first.attend_flops(F) + later + linear_flops(self.out)
        own += 0 if self.deep is None else self.deep.rest_flops
        return own + (0 if self.pair is None else self.pair.flops + self._part_flops(PAIR))

    def _part(self, fields: Tensor, side: int) -> Rep:
        part = Rep(projected=self.first.project(fields))
        return part if self.deep is None else part.join(Rep(deep=self.deep.part(side, fields.flatten(-2))))

    def _part_flops(self, part: int) -> int:
        return self.first.project_flops(self.fields[part]) + (
            0 if self.deep is None else self.deep.part_flops(part)
        )

    def _later(self) -> list[FieldAttention]:
        return [layer for layer in self.attention if isinstance(layer, FieldAttention)]
