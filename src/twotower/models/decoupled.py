"""What all models with two separate towers share: field vectors in, each side's representation out.

Letters: Q queries, C or K candidates, L places, T chosen (row, place) pairs, F fields, E embedding.
"""

from __future__ import annotations

from abc import abstractmethod

from pydantic import Field as Option
from torch import Tensor

from twotower.config import Config
from twotower.data.spec import FeatureSpec
from twotower.models.base import SequenceModel
from twotower.nn.history import HistoryConfig
from twotower.nn.inputs import Inputs
from twotower.types import Batch, Rep


class DecoupledConfig(Config):
    embedding: int = Option(32, ge=1, description="floats per field")
    history: HistoryConfig | None = Option(None, description="how the query tower reads the history column")
    sparse: bool = Option(False, description="row-wise updates of the table, for large vocabularies")


class Decoupled(SequenceModel):
    """Two towers: `query_part` and `item_part` turn the field vectors of a side into its representation."""

    config: DecoupledConfig

    def __init__(self, spec: FeatureSpec, config: DecoupledConfig) -> None:
        super().__init__()
        self.spec, self.config = spec, config
        self.inputs = Inputs(spec, config.embedding, config.history, sparse=config.sparse)
        self.history = self.inputs.history

    @abstractmethod
    def query_part(self, fields: Tensor) -> Rep:
        """(Q or T, F, E) field vectors -> the queries' representation."""

    @abstractmethod
    def item_part(self, fields: Tensor) -> Rep:
        """(..., F, E) field vectors -> the items' representation."""

    def encode_query(self, query: Batch) -> Rep:
        return self.query_part(self.inputs.query(query))

    def encode_places(self, query: Batch, at: Tensor) -> Rep:
        return self.query_part(self.inputs.places(query, at))

    def encode_item(self, item: Batch) -> Rep:
        return self.item_part(self.inputs.item(item))
