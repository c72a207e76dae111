"""What all rankers share: how deep the item's half is stored, and how pair fields come in.

A ranker's network mixes the sides, so it cannot be computed ahead as a whole. What can: the field vectors,
and whatever the first layers make of one side alone (see `twotower.nn.split`). ``store`` says how much of
the item's half the item table keeps:

    ids          the encoded columns, a few integers; such a table stays valid while the model learns
    embeddings   the field vectors
    first_layer  all that `item_part` computes from them

Scores are the same at every depth; bytes per item and FLOPs per pair are not.

Letters: Q queries, C shared or K own candidates, F fields, E embedding, P pair fields.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection
from typing import ClassVar, Literal

import torch
from pydantic import Field as Option
from torch import Tensor, nn

from twotower.config import Config
from twotower.data.spec import Column, FeatureSpec
from twotower.models.base import Model, ModelKind, masked, pair_columns
from twotower.nn.history import HistoryConfig
from twotower.nn.inputs import Inputs
from twotower.nn.mlp import Norm
from twotower.nn.pair import PairField
from twotower.types import Batch, Rep, RepSpec

QUERY, ITEM, PAIR = 0, 1, 2
"""The parts of a first layer's input."""


class JointConfig(Config):
    embedding: int = Option(16, ge=1, description="floats per field")
    pair: tuple[str, ...] = Option((), description="pair fields, such as retrieve_score")
    history: HistoryConfig | None = Option(None, description="how the history column becomes a query field")
    store: Literal["ids", "embeddings", "first_layer"] = "first_layer"
    sparse: bool = Option(False, description="row-wise updates of the table, for large vocabularies")


class DeepConfig(JointConfig):
    """A ranker with a deep network among its parts."""

    layers: tuple[int, ...] = Option((256, 256), min_length=1, description="the deep network")
    norm: Norm = "none"
    dropout: float = Option(0.2, ge=0, lt=1)


