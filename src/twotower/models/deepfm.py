"""DeepFM (Guo et al., IJCAI 2017): a factorisation machine beside a deep network, on the same embeddings.

    y_FM = b + sum_f w_f + sum_{f < g} <v_f, v_g>           (eq. 2)
    y_DNN = MLP([v_1; ...; v_F])                            (eq. 3, 4)
    score = y_FM + y_DNN                                    (eq. 1, before the sigmoid)

The FM part splits exactly: what lies within a side is summed ahead, and all pairs across the sides are one
inner product of the sides' sums (`twotower.nn.fm`). The network's first layer splits as any.

Differs from the paper: field vectors start short (it does not say how). A bag is one field, the mean of its
values. A pooled history is a field without a first-order weight. With pair fields the second order has a
learned weight that starts at zero, so that the first scores are the pair's own.

Letters: Q queries, C shared or K own candidates, F fields, E embedding.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from twotower.data.spec import FeatureSpec
from twotower.models.joint import ITEM, PAIR, QUERY, DeepConfig, Joint
from twotower.nn.cost import linear_flops
from twotower.nn.fm import within
from twotower.nn.linear_part import LinearPart
from twotower.nn.split_mlp import SplitMLP
from twotower.scores.dot import dot
from twotower.types import Batch, Rep, RepSpec

START = 0.1
"""Length of the field vectors at the start, compared with other models'."""


class DeepFMConfig(DeepConfig):
    pass


class DeepFM(Joint):
    config: DeepFMConfig

    def __init__(self, spec: FeatureSpec, config: DeepFMConfig) -> None:
        super().__init__(spec, config)
        self.linear = LinearPart(self.inputs.query_columns, self.inputs.item_columns, sparse=config.sparse)
        self.deep = SplitMLP(self.sizes, config.layers, norm=config.norm, dropout=config.dropout)
        self.out = nn.Linear(config.layers[-1], 1)
        self.second_weight = nn.Parameter(torch.zeros(())) if config.pair else None
        self.start_from_pair(self.out)
        with torch.no_grad():  # at full size the second order of random vectors would drown the first epochs
            for parameter in self.inputs.embeddings.parameters():
                parameter.mul_(START)

    def query_beside(self, query: Batch) -> Rep:
        return Rep(linear=self.linear.query(query))

    def item_beside(self, item: Batch) -> Rep:
        return Rep(linear=self.linear.item(item))

    def beside_specs(self) -> tuple[RepSpec, ...]:
        return (RepSpec("linear", ()),)

    @property
    def beside_flops(self) -> int:
        return self.linear.item_flops

    def query_part(self, fields: Tensor) -> Rep:
        return self._part(fields, QUERY)

    def item_part(self, fields: Tensor) -> Rep:
        return self._part(fields, ITEM)

    def part_specs(self) -> tuple[RepSpec, ...]:
        return (
            RepSpec("total", (self.config.embedding,)),
            RepSpec("within", ()),
            RepSpec("deep", (self.config.layers[0],)),
        )

    def interact(self, query: Rep, item: Rep, pair: Tensor | None) -> Tensor:
        first = query["linear"][:, None] + item["linear"]  # (Q, K): the shared (C,) broadcasts
        second = query["within"][:, None] + item["within"] + dot(query["total"], item["total"])
        deep = query["deep"][:, None] + item["deep"]
        if pair is not None and self.second_weight is not None:
            others = query["total"][:, None] + item["total"]
            second = self.second_weight * (second + (others * pair).sum(-1))
            deep = deep + self.deep.part(PAIR, pair)
        out: Tensor = first + second + self.out(self.deep(deep)).squeeze(-1)
        return out

    @property
    def part_flops(self) -> int:
        return self.deep.part_flops(ITEM)

    @property
    def interact_flops(self) -> int:
        own = self.deep.rest_flops + linear_flops(self.out) + 2 * self.config.embedding
        return own + (0 if self.pair is None else self.pair.flops + self.deep.part_flops(PAIR))

    def _part(self, fields: Tensor, side: int) -> Rep:
        total, products = within(fields)
        return Rep(total=total, within=products, deep=self.deep.part(side, fields.flatten(-2)))
