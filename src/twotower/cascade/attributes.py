"""What is known of the items, column by column in key order: answers predicates and groups items by value."""

from __future__ import annotations

from functools import reduce
from operator import and_, or_
from typing import Self

import polars as pl
import torch
from torch import Tensor

from twotower.cascade.predicates import Predicate, Value
from twotower.config import nearest
from twotower.data.catalogue import Catalogue
from twotower.data.dataset import Dataset
from twotower.errors import ConfigError
from twotower.types import Ragged


class Attributes:
    """The raw columns of N items, in key order.

    >>> items = pl.DataFrame({"movie": ["a", "b", "c"], "year": [1994, None, 2003],
    ...                       "genre": [["Crime", "Drama"], ["Drama"], []]})
    >>> attributes = Attributes(items, item="movie")
    >>> attributes.mask(Predicate.parse({"field": "genre", "in": ["Drama"]})).tolist()
    [True, True, False]
    >>> attributes.mask(Predicate.parse({"not": {"field": "year", "at_least": 2000}})).tolist()
    [True, True, False]
    >>> attributes.codes("genre").tolist()  # -1 fills up
    [[0, 1], [1, -1], [-1, -1]]
    """

    def __init__(self, items: pl.DataFrame, item: str) -> None:
        floats = [name for name, dtype in items.schema.items() if dtype.is_float()]
        self.items = items.with_columns(pl.col(floats).fill_nan(None))
        self.catalogue = Catalogue(self._column(item, "item"))

    @classmethod
    def of(cls, dataset: Dataset) -> Self:
        return cls(dataset.items, dataset.schema.item)

    def __len__(self) -> int:
        return len(self.items)

    def mask(self, predicate: Predicate, where: str = "predicate") -> Tensor:
        """(N,) bool by item key: which items the predicate means.

        Raises
        ------
        ConfigError
            No such field, or a field of another type than the predicate asks about; names ``where``.
        """
        return torch.from_numpy(self._mask(predicate, where).to_numpy().copy())

    def codes(self, field: str, where: str = "predicate") -> Tensor:
        """(N, V) int64: each item's values as numbers from 0, each once, then -1.

        Two items share a value exactly where they share a number. V is the length of the longest list of
        values; 1 where every item has one.
        """
        column = self._column(field, where)
        if _is_vector(column):
            raise ConfigError(
                f"{where}: {field!r} holds vectors, and items do not share those; name another field"
            )
        long = pl.DataFrame({"key": pl.Series(range(len(column)), dtype=pl.Int64), "value": column})
        if isinstance(column.dtype, pl.List):
            long = long.explode("value")
        long = long.drop_nulls().unique(maintain_order=True)
        values = long.select("value").unique(maintain_order=True).with_row_index("code")
        long = long.join(values, on="value", how="left", maintain_order="left")
        lengths = torch.bincount(torch.from_numpy(long["key"].to_numpy().copy()), minlength=len(self))
        offsets = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
        codes = torch.from_numpy(long["code"].cast(pl.Int64).to_numpy().copy())
        return Ragged(codes, offsets).padded(fill=-1)

    def numbers(self, field: str, where: str = "predicate") -> Tensor:
        """(N,) float64, NaN where the value is missing."""
        column = self._column(field, where)
        if not column.dtype.is_numeric():
            raise ConfigError(f"{where}: {field!r} must be a number, found {column.dtype}")
        return torch.from_numpy(column.cast(pl.Float64).fill_null(float("nan")).to_numpy().copy())

    def keys(self, ids: tuple[int | str, ...]) -> Tensor:
        """(n,) int64 the key of each outside id, -1 where the catalogue does not hold it."""
        found = self.catalogue.keys(pl.Series([str(i) for i in ids], dtype=pl.String))
        return torch.from_numpy(found.copy())

    def _column(self, field: str, where: str) -> pl.Series:
        if field not in self.items.columns:
            raise ConfigError(f"{where}: no item field {field!r}{nearest(field, self.items.columns)}")
        return self.items[field]

    def _mask(self, predicate: Predicate, where: str) -> pl.Series:
        """No nulls: a missing value is in no set, so that ``not`` is a complement."""
        if predicate.negated is not None:
            return ~self._mask(predicate.negated, f"{where}.not")
        if predicate.every is not None:
            return reduce(and_, (self._mask(p, f"{where}.all.{n}") for n, p in enumerate(predicate.every)))
        if predicate.some is not None:
            return reduce(or_, (self._mask(p, f"{where}.any.{n}") for n, p in enumerate(predicate.some)))
        if predicate.ids is not None:
            keys = self.keys(predicate.ids)
            return pl.Series(range(len(self)), dtype=pl.Int64).is_in(keys.tolist())
        if predicate.missing is not None:
            return _missing(self._column(predicate.missing, f"{where}.missing"))
        if predicate.available is not None:
            return _available(self._column(predicate.available, f"{where}.available"), where)
        column = self._column(str(predicate.field), f"{where}.field")
        if predicate.among is not None:
            return _among(column, predicate.among, where)
        if not column.dtype.is_numeric():
            raise ConfigError(
                f"{where}: at_least and at_most ask for a number, and {column.name!r} is {column.dtype}; "
                "use 'in' to list values"
            )
        return column.cast(pl.Float64).is_between(*predicate.range).fill_null(False)