class Joint(Model):
    """A ranker: `query_part` once per request, `item_part` once per item, `interact` per candidate."""

    kind: ClassVar[ModelKind] = "joint"
    stores = ("ids", "embeddings", "first_layer")
    config: JointConfig

    def __init__(self, spec: FeatureSpec, config: JointConfig, keep: Collection[str] | None = None) -> None:
        """``keep`` names the columns that become fields; None is all."""
        super().__init__()
        self.spec, self.config = spec, config
        self.inputs = Inputs(spec, config.embedding, config.history, sparse=config.sparse, keep=keep)
        self.id_columns = list(self.inputs.item_columns)  # what ``store: ids`` keeps
        self.history = self.inputs.history
        self.pair_fields = config.pair
        self.pair = PairField(config.pair, config.embedding) if config.pair else None
        sizes = [self.inputs.query_size, self.inputs.item_size, *([config.embedding] if config.pair else [])]
        self.sizes = tuple(sizes)  # of the parts of a first layer's input

    # what a ranker consists of ------------------------------------------------------------------------

    @abstractmethod
    def query_part(self, fields: Tensor) -> Rep:
        """(Q, F, E) field vectors -> all that the query contributes by itself."""

    @abstractmethod
    def item_part(self, fields: Tensor) -> Rep:
        """(..., F, E) field vectors -> all that an item contributes by itself."""

    @abstractmethod
    def part_specs(self) -> tuple[RepSpec, ...]:
        """What `item_part` returns for one item."""

    @abstractmethod
    def interact(self, query: Rep, item: Rep, pair: Tensor | None) -> Tensor:
        """(Q, K) scores; the item's part is shared (C, ...) or own (Q, K, ...), ``pair`` is (Q, K, E)."""

    @property
    @abstractmethod
    def part_flops(self) -> int:
        """FLOPs of `item_part` for one item."""

    @property
    @abstractmethod
    def interact_flops(self) -> int:
        """FLOPs of `interact` for one pair, the pair fields' share included."""

    # what does not come from field vectors, at every depth beside the parts; none by default -------------

    def query_beside(self, query: Batch) -> Rep:
        """(Q, ...) encoded columns -> what the query brings beside `query_part`."""
        return Rep()

    def item_beside(self, item: Batch) -> Rep:
        """(C, ...) or (Q, K, ...) encoded columns -> what an item brings beside `item_part`."""
        return Rep()

    def beside_specs(self) -> tuple[RepSpec, ...]:
        """What `item_beside` returns for one item."""
        return ()

    @property
    def beside_flops(self) -> int:
        """FLOPs of `item_beside` for one item."""
        return 0

    # what follows from it -----------------------------------------------------------------------------

    def encode_query(self, query: Batch) -> Rep:
        return self.query_part(self.inputs.query(query)).join(self.query_beside(query))

    def encode_item(self, item: Batch) -> Rep:
        if self.config.store == "ids":
            return Rep((column.name, item[column.name]) for column in self.id_columns)
        fields = self.inputs.item(item)
        part = Rep(x=fields.flatten(-2)) if self.config.store == "embeddings" else self.item_part(fields)
        return part.join(self.item_beside(item))

    def score(self, query: Rep, item: Rep, pair: Batch | None = None, mask: Tensor | None = None) -> Tensor:
        Q, K, own = next(iter(query.values())).shape[0], *self._candidates(item)
        if self.training and self.kind == "joint" and own and mask is not None and not mask.all():
            return self._score_real(query, item, pair, mask.expand(Q, K))
        parts = self._parts(item)
        if self.pair is None:
            return masked(self.interact(query, parts, None), mask)
        vector, share = self.pair(pair_columns(pair, self.config.pair, (Q, K)), mask)
        return masked(self.interact(query, parts, vector) + share, mask)

    def _score_real(self, query: Rep, item: Rep, pair: Batch | None, mask: Tensor) -> Tensor:
        """Scores of own candidates, each real one by itself: gaps cost nothing, and norms do not see them."""
        row, column = mask.nonzero(as_tuple=True)
        alone = Rep((name, tensor[row, column][:, None]) for name, tensor in item.items())
        if pair is not None:
            known = ((name, pair[name]) for name in self.pair_fields if name in pair)
            pair = Batch((name, tensor.expand(mask.shape)[row, column][:, None]) for name, tensor in known)
        scores = self.score(query.take(row), alone, pair).squeeze(1)
        return scores.new_full(mask.shape, -torch.inf).index_put((row, column), scores)

    def item_specs(self) -> tuple[RepSpec, ...]:
        if self.config.store == "ids":
            return tuple(column_spec(column) for column in self.id_columns)
        if self.config.store == "embeddings":
            return (RepSpec("x", (self.inputs.item_size,)), *self.beside_specs())
        return (*self.part_specs(), *self.beside_specs())

    @property
    def flops_per_pair(self) -> int:
        if self.config.store == "first_layer":
            return self.interact_flops
        late = self.interact_flops + self.part_flops
        return late + (self.inputs.item_flops + self.beside_flops if self.config.store == "ids" else 0)

    def item_state(self) -> dict[str, Tensor]:
        return {} if self.config.store == "ids" else super().item_state()

    def start_from_pair(self, *last: nn.Linear) -> None:
        """With pair fields: zero the last layers' weights, so that the first scores are the pair's own."""
        if self.pair is not None:
            for layer in last:
                nn.init.zeros_(layer.weight)

    def _candidates(self, item: Rep) -> tuple[int, bool]:
        """Number of candidates, C or K, the axis before what one item holds; and whether they are own."""
        spec, tensor = self.item_specs()[0], item[self.item_specs()[0].name]
        before = tensor.shape[: tensor.dim() - len(spec.shape)]
        return before[-1], len(before) == 2

    def _parts(self, item: Rep) -> Rep:
        """The deepest form of a stored representation."""
        if self.config.store == "first_layer":
            return item
        if self.config.store == "ids":
            return self.item_part(self.inputs.item(Batch(item))).join(self.item_beside(Batch(item)))
        x, F = item["x"], len(self.inputs.item_columns)
        part = self.item_part(x.view(*x.shape[:-1], F, self.config.embedding))
        return part.join(Rep((spec.name, item[spec.name]) for spec in self.beside_specs()))


def column_spec(column: Column) -> RepSpec:
    if column.kind in ("id", "category"):
        return RepSpec(column.name, (), "int64")
    return RepSpec(column.name, (column.width,), "int64" if column.kind == "bag" else "float32")
