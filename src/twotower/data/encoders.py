"""From one column of a table to one tensor: an encoder for each kind of field.

Shape letters: N rows, W width of a bag, D length of a vector. Missing means null (and, for floats, NaN or
infinity); each encoder says what it makes of it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor

from twotower.data.vocabulary import FIRST, Vocabulary
from twotower.errors import DataError
from twotower.schema import Field
from twotower.types import UNKNOWN, Ragged

FURTHEST = 1e6
"""Standard deviations that a number may be away: farther ones would become infinite in some layer."""


@dataclass(frozen=True)
class Encoder(ABC):
    """A fitted column: values in, tensor out. ``size`` and ``width`` are those of its `Column`."""

    @abstractmethod
    def encode(self, column: pl.Series) -> Tensor: ...

    @property
    def size(self) -> int:
        return 0

    @property
    def width(self) -> int:
        return 1

    def plain(self) -> dict[str, Any]:
        """Data that JSON can hold; a vocabulary, or a tokenizer, stands as its digest."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        for name, value in values.items():
            if hasattr(value, "digest"):
                values[name] = value.digest()
        return {"encoder": type(self).__name__, **values}


@dataclass(frozen=True)
class OneOf(Encoder):
    """id, category: (N,) int64 rows of the vocabulary; missing -> UNKNOWN."""

    vocabulary: Vocabulary

    @property
    def size(self) -> int:
        return self.vocabulary.size

    def encode(self, column: pl.Series) -> Tensor:
        return torch.from_numpy(self.vocabulary.encode(column))


@dataclass(frozen=True)
class SomeOf(Encoder):
    """bag, sequence: (N, W) int64, PAD on the right; longer lists lose their tail; missing -> [UNKNOWN].

    >>> tags = SomeOf(Vocabulary(pl.Series(["war", "love"])), longest=2)
    >>> tags.encode(pl.Series([["love"], [], None, ["war", "new", "love"]])).tolist()
    [[3, 0], [0, 0], [1, 0], [2, 1]]
    """

    vocabulary: Vocabulary
    longest: int

    @property
    def size(self) -> int:
        return self.vocabulary.size

    @property
    def width(self) -> int:
        return self.longest

    def encode(self, column: pl.Series) -> Tensor:
        flat, lengths = flatten(column)
        offsets = np.concatenate([[0], lengths.cumsum()])
        rows = Ragged(torch.from_numpy(self.vocabulary.encode(flat)), torch.from_numpy(offsets))
        return rows.padded(width=self.longest)


@dataclass(frozen=True)
class Standard(Encoder):
    """number: (N, 2) float32, the standardised value and a flag; missing -> (0, 1), a constant column -> 0.

    >>> Standard.fit(pl.Series([1.0, 3.0, None])).encode(pl.Series([5, None])).tolist()
    [[3.0, 0.0], [0.0, 1.0]]
    """

    mean: float
    std: float  # 0 for a column without spread

    @classmethod
    def fit(cls, column: pl.Series) -> Standard:
        values = _present(column)
        if len(values) == 0 or values.min() == values.max():  # rounding gives equal values a spread
            return cls(float(values[0]) if len(values) else 0.0, 0.0)
        return cls(float(values.mean()), float(values.std()))

    @property
    def width(self) -> int:
        return 2

    def encode(self, column: pl.Series) -> Tensor:
        values = _numbers(column)
        missing = np.isnan(values)
        scaled = (values - self.mean) / self.std if self.std else np.zeros_like(values)
        scaled = scaled.clip(-FURTHEST, FURTHEST)
        pairs = np.stack([np.where(missing, 0.0, scaled), missing], axis=1)
        return torch.from_numpy(pairs.astype(np.float32))


