"""DCN (Wang et al., ADKDD 2017), the first version: crosses by vectors instead of matrices.

    x_0 = [field vectors of query; of item; of the pair]
    x_{l+1} = x_0 (x_l . w_l) + b_l + x_l                    (eq. 3)
    score = w . [x_L; MLP(x_0)] + b                          (eq. 5, before the sigmoid)

Its crosses split as a whole, at every depth. By induction x_l = a_l x_0 + c_l, where c_l, the sum of the
first l biases, is the same for every pair, and

    a_0 = 1,   a_{l+1} = a_l (1 + x_0 . w_l) + c_l . w_l,   w . x_L = a_L (x_0 . w) + c_L . w

so that all a cross network ever sees of x_0 are its products with L + 1 vectors: L + 1 numbers, each of them
a sum of a query's, an item's and a pair's share. An item keeps these and its share of the network's first
layer, and crosses cost a few operations per pair. It is algebra; it also shows how little the first version
can express (DCN-V2, Wang et al., WWW 2021, says so and goes on to matrices).

Differs from the paper: in the order of computation only; and a number becomes a vector as other fields do.

Letters: Q queries, C shared or K own candidates, F fields, E embedding, X = width of x_0, L cross layers.
"""

from __future__ import annotations

import torch
from pydantic import Field as Option
from torch import Tensor, nn

from twotower.data.spec import FeatureSpec
from twotower.models.joint import ITEM, PAIR, QUERY, DeepConfig, Joint
from twotower.nn.cost import linear_flops
from twotower.nn.split import SplitLinear
from twotower.nn.split_mlp import SplitMLP
from twotower.types import Rep, RepSpec


class DCNConfig(DeepConfig):
    crosses: int = Option(2, ge=1, description="cross layers")


class DCN(Joint):
    config: DCNConfig

    def __init__(self, spec: FeatureSpec, config: DCNConfig) -> None:
        super().__init__(spec, config)
        # rows 0 to L - 1 are w_l, row L is the cross half of w
        self.weights = SplitLinear(self.sizes, config.crosses + 1, bias=False)
        self.biases = nn.Parameter(torch.zeros(config.crosses, sum(self.sizes)))
        self.deep = SplitMLP(self.sizes, config.layers, norm=config.norm, dropout=config.dropout)
        self.out = nn.Linear(config.layers[-1], 1)
        if self.pair is not None:
            with torch.no_grad():
                self.weights.linear.weight[-1].zero_()
        self.start_from_pair(self.out)

    def query_part(self, fields: Tensor) -> Rep:
        return self._part(fields.flatten(-2), QUERY)

    def item_part(self, fields: Tensor) -> Rep:
        return self._part(fields.flatten(-2), ITEM)

    def part_specs(self) -> tuple[RepSpec, ...]:
        return RepSpec("products", (self.config.crosses + 1,)), RepSpec("deep", (self.config.layers[0],))

    def interact(self, query: Rep, item: Rep, pair: Tensor | None) -> Tensor:
        products = (
            query["products"][:, None] + item["products"]
        )  # (Q, K, L + 1): the shared (C, L + 1) broadcasts
        deep = query["deep"][:, None] + item["deep"]
        if pair is not None:
            products = products + self.weights.part(PAIR, pair)
            deep = deep + self.deep.part(PAIR, pair)
        out: Tensor = self._cross(products) + self.out(self.deep(deep)).squeeze(-1)
        return out

    @property
    def part_flops(self) -> int:
        return self.weights.flops(ITEM) + self.deep.part_flops(ITEM)

    @property
    def interact_flops(self) -> int:
        own = self.deep.rest_flops + linear_flops(self.out)
        if self.pair is None:
            return own
        return own + self.pair.flops + self.weights.flops(PAIR) + self.deep.part_flops(PAIR)

    def _cross(self, products: Tensor) -> Tensor:
        """(..., L + 1) products x_0 . w_l -> (...) the cross half of the score, w . x_L."""
        constant = self.biases.cumsum(0)  # row l is c_{l+1}; c_0 is zero
        shifts = (constant * self.weights.linear.weight[1:]).sum(-1)  # c_l . w_l for l = 1 ... L
        *layers, last = products.unbind(-1)
        a = 1 + layers[0]
        for layer, shift in zip(layers[1:], shifts[:-1], strict=True):
            a = a * (1 + layer) + shift
        return a * last + shifts[-1]

    def _part(self, x: Tensor, side: int) -> Rep:
        return Rep(products=self.weights.part(side, x), deep=self.deep.part(side, x))
