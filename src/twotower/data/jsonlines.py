"""JSON lines (one object a line) into columns of strings and lists of strings."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import polars as pl

from twotower.data.files import read_bytes
from twotower.data.rows import Broken, Raw, require_columns
from twotower.errors import DataError
from twotower.schema import ROW

_HALF = re.compile(rb"\\u[dD][89abAB]..(?!\\u[dD][c-fC-F])|(?<!\\u[dD][89abAB]..)\\u[dD][c-fC-F]")
"""Half of a surrogate pair, escaped: some of them pass the bulk parser and break what reads its result."""


def read_jsonlines(
    path: Path,
    wanted: Sequence[str],
    broken: Broken,
    lists: Collection[str] = (),
    optional: Collection[str] = (),
) -> Raw:
    """The ``wanted`` keys as strings (those in ``lists`` as lists of strings); absent and null are missing.

    Raises
    ------
    DataError
        An unreadable or empty file, a key that occurs in no object (unless it is ``optional``); or, when
        ``broken`` raises, a line that is not a JSON object, holds a list where a single value is expected, or
        half of a surrogate pair, which is no text.
    """
    data = read_bytes(path)
    types: dict[str, Any] = {name: pl.List(pl.String) if name in lists else pl.String for name in wanted}
    frame = _bulk(data, types)
    if frame is None:
        raw = _careful(path, data, types, broken)
    else:
        raw = Raw(path, frame.with_row_index(ROW), len(frame), _line_finder(data, len(frame)))
    for name in (name for name in wanted if name not in optional):
        if raw.frame[name].null_count() == len(raw.frame) and json.dumps(name).encode() not in data:
            require_columns(path, list(_first_object(data)), [name])
    return raw


def _bulk(data: bytes, types: dict[str, Any]) -> pl.DataFrame | None:
    """All lines at once, or None when one of them is, or may be, not as it should be."""
    if _HALF.search(data):
        return None
    try:
        frame = pl.read_ndjson(data, schema=types).select(*types)
    except pl.exceptions.PolarsError:
        return None
    single = frame.select(pl.col(pl.String))
    # where one value is asked for, the parser renders a list or object as its JSON text
    nested = (
        single.select(pl.any_horizontal(pl.all().str.contains(r"^[\[{]").any())) if single.width else None
    )
    return None if nested is not None and nested.item() else frame


def _careful(path: Path, data: bytes, types: dict[str, Any], broken: Broken) -> Raw:
    """Line by line; what is not as it should be goes to ``broken``."""
    columns: dict[str, list[Any]] = {name: [] for name in types}
    kept: list[int] = []
    lines: list[int] = []
    for line, text in _lines(data):
        lines.append(line)
        try:
            values = json.loads(text)
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            broken.add(1, line, f"not valid JSON: {error}")
            continue
        if not isinstance(values, dict):
            broken.add(1, line, f"found {type(values).__name__}, expected a JSON object")
            continue
        row = {name: _as(values.get(name), is_list=kind != pl.String) for name, kind in types.items()}
        wrong = next((name for name, value in row.items() if value is _WRONG), None)
        if wrong is not None:
            expected = "a list" if types[wrong] != pl.String else "a single value"
            broken.add(1, line, f"found {values[wrong]!r}, expected {expected}", wrong)
            continue
        halved = next((name for name, value in row.items() if not _is_text(value)), None)
        if halved is not None:
            broken.add(1, line, "half of a surrogate pair stands alone, which is no text", halved)
            continue
        kept.append(len(lines) - 1)
        for name, value in row.items():
            columns[name].append(value)
    if not lines:
        raise DataError("the file has no rows", file=path, remedy="fetch or export the file again")
    frame = pl.DataFrame({**columns}, schema=types).with_columns(pl.Series(ROW, kept, dtype=pl.UInt32))
    return Raw(path, frame, len(lines), lines.__getitem__)


_WRONG = object()


def _as(value: Any, *, is_list: bool) -> Any:
    """A JSON value as the text it would be in a file, or `_WRONG` when it has the wrong shape."""
    if value is None:
        return None
    if is_list:
        parts = [_as(part, is_list=False) for part in value] if isinstance(value, list) else [_WRONG]
        return _WRONG if _WRONG in parts else parts
    if isinstance(value, dict | list):
        return _WRONG
    return value if isinstance(value, str) else json.dumps(value)


def _is_text(value: Any) -> bool:
    """Whether a value made by `_as` can be written as UTF-8: JSON may escape halves of surrogate pairs."""
    parts = value if isinstance(value, list) else [value]
    try:
        "".join(part for part in parts if part is not None).encode()
    except UnicodeEncodeError:
        return False
    return True


def _lines(data: bytes) -> Iterator[tuple[int, bytes]]:
    return ((line, text) for line, text in enumerate(data.split(b"\n"), 1) if text.strip())


def _first_object(data: bytes) -> dict[str, Any]:
    for _, text in _lines(data):
        try:
            values = json.loads(text)
        except (json.JSONDecodeError, UnicodeDecodeError):
            continue  # reported as a broken row already
        if isinstance(values, dict):
            return values
    return {}


def _line_finder(data: bytes, rows: int) -> Callable[[int], int]:
    if data.count(b"\n") + (not data.endswith(b"\n")) == rows:
        return lambda row: row + 1
    return lambda row: next(islice(_lines(data), row, None))[0]