@dataclass(frozen=True)
class Buckets(Encoder):
    """number as category: (N,) int64, row 2 up to the first edge (inclusive), and so on; missing -> UNKNOWN.

    >>> Buckets.fit(pl.Series([0, 0, 0, 1, 2, 9]), 3).edges
    (0.0, 1.0)
    """

    edges: tuple[float, ...]

    @classmethod
    def fit(cls, column: pl.Series, buckets: int) -> Buckets:
        """Edges at the quantiles; equal ones are one, so heavy ties give fewer buckets."""
        values = _present(column)
        if len(values) == 0:
            return cls(())
        edges = np.unique(np.quantile(values, np.arange(1, buckets) / buckets, method="inverted_cdf"))
        return cls(tuple(edges[edges < values.max()].tolist()))

    @property
    def size(self) -> int:
        return FIRST + len(self.edges) + 1

    def encode(self, column: pl.Series) -> Tensor:
        values = _numbers(column)
        rows = FIRST + np.searchsorted(np.asarray(self.edges), values, side="left")
        return torch.from_numpy(np.where(np.isnan(values), UNKNOWN, rows))


@dataclass(frozen=True)
class Vector(Encoder):
    """vector: (N, D) float32; missing -> zeros."""

    dim: int

    @property
    def width(self) -> int:
        return self.dim

    def encode(self, column: pl.Series) -> Tensor:
        out = np.zeros((len(column), self.dim), dtype=np.float32)
        flat, lengths = flatten(column)
        missing = column.is_null().to_numpy()
        wrong = np.flatnonzero(~missing & (lengths != self.dim))
        if len(wrong):
            found = f"row {wrong[0]} holds {lengths[wrong[0]]} floats, expected {self.dim}"
            raise DataError(found, column=column.name)
        values = _numbers(flat)[np.repeat(~missing, lengths)].reshape(-1, self.dim)
        if np.isnan(values).any():
            raise DataError("vectors must be finite numbers; a whole row may be missing", column=column.name)
        out[~missing] = values
        return torch.from_numpy(out)


ENCODERS: dict[str, type[Encoder]] = {c.__name__: c for c in (OneOf, SomeOf, Standard, Buckets, Vector)}


def fit_encoder(field: Field, values: pl.Series, counts: pl.Series | None) -> Encoder:
    """The encoder of a field from its training values, each of which is counted ``counts`` times (once)."""
    match field.kind:
        case "bag":
            flat, lengths = flatten(values)
            longest = min(field.max_length, int(lengths.max(initial=1)))
            elements = None if counts is None else pl.Series(np.repeat(counts.to_numpy(), lengths))
            return SomeOf(Vocabulary.fit(flat, field.min_count, field.hash_buckets, elements), longest)
        case "number":
            return Buckets.fit(values, field.buckets) if field.buckets else Standard.fit(values)
        case "vector":
            return Vector(field.dim)
        case _:
            return OneOf(Vocabulary.fit(values, field.min_count, field.hash_buckets, counts))


def grow_encoder(encoder: Encoder, field: Field, values: pl.Series, counts: pl.Series | None) -> Encoder:
    """The encoder with a vocabulary grown by new values; statistics, edges and widths stay."""
    match encoder:
        case OneOf(vocabulary):
            return OneOf(vocabulary.grow(values, field.min_count, counts))
        case SomeOf(vocabulary, longest):
            flat, lengths = flatten(values)
            elements = None if counts is None else pl.Series(np.repeat(counts.to_numpy(), lengths))
            return SomeOf(vocabulary.grow(flat, field.min_count, elements), longest)
        case _:
            return encoder


def flatten(column: pl.Series) -> tuple[pl.Series, np.ndarray]:
    """All elements of a list column, and each row's number of them; a missing list holds one null."""
    if column.dtype == pl.Null:
        return column, np.ones(len(column), dtype=np.int64)
    if not isinstance(column.dtype, pl.List | pl.Array):
        raise DataError(f"expected a list per row, found {column.dtype}", column=column.name)
    lists = column.arr.to_list() if isinstance(column.dtype, pl.Array) else column
    lengths = lists.list.len().fill_null(1)
    return lists.filter(lengths > 0).explode(), lengths.to_numpy().astype(np.int64)


def _numbers(column: pl.Series) -> np.ndarray:
    """(N,) float64 with NaN for every missing or infinite value."""
    if not (column.dtype.is_numeric() or column.dtype in (pl.Boolean, pl.Null)):
        raise DataError(f"expected numbers, found {column.dtype}", column=column.name)
    values = column.cast(pl.Float64).to_numpy()
    return np.where(np.isfinite(values), values, np.nan)


def _present(column: pl.Series) -> np.ndarray:
    values = _numbers(column)
    return np.asarray(values[~np.isnan(values)])
