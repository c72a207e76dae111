"""What models must know of encoded columns: names, kinds, table sizes and widths."""

from __future__ import annotations

import hashlib
import json
from typing import Any, Literal

from pydantic import SerializerFunctionWrapHandler, model_serializer, model_validator

from twotower.config import Config
from twotower.schema import Kind

Side = Literal["query", "item", "context"]


class Special(Config):
    """Indices of a pretrained tokenizer's own tokens, already + 2; 0 = it has none."""

    first: int = 0  # [CLS]
    last: int = 0  # [SEP]
    mask: int = 0  # [MASK]


class Column(Config):
    """What a model must know of one encoded column; N is the number of rows.

    ============  ==================  =====================  ===================
    kind          tensor              size                   width
    ============  ==================  =====================  ===================
    id, category  (N,) int64          rows of its embedding  1
    bag           (N, width) int64    rows of its embedding  longest list kept
    sequence      (N, width) int64    that of column ``of``  longest history
    number        (N, 2) float32      0                      2: value, missing
    vector        (N, width) float32  0                      its length
    text          (N, width) int64    rows of its embedding  longest text kept
    ============  ==================  =====================  ===================

    A number in buckets is a category. ``dropout`` is the share of training rows whose value the model's
    embedding makes UNKNOWN. Texts keep the order of their tokens, PAD on the right; token t of a pretrained
    tokenizer is stored as t + 2. Texts of one ``tokenizer`` share one vocabulary. ``special`` are the indices
    that it sets before a text and behind it, and with which it masks a token: 0 where it does not.
    """

    name: str
    kind: Kind
    side: Side
    size: int = 0
    width: int = 1
    dropout: float = 0.0
    of: str | None = None
    tokenizer: str | None = None
    special: Special | None = None

    @model_serializer(mode="wrap")
    def _without_nulls_of_texts(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """What is saved of other columns has the digest that it had before there were texts."""
        values: dict[str, Any] = plain(self)
        return {name: value for name, value in values.items() if value is not None or name == "of"}


class FeatureSpec(Config):
    """All encoded columns, in the order of the schema."""

    columns: tuple[Column, ...]

    @model_validator(mode="after")
    def _check(self) -> FeatureSpec:
        names = [column.name for column in self.columns]
        if len(set(names)) != len(names):
            raise ValueError(f"a column twice: {names}")
        for column in self.columns:
            if column.of is not None and (column.of not in names or self[column.of].size != column.size):
                raise ValueError(f"sequence {column.name!r} must share the rows of column {column.of!r}")
        sizes: dict[str, int] = {}
        for column in self.columns:
            if column.tokenizer and sizes.setdefault(column.tokenizer, column.size) != column.size:
                raise ValueError(f"texts of tokenizer {column.tokenizer!r} must share their rows")
        return self

    def __getitem__(self, name: str) -> Column:
        for column in self.columns:
            if column.name == name:
                return column
        raise KeyError(name)

    def side(self, side: Side) -> tuple[Column, ...]:
        """Columns of one side, in order."""
        return tuple(column for column in self.columns if column.side == side)

    def digest(self) -> str:
        """Hex hash of the content."""
        return digest(self.plain())


def digest(plain: Any) -> str:
    """sha256 in hex of data that JSON can hold, whatever the order of its keys."""
    text = json.dumps(plain, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
