"""Delimited text (CSV, TSV, ``::`` and the like) into columns of strings.

The bulk path is Arrow's multi-threaded parser, which refuses a row with too many or too few fields. Only
when it refuses, or a quote stands where it may hide rows, does the careful path walk record by record, to
name the line or to leave the row out.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
from pyarrow import csv as arrow_csv

from twotower.data.files import read_bytes
from twotower.data.rows import Broken, Raw, require_columns
from twotower.errors import DataError
from twotower.schema import ROW

_UNIT = "\x1f"  # ASCII unit separator: stands in for separators of several characters
_BLOCK_BYTES = 1 << 24  # no record may be longer than this, or the bulk path refuses it


@dataclass(frozen=True)
class Form:
    """How a text table is written."""

    separator: str = ","
    quoted: bool = True  # fields may stand in double quotes
    names: tuple[str, ...] | None = None  # None: the first line names the columns
    latin1: bool = False  # text that is not UTF-8 is latin-1, not broken
    missing: tuple[str, ...] = ("",)  # spellings of a missing value

    @property
    def header_lines(self) -> int:
        return 1 if self.names is None else 0


def read_delimited(path: Path, form: Form, wanted: Sequence[str], broken: Broken) -> Raw:
    """The ``wanted`` columns as strings, null where missing; blank lines hold no row.

    Raises
    ------
    DataError
        An unreadable or empty file, a missing or doubled column, a quote that is never closed; or a row with
        a wrong number of fields, a misplaced quote or text that is not UTF-8, when ``broken`` raises.
    """
    data, single = _single_byte_form(path, read_bytes(path), form)
    names, skip = (list(form.names), 0) if form.names is not None else _header(path, data, single)
    require_columns(path, names, wanted)
    frame = _bulk(data, single, names, wanted, skip)
    if frame is not None:
        lines = _line_finder(data, single, len(frame))
        raw = Raw(path, frame.with_row_index(ROW), len(frame), lines)
    else:
        raw = _careful(path, data, single, names, wanted, broken)
    if single is not form:  # what stood inside quotes was no separator
        raw = replace(raw, frame=raw.frame.with_columns(_unit_undone(wanted, form.separator)))
    return raw


def _single_byte_form(path: Path, data: bytes, form: Form) -> tuple[bytes, Form]:
    """The same table as UTF-8 with a separator of one byte."""
    if form.latin1 and not _is_utf8(data):
        data = data.decode("latin-1").encode()
    if len(form.separator.encode()) == 1:
        return data, form
    if _UNIT.encode() in data:
        raise DataError("the text holds the control character 0x1F", file=path, remedy="remove it")
    data = data.replace(form.separator.encode(), _UNIT.encode())
    return data, replace(form, separator=_UNIT)


def _unit_undone(wanted: Sequence[str], separator: str) -> list[pl.Expr]:
    return [pl.col(name).str.replace_all(_UNIT, separator, literal=True) for name in dict.fromkeys(wanted)]


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def _header(path: Path, data: bytes, form: Form) -> tuple[list[str], int]:
    """The names, and how many lines the header and the blank ones before it take."""
    line, record = next(_records(data, form))
    fields = record if isinstance(record, list) else []
    names = [name.strip() for name in fields]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DataError(
            "the header names the column twice",
            file=path,
            line=line,
            column=twice[0],
            remedy="rename one of them",
        )
    return names, line + sum(name.count("\n") for name in fields)


def _bulk(data: bytes, form: Form, names: list[str], wanted: Sequence[str], skip: int) -> pl.DataFrame | None:
    """All rows at once, or None when at least one of them is not as it should be."""
    if form.quoted and _is_misquoted(data, form):
        return None  # the parser would take all rows up to the next quote as one value
    try:
        table = arrow_csv.read_csv(
            pa.BufferReader(data),
            arrow_csv.ReadOptions(column_names=names, skip_rows=skip, block_size=_BLOCK_BYTES),
            arrow_csv.ParseOptions(
                delimiter=form.separator,
                quote_char='"' if form.quoted else False,
                newlines_in_values=form.quoted,
            ),
            arrow_csv.ConvertOptions(
                include_columns=list(wanted),
                column_types={name: pa.large_string() for name in wanted},
                null_values=list(form.missing),
                strings_can_be_null=True,
                quoted_strings_can_be_null=True,
            ),
        )
    except pa.ArrowInvalid:
        return None
    return pl.DataFrame(table)


def _is_misquoted(data: bytes, form: Form) -> bool:
    """Whether a field begins with a quote and does not end with one, or not where its quote is closed."""
    text = np.frombuffer(b"\n" + data + b"\n", dtype=np.uint8)
    quotes = np.flatnonzero(text == ord('"'))
    opened, closed = quotes[::2], quotes[1::2]
    edge = np.zeros(256, dtype=bool)
    edge[[*form.separator.encode(), *b'\r\n"']] = True
    if len(opened) == len(closed) and edge[text[opened - 1]].all() and edge[text[closed + 1]].all():
        return False  # every other quote opens a field, or doubles the one before
    # some stand within a field without quotes, where they are text, or one is misplaced
    separator = re.escape(form.separator.encode())
    begins, ends = rb"(?:\A|(?<=[\r\n" + separator + rb"]))", rb"(?=[\r\n" + separator + rb"]|\Z)"
    without = re.sub(begins + rb'"(?:[^"]|"")*+"' + ends, b"", data)
    return re.search(begins + b'"', without) is not None


def _careful(
    path: Path, data: bytes, form: Form, names: list[str], wanted: Sequence[str], broken: Broken
) -> Raw:
    """Record by record; what is not as it should be goes to ``broken``."""
    places = [names.index(name) for name in wanted]
    columns: list[list[str | None]] = [[] for _ in wanted]
    kept: list[int] = []
    lines: list[int] = []
    for line, fields in islice(_records(data, form), form.header_lines, None):
        lines.append(line)
        if isinstance(fields, str):
            if "unexpected end" in fields:
                raise DataError(
                    "a quote is opened here and never closed",
                    file=path,
                    line=line,
                    remedy="close or remove it, or set quoted: false; how many rows it hides cannot be known",
                )
            broken.add(1, line, f"misplaced quote: {fields}")
        elif len(fields) != len(names):
            broken.add(1, line, f"found {len(fields)} fields, expected {len(names)}")
        elif not _is_text(fields):
            broken.add(1, line, f"not valid UTF-8: {_visible(fields)!r}")
        else:
            kept.append(len(lines) - 1)
            for column, place in zip(columns, places, strict=True):
                column.append(None if fields[place] in form.missing else fields[place])
    frame = pl.DataFrame(
        {name: pl.Series(column, dtype=pl.String) for name, column in zip(wanted, columns, strict=True)}
    )
    frame = frame.with_columns(pl.Series(ROW, kept, dtype=pl.UInt32))
    return Raw(path, frame, len(lines), lines.__getitem__)


def _is_text(fields: list[str]) -> bool:
    """Whether no byte of the record had to be smuggled through as a surrogate."""
    try:
        "".join(fields).encode()
    except UnicodeEncodeError:
        return False
    return True


def _visible(fields: list[str]) -> str:
    """The record's text, with a replacement character for every byte that is not UTF-8."""
    return ",".join(fields).encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _records(data: bytes, form: Form) -> Iterator[tuple[int, list[str] | str]]:
    """(line, fields) of every record that is not blank; a complaint instead of fields for broken quotes."""
    text = data.decode("utf-8", "surrogateescape")
    if not form.quoted:
        for line, record in enumerate(io.StringIO(text), 1):
            if bare := record.rstrip("\r\n"):
                yield line, bare.split(form.separator)
        return
    csv.field_size_limit(max(csv.field_size_limit(), _BLOCK_BYTES))
    lines, at = list(io.StringIO(text, newline="")), 0
    while at < len(lines):
        reader = csv.reader((lines[n] for n in range(at, len(lines))), delimiter=form.separator, strict=True)
        first = at  # line of the reader's first record
        try:
            for fields in reader:
                if fields:
                    yield at + 1, fields
                at = first + reader.line_num
        except csv.Error as error:  # goes on behind the line: the quote may have hidden good ones
            yield at + 1, str(error)
            at += 1


def _line_finder(data: bytes, form: Form, rows: int) -> Callable[[int], int]:
    """Line of a row: counted where each line is a row, searched for where quotes or blank lines intervene."""
    lines = data.count(b"\n") + (not data.endswith(b"\n"))
    if lines == rows + form.header_lines:
        return lambda row: row + 1 + form.header_lines

    def search(row: int) -> int:
        return next(islice(_records(data, form), row + form.header_lines, None))[0]

    return search
