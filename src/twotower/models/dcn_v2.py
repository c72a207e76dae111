"""DCN-V2 (Wang et al., WWW 2021): explicit crosses beside a deep network, as ranker.

    x_0 = [field vectors of query; of item; of the pair]
    x_{l+1} = x_0 * (W_l x_l + b_l) + x_l
    score = w . [x_L; MLP(x_0)] + b                 (the paper's parallel structure, its eq. 1, 3)

Both first layers, W_0 x_0 and the MLP's, are linear in x_0 and split exactly into a query's, an item's and a
pair's share. Deeper layers mix the sides and have no split.

Differs from the paper: the stacked structure is left out (its MLP reads x_L, so nothing splits).

Letters: Q queries, C shared or K own candidates, F fields, E embedding, X = width of x_0.
"""

from __future__ import annotations

import torch
from pydantic import Field as Option
from torch import Tensor, nn

from twotower.data.spec import FeatureSpec
from twotower.models.joint import Joint, JointConfig
from twotower.nn.cost import linear_flops
from twotower.nn.cross import CrossLayer
from twotower.nn.mlp import Norm, behind, mlp
from twotower.nn.split import SplitLinear, side_by_side
from twotower.types import Rep, RepSpec

QUERY, ITEM, PAIR = 0, 1, 2  # the parts of x_0


class DCNv2Config(JointConfig):
    crosses: int = Option(2, ge=1, description="cross layers")
    rank: int = Option(0, ge=0, description="rank of the later cross matrices; 0 keeps them full")
    layers: tuple[int, ...] = Option((256, 256), min_length=1, description="the deep network")
    norm: Norm = "none"
    dropout: float = Option(0.2, ge=0, lt=1)


class DCNv2(Joint):
    config: DCNv2Config

    def __init__(self, spec: FeatureSpec, config: DCNv2Config) -> None:
        super().__init__(spec, config)
        sizes = [self.inputs.query_size, self.inputs.item_size, *([config.embedding] if config.pair else [])]
        width = sum(sizes)
        self.first_cross = SplitLinear(sizes, width)
        self.crosses = nn.ModuleList(CrossLayer(width, config.rank) for _ in range(config.crosses - 1))
        self.first_deep = SplitLinear(sizes, config.layers[0])
        self.deep = nn.Sequential(
            *behind(config.layers[0], norm=config.norm, dropout=config.dropout),
            *mlp(config.layers, norm=config.norm, dropout=config.dropout),
        )
        self.out = nn.Linear(width + config.layers[-1], 1)
        self.start_from_pair(self.out)

    def query_part(self, fields: Tensor) -> Rep:
        return self._first_layers(fields.flatten(-2), QUERY)

    def item_part(self, fields: Tensor) -> Rep:
        return self._first_layers(fields.flatten(-2), ITEM)

    def part_specs(self) -> tuple[RepSpec, ...]:
        width, deep = self.first_cross.linear.out_features, self.config.layers[0]
        return (
            RepSpec("x", (self.inputs.item_size,)),
            RepSpec("cross", (width,)),
            RepSpec("deep", (deep,)),
        )

    def interact(self, query: Rep, item: Rep, pair: Tensor | None) -> Tensor:
        cross = query["cross"][:, None] + item["cross"]  # (Q, K, X): the shared (C, X) broadcasts
        deep = query["deep"][:, None] + item["deep"]
        if pair is not None:
            cross = cross + self.first_cross.part(PAIR, pair)
            deep = deep + self.first_deep.part(PAIR, pair)
        x0 = side_by_side(query["x"], item["x"], pair)  # (Q, K, X)
        x = x0 * cross + x0
        for layer in self.crosses:
            x = layer(x0, x)
        out: Tensor = self.out(torch.cat([x, self.deep(deep)], dim=-1)).squeeze(-1)
        return out

    @property
    def part_flops(self) -> int:
        return self.first_cross.flops(ITEM) + self.first_deep.flops(ITEM)

    @property
    def interact_flops(self) -> int:
        own = linear_flops(self.crosses, self.deep, self.out)
        return own + (
            0
            if self.pair is None
            else self.pair.flops + self.first_cross.flops(PAIR) + self.first_deep.flops(PAIR)
        )

    def _first_layers(self, x: Tensor, part: int) -> Rep:
        return Rep(x=x, cross=self.first_cross.part(part, x), deep=self.first_deep.part(part, x))
