"""Which text encoder a model has, told by its ``kind``."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field as Option
from pydantic import model_validator

from twotower.config import Config

Precision = Literal["float32", "bfloat16"]


class TableConfig(Config):
    """A vector per token, whatever stands beside it: for matrices, and, pooled, for hashed towers."""

    kind: Literal["table"] = "table"
    dim: int = Option(64, ge=1)
    sparse: bool = Option(False, description="row-wise updates of the table, for large vocabularies")


class TransformerConfig(Config):
    """A small transformer that learns from nothing."""

    kind: Literal["transformer"] = "transformer"
    dim: int = Option(128, ge=1)
    blocks: int = Option(2, ge=1)
    heads: int = Option(4, ge=1)
    widen: int = Option(4, ge=1, description="width of the feed-forward layer, times dim")
    dropout: float = Option(0.1, ge=0, lt=1)

    @model_validator(mode="after")
    def _check(self) -> TransformerConfig:
        if self.dim % self.heads:
            raise ValueError(f"dim {self.dim} is not a multiple of heads {self.heads}")
        return self


class PretrainedConfig(Config):
    """A model of ``transformers``; its tokenizer must be that of the text column."""

    kind: Literal["pretrained"] = "pretrained"
    path: str = Option(description="a folder, an installed package that holds a model, or a name on the hub")
    freeze: bool = Option(False, description="it learns nothing; what stands behind it may")
    precision: Precision = Option(
        "float32", description="bfloat16: encode so when the encoder does not learn"
    )
    architecture: dict[str, Any] | None = Option(
        None, description="set when the model is first built: what it takes to build it without the path"
    )


TextConfig = Annotated[TableConfig | TransformerConfig | PretrainedConfig, Option(discriminator="kind")]
