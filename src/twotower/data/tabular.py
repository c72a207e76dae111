"""Any tables of interactions or impressions, queries and items, by a mapping in the recipe."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal

import polars as pl
from pydantic import ConfigDict, model_validator
from pydantic import Field as Option

from twotower.config import Config
from twotower.data.dataset import Dataset
from twotower.data.delimited import Form, read_delimited
from twotower.data.files import find_file
from twotower.data.jsonlines import read_jsonlines
from twotower.data.parquet import read_parquet
from twotower.data.rows import Broken, Column, OnError, Raw, TimeUnit, Type, checked
from twotower.errors import DataError
from twotower.schema import PART, ROW, Field, Kind, Schema

Format = Literal["parquet", "csv", "tsv", "jsonl"]

_ENDINGS: dict[str, Format] = {
    ".parquet": "parquet", ".pq": "parquet", ".csv": "csv", ".tsv": "tsv", ".jsonl": "jsonl", ".json": "jsonl"
}  # fmt: skip
_TYPES: dict[Kind, Type] = {
    "id": "word", "category": "word", "bag": "bag", "number": "number", "text": "text", "vector": "vector"
}  # fmt: skip
_JOIN = "|"  # between the parts of an id that is made of several columns


class Table(Config):
    """One table: its file or files, and which of their columns are which fields.

    ``columns`` maps a field's name to the name in the file; fields not named there are called the same in
    both. A list of columns makes one value of several: an id or category of their joined values ("a|b"), a
    vector of their numbers. ``file`` may be a pattern (``events-*.parquet``): read in order of name. What
    the log keeps in the names of folders (``*/*/clicks.csv``) becomes columns by ``folders: [country, day]``.
    """

    file: str | None = Option(
        None, description="name or pattern, relative to the data folder; may be gzipped"
    )
    columns: dict[str, str | tuple[str, ...]] = Option(default_factory=dict)
    format: Format | None = Option(None, description="default: by the file's ending")
    folders: tuple[str, ...] = Option(
        (), description="columns that stand in the path: names of the folders a file lies in, outermost first"
    )
    names: tuple[str, ...] | None = Option(None, description="column names of a CSV or TSV without a header")
    delimiter: str | None = Option(None, min_length=1, description="csv, tsv: default comma, tabulator")
    quoted: bool = Option(True, description="csv, tsv: values may stand in double quotes")
    separator: str = Option("|", min_length=1, description="csv, tsv: between the values of a bag or vector")
    missing: tuple[str, ...] = Option(("",), description="csv, tsv: spellings of a missing value")
    latin1: bool = Option(False, description="csv, tsv: read text that is not UTF-8 as latin-1")


class Parts(Config):
    """Files of a split made by the data's authors."""

    train: str
    valid: str | None = None
    test: str


class Tabular(Config):
    """Tables in Parquet, CSV, TSV or JSON lines, described by a schema and a mapping.

    >>> Tabular.parse({
    ...     "schema": {"query": "user", "item": "ad", "fields": [
    ...         {"name": "user", "kind": "id", "role": "query"}, {"name": "ad", "kind": "id", "role": "item"},
    ...         {"name": "click", "kind": "number", "role": "label"}]},
    ...     "interactions": {"file": "log.csv", "columns": {"ad": "adgroup_id", "click": "clk"}},
    ... }).declared.labels[0].name
    'click'
    """

    model_config = ConfigDict(populate_by_name=True)

    reader: Literal["tabular"] = "tabular"
    name: str = "tabular"
    declared: Schema = Option(alias="schema")  # pydantic keeps the attribute name 'schema' for itself
    interactions: Table
    queries: Table | None = None
    items: Table | None = None
    splits: Parts | None = Option(
        None, description="files of a predefined split, in place of interactions.file"
    )
    time_unit: TimeUnit = Option("s", description="what numbers in the time column count since 1970")

    @model_validator(mode="after")
    def _check(self) -> Tabular:
        if (self.interactions.file is None) == (self.splits is None):
            raise ValueError("give either interactions.file or splits")
        known = {
            "interactions": set(self.declared.event_columns),
            "queries": set(self.declared.side_columns("query")),
            "items": set(self.declared.side_columns("item")),
        }
        for place, fields in known.items():
            table: Table | None = getattr(self, place)
            if table is None:
                continue
            if place != "interactions" and table.file is None:
                raise ValueError(f"{place}.file is missing")
            if strange := sorted(set(table.columns) - fields):
                raise ValueError(
                    f"{place}.columns maps {strange[0]!r}, which is no field of that table; "
                    f"fields there: {', '.join(sorted(fields))}"
                )
        return self

    def files(self, path: Path) -> list[Path]:
        """The files below ``path`` that are read.

        Raises
        ------
        DataError
            One of them is missing.
        """
        return _Reading(self, Path(path), "raise").files()

    def read(self, path: Path, on_error: OnError = "raise") -> Dataset:
        """Read the tables in the folder ``path``.

        Labels, times and weights must be present and finite in every row, ids present, and ids of the side
        tables unique. Times become seconds since 1970: numbers (see ``time_unit``), ISO strings (UTC where
        they name no offset) or Parquet timestamps. Ids and categories of text files are integers when all of
        a column are, else strings.

        Raises
        ------
        DataError
            A missing file or column, a column of the wrong type, or a broken row (unless ``on_error`` is
            "skip"); with file, line (Parquet: row), column, value and remedy.
        """
        reading = _Reading(self, Path(path), on_error)
        events = reading.events()
        sides = {
            "query": reading.side(self.queries, "query"),
            "item": reading.side(self.items, "item"),
        }
        for side, key in (("query", self.declared.query), ("item", self.declared.item)):
            if (table := sides[side]) is not None and table[key].dtype != events[key].dtype:
                events = events.with_columns(pl.col(key).cast(pl.String))
                sides[side] = table.with_columns(pl.col(key).cast(pl.String))
        return Dataset.build(
            self.name, self.declared, events, sides["query"], sides["item"], tuple(reading.notes)
        )


class _Reading:
    """One pass over the files: how broken rows are met, and what there was to say."""

    def __init__(self, config: Tabular, directory: Path, on_error: OnError) -> None:
        self.config, self.directory, self.on_error = config, directory, on_error
        self.notes: list[str] = []

    def files(self) -> list[Path]:
        config = self.config
        parts = {} if config.splits is None else config.splits.model_dump(exclude_none=True)
        tables = (config.interactions, config.queries, config.items)
        names = [*parts.values(), *(table.file for table in tables if table is not None)]
        return [path for name in dict.fromkeys(names) if name is not None for path in self._paths(name)]

    def events(self) -> pl.DataFrame:
        """All events with `ROW` counting through the files, and `PART` when the split is predefined."""
        table, schema = self.config.interactions, self.config.declared
        fields = [schema[name] for name in schema.event_columns]
        if self.config.splits is None:
            return self._frames(table, fields, self._paths(table.file or ""))
        parts = self.config.splits.model_dump(exclude_none=True)
        paths = {part: self._paths(file) for part, file in parts.items()}
        sources = [(path, part) for part, found in paths.items() for path in found]
        return self._frames(table, fields, [path for path, _ in sources], [part for _, part in sources])

    def side(self, table: Table | None, side: Literal["query", "item"]) -> pl.DataFrame | None:
        if table is None:
            return None
        fields = [self.config.declared[name] for name in self.config.declared.side_columns(side)]
        return self._frames(table, fields, self._paths(table.file or ""), unique=fields[0].name)

    def _paths(self, file: str) -> list[Path]:
        if not any(sign in file for sign in "*?["):
            return [find_file(self.directory, file)]
        paths = sorted(path for path in self.directory.glob(file) if path.is_file())
        if not paths:
            raise DataError(f"no file matches {file!r}", file=self.directory, remedy="check the mapping")
        return paths

    def _frames(
        self,
        table: Table,
        fields: list[Field],
        paths: list[Path],
        parts: list[str] | None = None,
        unique: str | None = None,
    ) -> pl.DataFrame:
        """All files of a table, one below the other."""
        frames, start = [], 0
        for number, path in enumerate(paths):
            frame, total, typed = self._one(path, table, fields, unique)
            frame = frame.with_columns(pl.col(ROW).cast(pl.Int64) + start)
            if parts is not None:
                frame = frame.with_columns(pl.lit(parts[number]).alias(PART))
            frames.append((frame, typed))
            start += total
        words = [field.name for field in fields if _TYPES[field.kind] == "word"]
        whole = pl.concat(_same_words(frames, words), how="vertical_relaxed")
        if unique is not None and (twice := whole[unique].is_duplicated()).any():  # each file alone has none
            message = f"{whole[unique].filter(twice)[0]!r} stands in more than one file"
            raise DataError(message, file=paths[-1], column=unique, remedy="keep one row per id")
        return whole

    def _one(
        self, path: Path, table: Table, fields: Iterable[Field], unique: str | None
    ) -> tuple[pl.DataFrame, int, bool]:
        broken = Broken(path, self.on_error)
        sources = {field.name: table.columns.get(field.name, field.name) for field in fields}
        parts = {name: (source,) if isinstance(source, str) else source for name, source in sources.items()}
        wanted = list(dict.fromkeys(column for columns in parts.values() for column in columns))
        lists = [
            str(sources[f.name]) for f in fields if f.kind in ("bag", "vector") and len(parts[f.name]) == 1
        ]
        folders = self._folders(path, table)
        inside = [column for column in wanted if column not in folders]
        raw = _with_columns(self._raw(path, table, inside, lists, broken), folders)
        raw = _combined(raw, fields, sources, table.separator)
        columns = [
            Column(
                field.name,
                "time" if field.role == "time" else _TYPES[field.kind],
                _label(sources[field.name]),
                required=field.kind == "id" or field.role in ("label", "time", "weight"),
                unique=field.name == unique,
                separator=table.separator,
                dim=field.dim,
                unit=self.config.time_unit,
            )
            for field in fields
        ]
        frame = checked(raw, columns, broken)
        self.notes += broken.notes()
        return frame, raw.total, raw.typed

    def _folders(self, path: Path, table: Table) -> dict[str, str]:
        """The columns that stand in the path of a file."""
        if not table.folders:
            return {}
        found = path.relative_to(self.directory).parts[:-1] if path.is_relative_to(self.directory) else ()
        if len(found) != len(table.folders):
            raise DataError(
                f"lies in {len(found)} folders, expected {len(table.folders)}: {', '.join(table.folders)}",
                file=path,
                remedy="let 'folders' name every folder between the data folder and the file",
            )
        return dict(zip(table.folders, found, strict=True))

    def _raw(self, path: Path, table: Table, wanted: list[str], lists: list[str], broken: Broken) -> Raw:
        form = table.format or _format(path)
        if form == "parquet":
            return read_parquet(path, wanted)
        if form == "jsonl":
            return read_jsonlines(path, wanted, broken, lists)
        delimiter = table.delimiter or ("," if form == "csv" else "\t")
        text = Form(delimiter, table.quoted, table.names, table.latin1, table.missing)
        return read_delimited(path, text, wanted, broken)


def _format(path: Path) -> Format:
    ending = Path(path.name.removesuffix(".gz")).suffix.lower()
    if ending not in _ENDINGS:
        raise DataError(
            f"unknown kind of file {ending or '(no ending)'}; known: {', '.join(_ENDINGS)}",
            file=path,
            remedy="name the 'format' in the recipe",
        )
    return _ENDINGS[ending]


def _label(source: str | tuple[str, ...]) -> str:
    return source if isinstance(source, str) else "+".join(source)


def _with_columns(raw: Raw, values: Mapping[str, str]) -> Raw:
    """The rows with columns that hold one value each."""
    made = [pl.lit(value).alias(name) for name, value in values.items()]
    return replace(raw, frame=raw.frame.with_columns(made)) if made else raw


def _combined(
    raw: Raw, fields: Iterable[Field], sources: Mapping[str, str | tuple[str, ...]], separator: str
) -> Raw:
    """Columns made of several: joined text, or for vectors a list of the numbers."""
    made = []
    for field in fields:
        source = sources[field.name]
        if isinstance(source, str):
            continue
        if field.kind == "vector":
            made.append(pl.concat_list(source).alias(_label(source)))
        elif field.kind in ("id", "category"):
            made.append(pl.concat_str(source, separator=_JOIN).alias(_label(source)))
        else:
            raise DataError(
                f"a {field.kind} cannot be made of several columns", file=raw.file, column=field.name
            )
    return replace(raw, frame=raw.frame.with_columns(made))


def _same_words(frames: list[tuple[pl.DataFrame, bool]], names: list[str]) -> list[pl.DataFrame]:
    """Each word column in one type for all files: integers where every value is one, else strings."""
    made = [frame for frame, _ in frames]
    for name in names:
        columns = [_whole(frame[name], typed) for frame, typed in frames]
        if len({column.dtype for column in columns}) > 1 or columns[0].dtype == pl.String:
            columns = [frame[name].cast(pl.String) for frame, _ in frames]
        made = [frame.with_columns(column) for frame, column in zip(made, columns, strict=True)]
    return made


def _whole(words: pl.Series, typed: bool) -> pl.Series:
    """Text as integers when nothing is lost by it ("7", not "007"); what a file typed stays."""
    if typed or words.dtype != pl.String:
        return words
    whole = words.cast(pl.Int64, strict=False)
    return whole if whole.cast(pl.String).eq_missing(words).all() else words