def _inner(column: pl.Series) -> pl.DataType:
    """The type of one value, of a column of values or of lists of values."""
    return column.list.explode().dtype if isinstance(column.dtype, pl.List) else column.dtype


def _is_vector(column: pl.Series) -> bool:
    listed = isinstance(column.dtype, pl.List)
    return isinstance(column.dtype, pl.Array) or (listed and _inner(column).is_float())


def _missing(column: pl.Series) -> pl.Series:
    if isinstance(column.dtype, pl.List):
        return column.list.drop_nulls().list.len().fill_null(0) == 0
    return column.is_null()


def _available(column: pl.Series, where: str) -> pl.Series:
    if column.dtype == pl.Boolean:
        return column.fill_null(False)
    if column.dtype.is_numeric():
        return (column > 0).fill_null(False)
    raise ConfigError(
        f"{where}: {column.name!r} must be yes/no or a number to be available, found {column.dtype}; use 'in'"
    )


def _among(column: pl.Series, values: tuple[Value, ...], where: str) -> pl.Series:
    """Whether the value, or any of a list of values, is one of ``values``."""
    if _is_vector(column):
        raise ConfigError(f"{where}: {column.name!r} holds vectors, and no list of values matches those")
    if column.dtype == pl.Null or _inner(column) == pl.Null:  # nothing but missing values
        return pl.Series([False]).new_from_index(0, len(column))
    wanted = _as_held(_inner(column), values, column.name, where)
    if not isinstance(column.dtype, pl.List):
        return column.cast(wanted.dtype).is_in(wanted.implode()).fill_null(False)
    found = column.list.eval(pl.element().cast(wanted.dtype).is_in(wanted.implode()))
    return found.list.any().fill_null(False)


def _as_held(dtype: pl.DataType, values: tuple[Value, ...], field: str, where: str) -> pl.Series:
    """The values in a type that holds the column's too; among words 7 means "7", as YAML drops quotes."""
    if dtype in (pl.String, pl.Categorical, pl.Enum):
        kind, fits = "words", all(isinstance(v, str | int) and not isinstance(v, bool) for v in values)
    elif dtype.is_numeric():
        kind, fits = "numbers", all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)
    else:
        kind, fits = "yes or no", dtype == pl.Boolean and all(isinstance(v, bool) for v in values)
    if not fits:
        hint = "; write words that look like numbers or yes/no in quotes" if kind == "words" else ""
        raise ConfigError(f"{where}.in: {field!r} holds {kind} ({dtype}), found {list(values)}{hint}")
    if kind == "words":
        return pl.Series([str(v) for v in values], dtype=pl.String)
    if kind == "numbers":
        whole = dtype.is_integer() and all(isinstance(v, int) for v in values)
        return pl.Series(values, dtype=pl.Int64 if whole else pl.Float64, strict=False)
    return pl.Series(values, dtype=pl.Boolean)
