"""Events as columns of tensors: what batches, histories and stores are made of."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import polars as pl
import torch
from torch import Tensor

from twotower.config import nearest
from twotower.data.catalogue import Catalogue
from twotower.errors import ConfigError, DataError
from twotower.schema import ROW, Schema
from twotower.types import Batch


@dataclass(frozen=True)
class Interactions:
    """N events with their keys resolved, in the order they were handed in.

    The order of time is (``times``, ``rows``). ``rows`` are places in the original data, so they stay
    meaningful after filtering and shuffling.

    Raises
    ------
    ValueError
        Columns of different length.
    """

    query_keys: Tensor  # (N,) int64
    item_keys: Tensor  # (N,) int64
    times: Tensor  # (N,) int64 or float64; zeros where the data knows no time
    rows: Tensor  # (N,) int64
    labels: Tensor | None = None  # (N,) float32
    weights: Tensor | None = None  # (N,) float32
    context: Batch = field(default_factory=Batch)  # each (N, ...), encoded

    def __post_init__(self) -> None:
        for name, column in self._columns().items():
            if len(column) != len(self.query_keys):
                raise ValueError(f"{name} has {len(column)} rows, query_keys {len(self.query_keys)}")

    @classmethod
    def of(
        cls,
        events: pl.DataFrame,
        schema: Schema,
        queries: Catalogue,
        items: Catalogue,
        *,
        label: str | None = None,
        context: Batch | None = None,
    ) -> Interactions:
        """Resolve the ids of an event table (columns of ``schema``, and `ROW`) against two catalogues.

        ``label`` names the label column to keep; the weight column of the schema, if any, comes along.

        Raises
        ------
        ConfigError
            ``label`` is not a label of the schema.
        DataError
            An id outside its catalogue; a time, label or weight that is missing or not finite.
        """
        if label is not None and label not in (labels := {field.name for field in schema.labels}):
            raise ConfigError(f"no label {label!r} in the schema{nearest(label, labels)}")

        def floats(column: str | None) -> Tensor | None:
            return None if column is None else torch.from_numpy(_numbers(events, column)).float()

        times = _numbers(events, schema.time) if schema.time else np.zeros(len(events), dtype=np.int64)
        return cls(
            query_keys=_keys(queries, events, schema.query),
            item_keys=_keys(items, events, schema.item),
            times=torch.from_numpy(times),
            rows=torch.from_numpy(number_array(events[ROW])),
            labels=floats(label),
            weights=floats(schema.weight),
            context=context if context is not None else Batch(),
        )

    def __len__(self) -> int:
        return len(self.query_keys)

    def take(self, index: Tensor) -> Interactions:
        """Events by place, in the order asked."""

        def optional(column: Tensor | None) -> Tensor | None:
            return None if column is None else column.index_select(0, index)

        return Interactions(
            query_keys=self.query_keys.index_select(0, index),
            item_keys=self.item_keys.index_select(0, index),
            times=self.times.index_select(0, index),
            rows=self.rows.index_select(0, index),
            labels=optional(self.labels),
            weights=optional(self.weights),
            context=self.context.take(index),
        )

    def _columns(self) -> dict[str, Tensor]:
        own = {"item_keys": self.item_keys, "times": self.times, "rows": self.rows}
        optional = {"labels": self.labels, "weights": self.weights}
        return {**own, **{n: t for n, t in optional.items() if t is not None}, **self.context}


def broken_numbers(column: pl.Series) -> pl.Series:
    """Where a number column is missing, NaN or infinite; a column of another kind is a `DataError`."""
    if not (column.dtype.is_numeric() or column.dtype == pl.Boolean):
        raise DataError(f"expected numbers, found {column.dtype}", column=column.name)
    return column.is_null() | ~column.is_finite() if column.dtype.is_float() else column.is_null()


def number_array(column: pl.Series) -> np.ndarray:
    """A column without broken numbers as a fresh array: float64 where it has fractions, else int64."""
    whole = column.dtype.is_integer() or column.dtype == pl.Boolean
    return np.array(column.cast(pl.Int64 if whole else pl.Float64).to_numpy())


def _numbers(events: pl.DataFrame, column: str) -> np.ndarray:
    _refuse(events, column, broken_numbers(events[column]), "values are missing or not finite")
    return number_array(events[column])


def _keys(catalogue: Catalogue, events: pl.DataFrame, column: str) -> Tensor:
    keys = np.array(catalogue.keys(events[column]))
    _refuse(events, column, pl.Series(keys < 0), "ids are not in the catalogue")
    return torch.from_numpy(keys)


def _refuse(events: pl.DataFrame, column: str, bad: pl.Series, what: str) -> None:
    if bad.any():
        first = events.row(int(bad.arg_true()[0]), named=True)
        raise DataError(
            f"{bad.sum()} {what}, first {first[column]!r} at row {first[ROW]}",
            column=column,
            remedy="repair or drop these rows",
        )
