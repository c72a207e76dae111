"""Rows before they are believed, and the check that turns them into typed columns.

A parser (`delimited`, `jsonlines`, Parquet) gives `Raw`: a frame of strings, or of Parquet's own types.
`checked` converts whole columns at once; only when a value does not convert does it look for the line.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import polars as pl

from twotower.config import nearest
from twotower.errors import DataError
from twotower.schema import ROW

OnError = Literal["raise", "skip"]
"""What a broken row does: it is an error, or it is dropped and counted in the data set's notes."""

Type = Literal["word", "integer", "number", "time", "text", "bag", "vector"]
"""word: an id or category, integer or string as it stands in the file. time: seconds since 1970, UTC."""

TimeUnit = Literal["s", "ms", "us"]

_EXPECTED: dict[Type, str] = {
    "word": "an integer or a string",
    "integer": "an integer",
    "number": "a finite number",
    "time": "a number or an ISO date and time",
    "text": "text",
    "bag": "a list",
    "vector": "a list of finite numbers",
}
_NULLS: dict[Type, pl.DataType] = {"bag": pl.List(pl.Null), "vector": pl.List(pl.Float32)}
"""Types that a column without any value takes, where integers would not do."""
_PER_SECOND = {"s": 1, "ms": 1_000, "us": 1_000_000}


@dataclass(frozen=True)
class Column:
    """What one column of a file must hold."""

    name: str
    type: Type
    source: str
    required: bool = False  # a missing value breaks the row
    unique: bool = False  # a value that stood in an earlier row breaks the row
    separator: str = "|"  # bag and vector, in text files
    dim: int = 0  # vector: exact length
    unit: TimeUnit = "s"  # time: what numbers count

    @property
    def expected(self) -> str:
        length = f" of length {self.dim}" if self.type == "vector" else ""
        return _EXPECTED[self.type] + length


class Broken:
    """The broken rows of one file: the first is raised, or all are dropped and counted."""

    def __init__(self, file: Path, on_error: OnError) -> None:
        self.file, self.on_error = file, on_error
        self.count = 0
        self._first: DataError | None = None

    def add(self, count: int, line: int, message: str, column: str | None = None) -> None:
        """``count`` rows are broken, the first of them in ``line`` (1-based)."""
        error = DataError(
            message,
            file=self.file,
            line=line,
            column=column,
            remedy="repair the row, or drop such rows with --on-error skip",
        )
        if self.on_error == "raise":
            raise error
        self.count += count
        if self._first is None or line < (self._first.line or 0):
            self._first = error

    def notes(self) -> tuple[str, ...]:
        """One sentence with the exact count and the first broken row; nothing when all rows are sound."""
        if self._first is None:
            return ()
        first = str(self._first).partition("\n")[0].removeprefix(f"{self.file}:")
        rows = "row" if self.count == 1 else "rows"
        return (f"{self.file.name}: {self.count:,} broken {rows} dropped, first in line {first}",)


@dataclass(frozen=True)
class Raw:
    """The rows of one file, unchecked."""

    file: Path
    frame: pl.DataFrame  # the wanted columns and ROW, the row's place among all rows of the file
    total: int  # rows of the file, broken ones included
    line_of: Callable[[int], int]  # place of a row -> its line, 1-based
    typed: bool = False  # the file itself has types (Parquet); false: all is text


def require_columns(file: Path, found: Sequence[str], wanted: Sequence[str], line: int | None = 1) -> None:
    """A `DataError` for the first wanted column that the file does not have."""
    for name in wanted:
        if name not in found:
            raise DataError(
                f"no such column{nearest(name, found)}",
                file=file,
                line=line,
                column=name,
                remedy="name the right column in the mapping, or repair the header",
            )


def checked(raw: Raw, columns: Sequence[Column], broken: Broken) -> pl.DataFrame:
    """Typed columns of the sound rows, in file order, with `ROW`.

    A row is broken when a value does not convert, or a required one is missing (NaN and the empty word count
    as missing, an infinite number never converts). All broken rows go to ``broken``.

    Raises
    ------
    DataError
        No rows, a column whose Parquet type cannot hold what is declared, or ``broken`` raises.
    """
    if raw.total == 0:
        raise DataError("the file has no rows", file=raw.file, remedy="fetch or export the file again")
    place = raw.frame[ROW]
    good, faults = [], []
    for column in columns:
        values, fault = _convert(raw, column)
        good.append(values.alias(column.name))
        if fault.any():
            faults.append((fault.arg_max() or 0, column, fault))
    frame = pl.DataFrame([*good, place])
    if faults:
        row, column, _ = min(faults, key=lambda fault: fault[0])
        fault = pl.select(pl.any_horizontal([fault for _, _, fault in faults])).to_series()
        found = raw.frame[column.source][row]
        message = f"{'no value' if found is None else f'found {found!r}'}, expected {column.expected}"
        broken.add(int(fault.sum()), raw.line_of(place[row]), message, column.source)
        frame = frame.filter(~fault)
    for column in columns:
        if column.unique:
            frame = _unique(frame, raw, column, broken)
    if frame.is_empty():
        raise DataError("not one sound row", file=raw.file, remedy="check the file's format and the mapping")
    return frame


