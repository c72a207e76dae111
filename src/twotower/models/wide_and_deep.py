"""Wide & Deep (Cheng et al., DLRS 2016): a linear model on crosses beside a deep network.

    score = w_wide . [x, phi(x)] + w_deep . a(l_f) + b      (eq. 3, before the sigmoid)
    phi_k(x) = the product of some values of x               (eq. 1, cross-product transformation)
    a(l+1) = relu(W a(l) + b)                                (eq. 2), on the field vectors side by side

First-order weights and the network's first layer split exactly; a cross of the query's and an item's values
is looked up per pair, so that items keep the values that are crossed. Crosses within a side would need none
of this and are left out: the network sees each side as a whole.

Differs from the paper: crosses are hashed (`twotower.nn.hashed`), a bag's or a history's is the mean over its
values; one optimiser for both halves (the paper: FTRL for the wide one). A pooled history enters the network
only.

Letters: Q queries, C shared or K own candidates, F fields, E embedding.
"""

from __future__ import annotations

from pydantic import Field as Option
from torch import Tensor, nn

from twotower.data.spec import Column, FeatureSpec
from twotower.models.joint import ITEM, PAIR, QUERY, DeepConfig, Joint, column_spec
from twotower.nn.cost import linear_flops
from twotower.nn.hashed import HashedCrosses, crossed_columns
from twotower.nn.linear_part import LinearPart
from twotower.nn.split_mlp import SplitMLP
from twotower.types import Batch, Rep, RepSpec


class WideAndDeepConfig(DeepConfig):
    crosses: tuple[tuple[str, str], ...] = Option(
        (), description="[query field or history, item field] pairs of values, a weight each"
    )
    buckets: int = Option(2**20, ge=1, lt=2**31, description="rows of the table that crosses are hashed into")


class WideAndDeep(Joint):
    config: WideAndDeepConfig

    def __init__(self, spec: FeatureSpec, config: WideAndDeepConfig) -> None:
        super().__init__(spec, config)
        crosses = crossed_columns(spec, config.crosses, history=True)
        self.crosses = HashedCrosses(crosses, config.buckets, sparse=config.sparse) if crosses else None
        self.crossed_query = list({query.name: query for query, _ in crosses}.values())
        self.crossed_item = list({item.name: item for _, item in crosses}.values())
        for column in self.crossed_query:
            if column.kind == "sequence":
                self.history = column.name
        self.linear = LinearPart(self.inputs.query_columns, self.inputs.item_columns, sparse=config.sparse)
        self.deep = SplitMLP(self.sizes, config.layers, norm=config.norm, dropout=config.dropout)
        self.out = nn.Linear(config.layers[-1], 1)
        self.start_from_pair(self.out)

    def query_beside(self, query: Batch) -> Rep:
        return _values(query, self.crossed_query).join(Rep(linear=self.linear.query(query)))

    def item_beside(self, item: Batch) -> Rep:
        return _values(item, self.crossed_item).join(Rep(linear=self.linear.item(item)))

    def beside_specs(self) -> tuple[RepSpec, ...]:
        specs = [column_spec(column) for column in self.crossed_item]
        values = (RepSpec(f"value_{spec.name}", spec.shape, spec.dtype) for spec in specs)
        return (RepSpec("linear", ()), *values)

    @property
    def beside_flops(self) -> int:
        return self.linear.item_flops

    def query_part(self, fields: Tensor) -> Rep:
        return Rep(deep=self.deep.part(QUERY, fields.flatten(-2)))

    def item_part(self, fields: Tensor) -> Rep:
        return Rep(deep=self.deep.part(ITEM, fields.flatten(-2)))

    def part_specs(self) -> tuple[RepSpec, ...]:
        return (RepSpec("deep", (self.config.layers[0],)),)

    def interact(self, query: Rep, item: Rep, pair: Tensor | None) -> Tensor:
        wide = query["linear"][:, None] + item["linear"]  # (Q, K): the shared (C,) broadcasts
        if self.crosses is not None:
            ours = Batch((column.name, query[f"value_{column.name}"]) for column in self.crossed_query)
            theirs = Batch((column.name, item[f"value_{column.name}"]) for column in self.crossed_item)
            wide = wide + self.crosses(ours, theirs, item["linear"].dim() == 2).squeeze(-1)
        deep = query["deep"][:, None] + item["deep"]
        if pair is not None:
            deep = deep + self.deep.part(PAIR, pair)
        out: Tensor = wide + self.out(self.deep(deep)).squeeze(-1)
        return out

    @property
    def part_flops(self) -> int:
        return self.deep.part_flops(ITEM)

    @property
    def interact_flops(self) -> int:
        own = self.deep.rest_flops + linear_flops(self.out)
        return own + (0 if self.pair is None else self.pair.flops + self.deep.part_flops(PAIR))


def _values(batch: Batch, columns: list[Column]) -> Rep:
    """The encoded values that are crossed, under names that no part of the network has."""
    return Rep((f"value_{column.name}", batch[column.name]) for column in columns)
