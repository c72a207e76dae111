"""What models must know of encoded columns: names, kinds, table sizes and widths."""

from __future__ import annotations

import hashlib
import json
from typing import Any, Literal

from pydantic import model_validator

from twotower.config import Config
from twotower.schema import Kind

Side = Literal["query", "item", "context"]


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
    ============  ==================  =====================  ===================

    A number in buckets is a category. ``dropout`` is the share of training rows whose value the model's
    embedding makes UNKNOWN.
    """

    name: str
    kind: Kind
    side: Side
    size: int = 0
    width: int = 1
    dropout: float = 0.0
    of: str | None = None


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
