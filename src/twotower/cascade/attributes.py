"""What is known of the items, column by column in key order: answers predicates and groups items by value."""

from __future__ import annotations

from functools import cached_property, reduce
from operator import and_, or_
from typing import Self

import polars as pl
import torch
from torch import Tensor
from torch.nn import functional as F

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
        self._hold(items, item)
        assert len(self.catalogue) == len(items)  # made now: it looks at the ids

    def _hold(self, items: pl.DataFrame, item: str) -> None:
        floats = [name for name, dtype in items.schema.items() if dtype.is_float()]
        self.items, self.item = items.with_columns(pl.col(floats).fill_nan(None)), item
        self._masks: dict[str, tuple[Predicate, Tensor]] = {}
        self._codes: dict[str, tuple[Tensor, pl.DataFrame]] = {}
        self._numbers: dict[str, Tensor] = {}

    @classmethod
    def of(cls, dataset: Dataset) -> Self:
        return cls(dataset.items, dataset.schema.item)

    @cached_property
    def catalogue(self) -> Catalogue:
        """The items' ids."""
        return Catalogue(self._column(self.item, "item"))

    def __len__(self) -> int:
        return len(self.items)

    def updated(self, keys: Tensor, rows: pl.DataFrame) -> Attributes:
        """The same with other ``rows`` for the items ``keys`` (n,); keys from N on are new, none is left out.

        Masks, codes and numbers that were asked for once are known again without looking at other rows; the
        values of a field keep their numbers, new ones get the next.

        >>> old = Attributes(pl.DataFrame({"film": ["a", "b"], "year": [1994, 2003]}), item="film")
        >>> late = Predicate.parse({"field": "year", "at_least": 2000})
        >>> old.mask(late).tolist()
        [False, True]
        >>> new = old.updated(torch.tensor([2, 0]), pl.DataFrame({"film": ["c", "a"], "year": [2024, 2001]}))
        >>> new.mask(late).tolist(), new.items["year"].to_list()
        ([True, True, True], [2001, 2003, 2024])
        """
        changed = Attributes(rows.select(self.items.columns).cast(self.items.schema), self.item)
        size = max(len(self), int(keys.max()) + 1 if len(keys) else 0)
        at = torch.arange(size)
        at[keys] = len(self) + torch.arange(len(keys))
        new = object.__new__(Attributes)  # of ids that are known to be unique
        new._hold(pl.concat([self.items, changed.items])[at.numpy()], self.item)
        for name, (predicate, mask) in self._masks.items():
            new._masks[name] = predicate, _patched(mask, size, keys, changed.mask(predicate))
        new._numbers = {f: _patched(old, size, keys, changed.numbers(f)) for f, old in self._numbers.items()}
        for field, (codes, values) in self._codes.items():
            more, values = _coded(changed.items[field], values)
            width = max(codes.shape[1], more.shape[1])
            codes, more = (F.pad(each, (0, width - each.shape[1]), value=-1) for each in (codes, more))
            new._codes[field] = _patched(codes, size, keys, more), values
        return new

    def mask(self, predicate: Predicate, where: str = "predicate") -> Tensor:
        """(N,) bool by item key: which items the predicate means.

        Raises
        ------
        ConfigError
            No such field, or a field of another type than the predicate asks about; names ``where``.
        """
        name = repr(predicate)  # 1 and True are equal, and mean other items
        if name not in self._masks:
            self._masks[name] = predicate, self.once(predicate, where)
        return self._masks[name][1]

    def once(self, predicate: Predicate, where: str = "predicate") -> Tensor:
        """The same `mask`, not remembered: for a predicate that comes with a request."""
        return torch.from_numpy(self._mask(predicate, where).to_numpy().copy())

    def codes(self, field: str, where: str = "predicate") -> Tensor:
        """(N, V) int64: each item's values as numbers from 0, each once, then -1.

        Two items share a value exactly where they share a number. V is the length of the longest list of
        values, or what it once was; 1 where every item has one.
        """
        column = self._column(field, where)
        if _is_vector(column):
            raise ConfigError(
                f"{where}: {field!r} holds vectors, and items do not share those; name another field"
            )
        if field not in self._codes:
            self._codes[field] = _coded(column, None)
        return self._codes[field][0]

    def numbers(self, field: str, where: str = "predicate") -> Tensor:
        """(N,) float64, NaN where the value is missing."""
        column = self._column(field, where)
        if not column.dtype.is_numeric():
            raise ConfigError(f"{where}: {field!r} must be a number, found {column.dtype}")
        if field not in self._numbers:
            values = column.cast(pl.Float64).fill_null(float("nan")).to_numpy()
            self._numbers[field] = torch.from_numpy(values.copy())
        return self._numbers[field]

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


def _patched(old: Tensor, size: int, keys: Tensor, rows: Tensor) -> Tensor:
    """A copy of ``size`` rows, with other ones at ``keys``."""
    new = torch.cat([old, old.new_zeros(size - len(old), *old.shape[1:])])
    new[keys] = rows
    return new


def _coded(column: pl.Series, values: pl.DataFrame | None) -> tuple[Tensor, pl.DataFrame]:
    """(n, V) the values of each row as numbers, and which value has which; ``values`` keep theirs."""
    long = pl.DataFrame({"key": pl.Series(range(len(column)), dtype=pl.Int64), "value": column})
    if isinstance(column.dtype, pl.List):
        long = long.explode("value")
    long = long.drop_nulls().unique(maintain_order=True)
    found = long.select("value").unique(maintain_order=True)
    if values is None:
        values = found.with_row_index("code").with_columns(pl.col("code").cast(pl.Int64))
    else:
        new = found.join(values, on="value", how="anti", maintain_order="left")
        codes = pl.Series("code", range(len(values), len(values) + len(new)), dtype=pl.Int64)
        values = pl.concat([values, new.insert_column(0, codes)])
    long = long.join(values, on="value", how="left", maintain_order="left")
    lengths = torch.bincount(torch.from_numpy(long["key"].to_numpy().copy()), minlength=len(column))
    offsets = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
    return Ragged(torch.from_numpy(long["code"].to_numpy().copy()), offsets).padded(fill=-1), values


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
