"""DCN-V2 (Wang et al., WWW 2021): explicit crosses beside a deep network, as ranker.

    x_0 = [field vectors of query; of item; of the pair]
    x_{l+1} = x_0 * (W_l x_l + b_l) + x_l
    score = w . [x_L; MLP(x_0)] + b                 (the paper's parallel structure, its eq. 1, 3)

Both first layers, W_0 x_0 and the MLP's, are linear in x_0 and split exactly into a query's, an item's and a
pair's share (see `twotower.nn.split`). ``store`` says how much of the item's share the item table keeps:
``ids`` (a few integers), ``embeddings`` (the field vectors) or ``first_layer`` (those and both first layers).
Deeper layers mix the sides and have no split.

Differs from the paper: the stacked structure is left out (its MLP reads x_L, so nothing splits). Pair fields
(an earlier stage's score or rank) are standardised with running statistics and enter twice: as one more
field vector, and with a weight of their own on the output, so that training starts from the order the ranker
was handed and can only be argued away from it.

Letters: Q queries, C shared or K own candidates, F fields, E embedding, P pair fields, X = width of x_0.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field as Option
from torch import Tensor, nn

from twotower.config import Config
from twotower.data.spec import Column, FeatureSpec
from twotower.models.base import Model, masked, pair_columns
from twotower.nn.cross import CrossLayer
from twotower.nn.history import HistoryConfig
from twotower.nn.inputs import Inputs
from twotower.nn.mlp import Norm, RowNorm, behind, mlp
from twotower.nn.split import SplitLinear
from twotower.types import Batch, Rep, RepSpec

QUERY, ITEM, PAIR = 0, 1, 2  # the parts of x_0


class DCNv2Config(Config):
    embedding: int = Option(16, ge=1, description="floats per field")
    crosses: int = Option(2, ge=1, description="cross layers")
    rank: int = Option(0, ge=0, description="rank of the later cross matrices; 0 keeps them full")
    layers: tuple[int, ...] = Option((256, 256), min_length=1, description="the deep network")
    norm: Norm = "none"
    dropout: float = Option(0.2, ge=0, lt=1)
    pair: tuple[str, ...] = Option((), description="pair fields, such as retrieve_score")
    history: HistoryConfig | None = None
    store: Literal["ids", "embeddings", "first_layer"] = "first_layer"
    sparse: bool = Option(False, description="row-wise updates of the table, for large vocabularies")


class DCNv2(Model):
    kind = "joint"
    config: DCNv2Config

    def __init__(self, spec: FeatureSpec, config: DCNv2Config) -> None:
        super().__init__()
        self.spec, self.config = spec, config
        self.inputs = Inputs(spec, config.embedding, config.history, sparse=config.sparse)
        self.history = self.inputs.history
        self.pair_fields = config.pair
        pair_size = [config.embedding] if config.pair else []
        sizes = [self.inputs.query_size, self.inputs.item_size, *pair_size]
        width = sum(sizes)
        self.first_cross = SplitLinear(sizes, width)
        self.crosses = nn.ModuleList(CrossLayer(width, config.rank) for _ in range(config.crosses - 1))
        self.first_deep = SplitLinear(sizes, config.layers[0])
        self.deep = nn.Sequential(
            *behind(config.layers[0], norm=config.norm, dropout=config.dropout),
            *mlp(config.layers, norm=config.norm, dropout=config.dropout),
        )
        self.out = nn.Linear(width + config.layers[-1], 1)
        if config.pair:
            self.pair_norm = RowNorm(len(config.pair))
            self.pair_vector = nn.Linear(len(config.pair), config.embedding)
            self.pair_weight = nn.Parameter(torch.ones(len(config.pair)))
            nn.init.zeros_(self.out.weight)  # so the first scores are the pair fields' own

    def encode_query(self, query: Batch) -> Rep:
        return self._first_layers(self.inputs.query(query).flatten(-2), QUERY)

    def encode_item(self, item: Batch) -> Rep:
        if self.config.store == "ids":
            return Rep((column.name, item[column.name]) for column in self.inputs.item_columns)
        return self._item_rep(item, deep=self.config.store == "first_layer")

    def score(self, query: Rep, item: Rep, pair: Batch | None = None, mask: Tensor | None = None) -> Tensor:
        if self.config.store == "ids":
            item = self._item_rep(Batch(item), deep=False)
        if self.config.store != "first_layer":
            item = self._first_layers(item["x"], ITEM)
        own = item["x"].dim() == 3
        Q, K = len(query["x"]), item["x"].shape[-2]
        parts = [query["x"][:, None].expand(Q, K, -1), item["x"] if own else item["x"].expand(Q, K, -1)]
        cross = query["cross"][:, None] + item["cross"]  # (Q, K, X): the shared (C, X) broadcasts
        deep = query["deep"][:, None] + item["deep"]
        shortcut = 0.0
        if self.pair_fields:
            known = self.pair_norm(pair_columns(pair, self.pair_fields, (Q, K)))  # (Q, K, P)
            vector = self.pair_vector(known)
            parts.append(vector)
            cross = cross + self.first_cross.part(PAIR, vector)
            deep = deep + self.first_deep.part(PAIR, vector)
            shortcut = known @ self.pair_weight
        x0 = torch.cat(parts, dim=-1)  # (Q, K, X)
        x = x0 * cross + x0
        for layer in self.crosses:
            x = layer(x0, x)
        out: Tensor = self.out(torch.cat([x, self.deep(deep)], dim=-1)).squeeze(-1) + shortcut
        return masked(out, mask)

    def item_specs(self) -> tuple[RepSpec, ...]:
        if self.config.store == "ids":
            return tuple(_column_spec(column) for column in self.inputs.item_columns)
        x = RepSpec("x", (self.inputs.item_size,))
        if self.config.store == "embeddings":
            return (x,)
        width = self.first_cross.linear.out_features
        return (x, RepSpec("cross", (width,)), RepSpec("deep", (self.config.layers[0],)))

    def _item_rep(self, item: Batch, *, deep: bool) -> Rep:
        x = self.inputs.item(item).flatten(-2)
        return self._first_layers(x, ITEM) if deep else Rep(x=x)

    def _first_layers(self, x: Tensor, part: int) -> Rep:
        return Rep(x=x, cross=self.first_cross.part(part, x), deep=self.first_deep.part(part, x))


def _column_spec(column: Column) -> RepSpec:
    if column.kind in ("id", "category"):
        return RepSpec(column.name, (), "int64")
    return RepSpec(column.name, (column.width,), "int64" if column.kind == "bag" else "float32")
