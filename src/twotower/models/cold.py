"""COLD (Wang et al., DLP-KDD 2020): a pre-ranker that may look at query and item together.

    x = [e_1, ..., e_M]: groups, of query fields, item fields and cross features
    s = sigmoid(W x + b), x' = [s_1 e_1, ..., s_M e_M]    (squeeze and excitation, only while selecting)
    score = fully connected layers on x, or on x'

With ``gate`` the mean of s_i over the data says how much group i counts; `twotower.pipeline.selection` keeps
the groups that pay for their time and trains what it serves without a gate. A cross feature gets its value
from both sides: a whole column of it is gathered for the candidates of a request. The first layer is linear
in x and splits exactly into the share of the query, the item, the crosses and the pair fields.

Differs from the paper: cross features are pairs of values by hash (`twotower.nn.hashed`), its own are not
published, nor are the widths of its layers; no 16-bit floats, and so no squashing of large sums; pair fields,
which it does not know, have no gate.

Letters: Q queries, C shared or K own candidates, F fields, M groups, X crosses, E embedding, H first layer.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import Field as Option
from torch import Tensor, nn

from twotower.config import nearest
from twotower.data.spec import Column, FeatureSpec
from twotower.errors import ConfigError
from twotower.models.joint import Joint, JointConfig, column_spec
from twotower.nn.cost import linear_flops
from twotower.nn.hashed import HashedCrosses, crossed_columns
from twotower.nn.mlp import Norm, behind, mlp
from twotower.nn.split import SplitLinear, side_by_side
from twotower.types import Batch, Rep, RepSpec

QUERY, ITEM, CROSS, PAIR = 0, 1, 2, 3  # the parts of x


class COLDConfig(JointConfig):
    crosses: tuple[tuple[str, str], ...] = Option(
        (), description="[query field, item field] pairs of ids, categories or bags; each is a group"
    )
    buckets: int = Option(2**16, ge=1, lt=2**31, description="rows of the table of each cross")
    gate: bool = Option(False, description="squeeze and excitation over the groups, to select by")
    keep: tuple[str, ...] | None = Option(
        None, description='groups to read: fields, and crosses as "field x field"; null: all'
    )
    layers: tuple[int, ...] = Option(
        (256, 128, 128, 64, 64, 32), min_length=1, description="hidden layers; one more makes the score"
    )
    norm: Norm = "batch"
    dropout: float = Option(0.0, ge=0, lt=1)


class COLD(Joint):
    config: COLDConfig

    def __init__(self, spec: FeatureSpec, config: COLDConfig) -> None:
        _check(config, spec)
        super().__init__(spec, config, keep=config.keep)
        crosses = crossed_columns(spec, config.crosses)
        crossed = [(query, item) for query, item in crosses if _kept(config, query.name, item.name)]
        self.crosses = nn.ModuleList(
            HashedCrosses([pair], config.buckets, config.embedding, sparse=config.sparse) for pair in crossed
        )
        self.crossed = [_once(side) for side in zip(*crossed, strict=True)] or [[], []]
        self.id_columns += [column for column in self.crossed[ITEM] if column not in self.id_columns]
        past = [self.history] if self.history else []
        self.groups: tuple[str, ...] = (
            *(column.name for column in self.inputs.query_columns),
            *past,
            *(column.name for column in self.inputs.item_columns),
            *(cross_name(query.name, item.name) for query, item in crossed),
        )
        """Names of the M groups, as they stand in x."""
        sizes = [self.inputs.query_size, self.inputs.item_size, config.embedding * len(crossed)]
        self.gate = SplitLinear(sizes, len(self.groups)) if config.gate else None
        self.first = SplitLinear([*sizes, config.embedding if config.pair else 0], config.layers[0])
        self.deep = nn.Sequential(
            *behind(config.layers[0], norm=config.norm, dropout=config.dropout),
            *mlp(config.layers, norm=config.norm, dropout=config.dropout),
        )
        self.out = nn.Linear(config.layers[-1], 1)
        self.start_from_pair(self.out)

    def gates(self, query: Rep, item: Rep) -> Tensor:
        """(Q, K, M): the share of each group that passes. Only a model with ``gate`` has any."""
        parts = self._parts(item)
        return self._gates(query, parts, self._cross(query, parts))

    def query_part(self, fields: Tensor) -> Rep:
        return self._first_layers(fields.flatten(-2), QUERY)

    def item_part(self, fields: Tensor) -> Rep:
        return self._first_layers(fields.flatten(-2), ITEM)

    def part_specs(self) -> tuple[RepSpec, ...]:
        if self.gate is not None:
            return RepSpec("x", (self.inputs.item_size,)), RepSpec("gate", (len(self.groups),))
        return (RepSpec("deep", (self.config.layers[0],)),)

    def query_beside(self, query: Batch) -> Rep:
        return Rep((_value(column), query[column.name]) for column in self.crossed[QUERY])

    def item_beside(self, item: Batch) -> Rep:
        return Rep((_value(column), item[column.name]) for column in self.crossed[ITEM])

    def beside_specs(self) -> tuple[RepSpec, ...]:
        specs = [column_spec(column) for column in self.crossed[ITEM]]
        return tuple(RepSpec(f"value_{spec.name}", spec.shape, spec.dtype) for spec in specs)

    def interact(self, query: Rep, item: Rep, pair: Tensor | None) -> Tensor:
        cross = self._cross(query, item)
        if self.gate is None:
            deep = query["deep"][:, None] + item["deep"]  # (Q, K, H): the shared (C, H) broadcasts
            late = [(CROSS, cross), (PAIR, pair)]
            for which, x in late:
                deep = deep if x is None else deep + self.first.part(which, x)
        else:  # a group's gate depends on both sides, so that no share of the first layer is known before
            x = side_by_side(query["x"], item["x"], cross)
            groups = x.view(*x.shape[:-1], len(self.groups), self.config.embedding)
            x = (groups * self._gates(query, item, cross).unsqueeze(-1)).flatten(-2)
            deep = self.first.whole(x if pair is None else torch.cat([x, pair], dim=-1))
        out: Tensor = self.out(self.deep(deep)).squeeze(-1)
        return out

    @property
    def part_flops(self) -> int:
        return (self.first if self.gate is None else self.gate).flops(ITEM)

    @property
    def interact_flops(self) -> int:
        own = linear_flops(self.deep, self.out) + (0 if self.pair is None else self.pair.flops)
        if self.gate is not None:
            return own + linear_flops(self.first) + self.gate.flops(CROSS)
        return own + self.first.flops(CROSS) + self.first.flops(PAIR)

    def _first_layers(self, x: Tensor, part: int) -> Rep:
        if self.gate is not None:
            return Rep(x=x, gate=self.gate.part(part, x))
        return Rep(deep=self.first.part(part, x))

    def _cross(self, query: Rep, item: Rep) -> Tensor | None:
        """(Q, K, X E): the cross features of every pair."""
        if not self.crosses:
            return None
        own = item["deep" if self.gate is None else "x"].dim() == 3
        ours, theirs = (
            Batch((column.name, rep[_value(column)]) for column in columns)
            for columns, rep in zip(self.crossed, (query, item), strict=True)
        )
        return torch.cat([cross(ours, theirs, own) for cross in self.crosses], dim=-1)

    def _gates(self, query: Rep, item: Rep, cross: Tensor | None) -> Tensor:
        if self.gate is None:
            raise ConfigError("this COLD was made without a gate; set gate: true to select by it")
        logits = query["gate"][:, None] + item["gate"]
        return (logits if cross is None else logits + self.gate.part(CROSS, cross)).sigmoid()


def cross_name(query: str, item: str) -> str:
    """The group that a cross of two fields is.

    >>> cross_name("user", "genres")
    'user x genres'
    """
    return f"{query} x {item}"


def _value(column: Column) -> str:
    """Under which name a representation carries the column's encoded values."""
    return f"value_{column.name}"


def _kept(config: COLDConfig, query: str, item: str) -> bool:
    return config.keep is None or cross_name(query, item) in config.keep


def _once(columns: Sequence[Column]) -> list[Column]:
    return list({column.name: column for column in columns}.values())


def _check(config: COLDConfig, spec: FeatureSpec) -> None:
    """Names in the config must be names of the spec, and crosses cross the sides."""
    groups = [column.name for column in spec.columns] + [cross_name(*pair) for pair in config.crosses]
    for name in config.keep or ():
        if name not in groups:
            raise ConfigError(f"keep: no group {name!r}{nearest(name, groups)}")
