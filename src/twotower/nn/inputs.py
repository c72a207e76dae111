"""What every feature model begins with: the field vectors of both sides, from one table, and the history.

Letters: Q queries, C or K candidates, L places, T chosen (row, place) pairs, F fields, E embedding.
"""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor, nn

from twotower.data.spec import FeatureSpec
from twotower.errors import ConfigError
from twotower.nn.cost import linear_flops
from twotower.nn.embedding import LINEAR, Embeddings
from twotower.nn.history import History, HistoryConfig
from twotower.types import Batch


class Inputs(nn.Module):
    """Query and context columns on one side, item columns on the other; texts are left to text towers.

    ``keep`` names the columns that become fields, the history's among them; None is all.
    """

    def __init__(
        self,
        spec: FeatureSpec,
        embedding: int,
        history: HistoryConfig | None,
        *,
        sparse: bool,
        keep: Collection[str] | None = None,
    ) -> None:
        super().__init__()
        kept = [c for c in spec.columns if keep is None or c.name in keep]
        fields = [c for c in kept if c.kind not in ("sequence", "text")]
        self.query_columns = [c for c in fields if c.side in ("query", "context")]
        self.item_columns = [c for c in fields if c.side == "item"]
        sequences = [c for c in spec.columns if c.kind == "sequence"] if history else []
        if history and not sequences:
            raise ConfigError("the model reads a history, but the schema declares no sequence field")
        sequences = [c for c in sequences if c in kept]
        if len(sequences) > 1:
            names = ", ".join(c.name for c in sequences)
            raise ConfigError(f"the model reads one history, and there are {names}; choose one by features:")
        if not self.item_columns or not (self.query_columns or sequences):
            raise ConfigError("a tower has no features: declare fields for both the query and the item")
        targets = [spec[str(c.of)] for c in sequences if spec[str(c.of)] not in fields]  # theirs are its rows
        self.embeddings = Embeddings([*fields, *targets, *sequences], embedding, sparse=sparse)
        self.past = History(sequences[0], embedding, history) if history and sequences else None
        self.history = sequences[0].name if sequences else None
        self.query_size = embedding * (len(self.query_columns) + len(sequences))
        self.item_size = embedding * len(self.item_columns)

    def query(self, query: Batch) -> Tensor:
        """(Q, F, E): the query's field vectors, and last its history's."""
        past = [] if self.past is None else [self.past(query, self.embeddings).unsqueeze(-2)]
        return self._with_columns(query, past, None)

    def places(self, query: Batch, at: Tensor) -> Tensor:
        """(T, F, E): the same as if the history ended at each of the places ``at`` (B, L) chooses."""
        if self.past is None:
            raise ConfigError("training on sequences needs a query tower with a history (set history:)")
        past = self.past.places(query, self.embeddings)[at].unsqueeze(-2)
        return self._with_columns(query, [past], at.nonzero()[:, 0])

    def item(self, item: Batch) -> Tensor:
        """(..., F, E): the items' field vectors, shared or own."""
        fields: Tensor = self.embeddings(item, self.item_columns)
        return fields

    @property
    def item_flops(self) -> int:
        """FLOPs of the field vectors of one item: those of its numbers and vectors; ids are looked up."""
        return sum(
            linear_flops(self.embeddings.linear_of(c.name)) for c in self.item_columns if c.kind in LINEAR
        )

    def _with_columns(self, query: Batch, past: list[Tensor], row: Tensor | None) -> Tensor:
        if not self.query_columns:
            return past[0]
        fields = self.embeddings(query, self.query_columns)
        return torch.cat([fields if row is None else fields[row], *past], dim=-2)
