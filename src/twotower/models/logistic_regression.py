"""Logistic regression with hashed crosses: the second generation of pre-ranking models.

    logit = b + sum_f w[f, x_f] + sum_(q, i) c[h(q, i, x_q, x_i)]

One weight per value of each query, context and item field (numbers are linear, bags a mean), and one per
pair of a query's and an item's value, found by hashing (`twotower.nn.hashed`): what ad click prediction at
Google (McMahan et al., KDD 2013) and the wide part of Wide & Deep (Cheng et al., 2016) learn. Without crosses
all queries rank the items alike.

An item keeps its encoded columns and nothing else. All weights stay with the model, so an item table stays
valid while the model learns, from batches or from a stream (`twotower.train.online`).

Letters: Q queries, C shared or K own candidates, P pair fields.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field as Option
from torch import Tensor, nn

from twotower.config import Config
from twotower.data.spec import FeatureSpec
from twotower.models.base import Model, masked, pair_columns
from twotower.models.joint import column_spec
from twotower.nn.hashed import HashedCrosses, crossed_columns
from twotower.nn.inputs import Inputs
from twotower.nn.pair import PairShare
from twotower.types import Batch, Rep, RepSpec

OWN = "own weights"  # of a query: the name of their sum among its columns


class LogisticRegressionConfig(Config):
    crosses: Literal["auto"] | tuple[tuple[str, str], ...] = Option(
        "auto",
        description="[query field, item field] pairs; auto: all pairs of ids and categories but id x id",
    )
    buckets: int = Option(2**20, ge=1, lt=2**31, description="rows of the table that crosses are hashed into")
    pair: tuple[str, ...] = Option((), description="pair fields, such as retrieve_score")
    sparse: bool = Option(True, description="row-wise updates: a step costs what it touches")


class LogisticRegression(Model):
    kind = "joint"
    config: LogisticRegressionConfig

    def __init__(self, spec: FeatureSpec, config: LogisticRegressionConfig) -> None:
        super().__init__()
        self.spec, self.config = spec, config
        self.inputs = Inputs(spec, 1, None, sparse=config.sparse)
        names = _all_crosses(self.inputs) if config.crosses == "auto" else config.crosses
        crosses = crossed_columns(spec, names)
        self.crosses = HashedCrosses(crosses, config.buckets, sparse=config.sparse) if crosses else None
        self.crossed = tuple(dict.fromkeys(query.name for query, _ in crosses))
        self.bias = nn.Parameter(torch.zeros(()))
        for parameter in self.parameters():
            nn.init.zeros_(parameter)
        self.pair_fields = config.pair
        self.known = PairShare(config.pair) if config.pair else None

    def encode_query(self, query: Batch) -> Rep:
        """The sum of the query's own weights, and the columns that meet the item's."""
        own = self.bias + self.inputs.query(query).sum((-2, -1))
        return Rep((name, query[name]) for name in self.crossed).join(Rep({OWN: own}))

    def encode_item(self, item: Batch) -> Rep:
        return Rep((column.name, item[column.name]) for column in self.inputs.item_columns)

    def score(self, query: Rep, item: Rep, pair: Batch | None = None, mask: Tensor | None = None) -> Tensor:
        linear = self.inputs.item(item).sum((-2, -1))  # (C,) or (Q, K)
        logits = query[OWN][:, None] + linear
        if self.crosses is not None:
            logits = logits + self.crosses(query, item, own=linear.dim() == 2).squeeze(-1)
        if self.known is not None:
            logits = logits + self.known(pair_columns(pair, self.pair_fields, logits.shape), mask)
        return masked(logits, mask)

    def item_specs(self) -> tuple[RepSpec, ...]:
        return tuple(column_spec(column) for column in self.inputs.item_columns)

    def item_state(self) -> dict[str, Tensor]:
        return {}

    @property
    def flops_per_pair(self) -> int:
        return self.inputs.item_flops + (0 if self.known is None else self.known.flops)


def _all_crosses(inputs: Inputs) -> list[tuple[str, str]]:
    """Every pair of a query's and an item's values, but id x id: almost all of those never occur again."""
    values = ("id", "category", "bag")
    left = [column for column in inputs.query_columns if column.kind in values]
    right = [column for column in inputs.item_columns if column.kind in values]
    return [(q.name, i.name) for q in left for i in right if (q.kind, i.kind) != ("id", "id")]
