"""The five dual encoders of Dong et al. ("Exploring Dual Encoder Architectures for Question Answering", EMNLP
2022): two texts, each a vector, and how much their towers share.

    u = P_q(pool(E_q(query))) + F_q    v = P_i(pool(E_i(item))) + F_i    score = cos(u, v) / tau

E are text encoders, P projections (linear, or none), F what other fields of a side add (none in the paper).

=======  ===================================================================================
sde      E and P are one for both sides: a Siamese dual encoder
ade      nothing is shared: asymmetric
ade-ste  the token embedder (first layer of E) is shared
ade-fte  it is shared and frozen
ade-spl  P is shared, E are not
=======  ===================================================================================

Differs from the paper: any text encoder (the paper's is T5's), projections without a bias that start at
normal(0, 1 / inputs), as there, but are left out where ``projection`` is null, so that a published sentence
encoder is an SDE untouched.

Letters: Q queries, C or K candidates, L tokens, D vector length.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field as Option
from pydantic import model_validator
from torch import Tensor, nn
from torch.nn import functional

from twotower.config import Config
from twotower.data.spec import Column, FeatureSpec
from twotower.errors import ConfigError
from twotower.models.base import Model, masked
from twotower.nn.embedding import Embeddings
from twotower.nn.text.columns import text_column
from twotower.nn.text.config import PretrainedConfig, TableConfig, TextConfig
from twotower.nn.text.encoder import TextEncoder
from twotower.nn.text.make import make_text_encoder
from twotower.nn.text.pooling import Pool
from twotower.nn.text.published import published_pool
from twotower.scores.dot import dot
from twotower.types import Batch, Rep, RepSpec

Share = Literal["sde", "ade", "ade-ste", "ade-fte", "ade-spl"]


class DualEncoderConfig(Config):
    query_text: str | None = Option(None, description="text column of the query; null: the only one")
    item_text: str | None = Option(None, description="that of the item")
    text: TextConfig = TableConfig()
    share: Share = Option("sde", description="what the two towers have in common")
    pool: Pool | None = Option(
        None,
        description="one vector from those of the tokens; null: as a pretrained sentence encoder was "
        "published, else the mean",
    )
    projection: int | None = Option(None, ge=1, description="length of the vectors; null: the encoder's own")
    similarity: Literal["cosine", "dot"] = "cosine"
    temperature: float = Option(
        0.05, gt=0, description="cosine: what it is divided by; 0.05 spreads it to 20"
    )
    fields: bool = Option(False, description="the other columns of both sides take part")
    embedding: int = Option(32, ge=1, description="fields: floats per field")

    @model_validator(mode="after")
    def _check(self) -> DualEncoderConfig:
        if self.share == "ade-spl" and self.projection is None:
            raise ValueError("ade-spl shares the projection and needs one: set projection to a length")
        return self


class DualEncoder(Model):
    kind = "dot"
    config: DualEncoderConfig

    def __init__(self, spec: FeatureSpec, config: DualEncoderConfig) -> None:
        super().__init__()
        self.spec = spec
        self.query_text = text_column(spec, "query", config.query_text)
        self.item_text = text_column(spec, "item", config.item_text)
        self._encoders(config)
        pool = config.pool or self._published(config)
        self.config = config.model_copy(update={"text": self.item_encoder.config, "pool": pool})
        self._projections(config)
        self.query_fields = self._fields(("query", "context")) if config.fields else []
        self.item_fields = self._fields(("item",)) if config.fields else []
        if config.fields:
            if not self.query_fields and not self.item_fields:
                raise ConfigError("fields: true, but there is no column beside the texts")
            E = config.embedding
            self.embeddings = Embeddings([*self.query_fields, *self.item_fields], E)
            self.query_beside = _linear(len(self.query_fields) * E, self.dim) if self.query_fields else None
            self.item_beside = _linear(len(self.item_fields) * E, self.dim) if self.item_fields else None

    def _encoders(self, config: DualEncoderConfig) -> None:
        """Parts of the query's tower alone have names that begin with ``query_``: see `item_state`."""
        query, item = self.query_text, self.item_text
        if config.share == "sde":  # one encoder reads both, so the longer text decides what it must read
            item = item.model_copy(update={"width": max(query.width, item.width)})
        if config.share in ("sde", "ade-ste", "ade-fte") and query.tokenizer != item.tokenizer:
            raise ConfigError(
                f"{config.share} reads both texts with one token embedder: give {query.name!r} "
                f"({query.tokenizer}) and {item.name!r} ({item.tokenizer}) the same tokenizer"
            )
        self.item_encoder = make_text_encoder(item, config.text)
        self.query_encoder = None if config.share == "sde" else make_text_encoder(query, config.text)
        if self.query_encoder is not None and config.share in ("ade-ste", "ade-fte"):
            self.query_encoder.borrow(self.item_encoder)
        if config.share == "ade-fte":
            self.item_encoder.embedder.requires_grad_(False)

    def _published(self, config: DualEncoderConfig) -> Pool:
        """How the encoder's tokens become a vector where the recipe does not say."""
        if not isinstance(config.text, PretrainedConfig) or config.text.architecture is not None:
            return "mean"
        return published_pool(config.text.path, projected=config.projection is not None)

    def _projections(self, config: DualEncoderConfig) -> None:
        self.dim = config.projection or self.item_encoder.dim
        self.item_projection = self.query_projection = None
        if config.projection is not None:
            self.item_projection = _linear(self.item_encoder.dim, config.projection)
            if config.share not in ("sde", "ade-spl"):
                self.query_projection = _linear(self.item_encoder.dim, config.projection)

    def _fields(self, sides: tuple[str, ...]) -> list[Column]:
        return [c for c in self.spec.columns if c.side in sides and c.kind not in ("text", "sequence")]

    # towers -------------------------------------------------------------------------------------------

    def encode_query(self, query: Batch) -> Rep:
        """(Q, D), divided by the temperature."""
        encoder = self.query_encoder or self.item_encoder
        projection = self.query_projection or self.item_projection
        vector = self._text(query[self.query_text.name], encoder, projection)
        if self.query_fields and self.query_beside is not None:
            vector = vector + self.query_beside(self.embeddings(query, self.query_fields).flatten(-2))
        if self.config.similarity == "cosine":
            vector = functional.normalize(vector, dim=-1) / self.config.temperature
        return Rep(vector=vector)

    def encode_item(self, item: Batch) -> Rep:
        vector = self._text(item[self.item_text.name], self.item_encoder, self.item_projection)
        if self.item_fields and self.item_beside is not None:
            vector = vector + self.item_beside(self.embeddings(item, self.item_fields).flatten(-2))
        if self.config.similarity == "cosine":
            vector = functional.normalize(vector, dim=-1)
        return Rep(vector=vector)

    def _text(self, tokens: Tensor, encoder: TextEncoder, projection: nn.Module | None) -> Tensor:
        """(..., L) tokens -> (..., D)."""
        vector = encoder.pooled(tokens.reshape(-1, tokens.shape[-1]), self.config.pool or "mean")
        if projection is not None:
            vector = projection(vector)
        return vector.view(*tokens.shape[:-1], self.dim)

    def score(self, query: Rep, item: Rep, pair: Batch | None = None, mask: Tensor | None = None) -> Tensor:
        return masked(dot(query["vector"], item["vector"]), mask)

    # costs --------------------------------------------------------------------------------------------

    def item_specs(self) -> tuple[RepSpec, ...]:
        return (RepSpec("vector", (self.dim,)),)

    def item_state(self) -> dict[str, Tensor]:
        return {name: t for name, t in self.state_dict().items() if not name.startswith("query_")}

    @property
    def flops_per_pair(self) -> int:
        return 2 * self.dim


def _linear(inputs: int, outputs: int) -> nn.Linear:
    """No bias; variance scaling: the outputs are as large as the inputs."""
    layer = nn.Linear(inputs, outputs, bias=False)
    with torch.no_grad():
        nn.init.normal_(layer.weight, std=inputs**-0.5)
    return layer