def _unique(frame: pl.DataFrame, raw: Raw, column: Column, broken: Broken) -> pl.DataFrame:
    again = ~frame[column.name].is_first_distinct()
    if again.any():
        first = frame.row(again.arg_max() or 0, named=True)
        message = f"{first[column.name]!r} stands here a second time, expected one row per id"
        broken.add(int(again.sum()), raw.line_of(first[ROW]), message, column.source)
    return frame.filter(~again)


def _convert(raw: Raw, column: Column) -> tuple[pl.Series, pl.Series]:
    """The column's values, null where missing or broken, and a mask of the broken rows."""
    source = raw.frame[column.source]
    if source.dtype == pl.Null:  # a shard in which nobody has a value
        source = source.cast(_NULLS.get(column.type, pl.Int64))
    values = _CONVERTERS[column.type](source, column)
    if values is None:
        raise DataError(
            f"the column has the type {source.dtype}, expected {column.expected}",
            file=raw.file,
            column=column.source,
            remedy="convert the column, or declare the field with another kind",
        )
    fault = values.is_null() if column.required else values.is_null() & source.is_not_null()
    if not column.required and source.dtype.is_float():
        fault &= source.is_not_nan().fill_null(True)  # NaN is how frames say missing
    elif not column.required and column.type == "number" and source.dtype == pl.String:
        fault &= source.str.to_lowercase() != "nan"
    return values, fault


def _word(source: pl.Series, column: Column) -> pl.Series | None:
    if source.dtype == pl.String:
        return source.set(source == "", None) if column.required else source
    if source.dtype.is_integer() or source.dtype == pl.Boolean:
        return source.cast(pl.Int64, strict=False)
    if isinstance(source.dtype, pl.Categorical | pl.Enum):
        return source.cast(pl.String)
    if source.dtype.is_float():  # integers that once had gaps
        whole = source.cast(pl.Int64, strict=False)
        return whole.set(whole.cast(pl.Float64) != source, None)
    return None


def _integer(source: pl.Series, column: Column) -> pl.Series | None:
    if source.dtype == pl.String:
        return source.str.strip_chars().cast(pl.Int64, strict=False)
    values = _word(source, column)
    return values if values is None or values.dtype == pl.Int64 else None


def _number(source: pl.Series, column: Column) -> pl.Series | None:
    if source.dtype == pl.String:
        source = source.str.strip_chars()
    elif not (source.dtype.is_numeric() or source.dtype == pl.Boolean):
        return None
    values = source.cast(pl.Float64, strict=False)
    return values.set(~values.is_finite(), None)


def _time(source: pl.Series, column: Column) -> pl.Series | None:
    if source.dtype == pl.Date or isinstance(source.dtype, pl.Datetime):
        return _whole(source.cast(pl.Datetime("us")).dt.timestamp("us") / 1e6)
    per_second = _PER_SECOND[column.unit]
    values = _integer(source, column) if per_second == 1 else None
    if values is not None and (values.is_null() == source.is_null()).all():
        return values
    values = _number(source, column)
    if values is None:
        return None
    seconds = values / per_second
    if source.dtype == pl.String and seconds.null_count() > source.null_count():
        seconds = seconds.zip_with(seconds.is_not_null(), _iso_seconds(source))
    return _whole(seconds)


def _iso_seconds(source: pl.Series) -> pl.Series:
    """Seconds since 1970 of ISO dates and times; without an offset they are taken as UTC."""
    words = source.str.strip_chars().str.replace("T", " ", literal=True).str.replace(r"Z$", "+00:00")
    micro: list[pl.Series] = [
        words.str.to_datetime(form, strict=False, time_unit="us").dt.timestamp("us")
        for form in ("%Y-%m-%d %H:%M:%S%.f%:z", "%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%d %H:%M")
    ]
    micro.append(words.str.to_date("%Y-%m-%d", strict=False).cast(pl.Datetime("us")).dt.timestamp("us"))
    return pl.select(pl.coalesce(micro)).to_series() / 1e6


def _whole(seconds: pl.Series) -> pl.Series:
    """Int64 when no value has a fraction, else Float64."""
    whole = seconds.cast(pl.Int64, strict=False)
    return whole if (whole == seconds).all() else seconds


def _text(source: pl.Series, column: Column) -> pl.Series | None:
    return None if source.dtype.is_nested() else source.cast(pl.String)


def _bag(source: pl.Series, column: Column) -> pl.Series | None:
    if source.dtype == pl.String:
        return source.str.split(column.separator).list.eval(pl.element().filter(pl.element() != ""))
    return source if isinstance(source.dtype, pl.List) else None


def _vector(source: pl.Series, column: Column) -> pl.Series | None:
    if source.dtype == pl.String:
        source = source.str.strip_chars().str.split(column.separator)
    elif isinstance(source.dtype, pl.Array):
        source = source.arr.to_list()
    elif not isinstance(source.dtype, pl.List):
        return None
    values = source.list.eval(pl.element().cast(pl.Float32, strict=False))
    finite = values.list.eval(pl.element().is_finite().fill_null(False)).list.all()
    sound = finite & (values.list.len() == column.dim)
    return pl.select(pl.when(sound).then(values).otherwise(None)).to_series().list.to_array(column.dim)


_CONVERTERS: dict[Type, Callable[[pl.Series, Column], pl.Series | None]] = {
    "word": _word,
    "integer": _integer,
    "number": _number,
    "time": _time,
    "text": _text,
    "bag": _bag,
    "vector": _vector,
}
