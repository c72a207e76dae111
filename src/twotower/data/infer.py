"""A schema proposed from the data itself: to be read, corrected and pasted into the recipe."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from twotower.config import dump_yaml, nearest
from twotower.data.files import find_file, read_bytes
from twotower.errors import ConfigError, DataError
from twotower.schema import BOOKKEEPING, Field, Kind, Role, Schema

SAMPLE_ROWS = 100_000
"""Rows of each table that are looked at."""
JSON_LINES = {".jsonl", ".ndjson", ".json"}
"""Endings of files of one object a line."""
FEW = 100
"""Whole numbers with at most so many different values are categories, not amounts."""

_QUERY_NAMES = (
    "user",
    "user_id",
    "userid",
    "query",
    "query_id",
    "customer_id",
    "reviewerid",
    "session_id",
    "uid",
)
_ITEM_NAMES = (
    "item",
    "item_id",
    "itemid",
    "movie",
    "movie_id",
    "movieid",
    "asin",
    "product_id",
    "ad_id",
    "adgroup_id",
)
_TIME_NAMES = ("timestamp", "time", "time_stamp", "ts", "datetime", "date", "unixreviewtime", "created_at")
_LABEL_NAMES = ("rating", "label", "click", "clk", "buy", "purchase", "overall", "like")


@dataclass(frozen=True)
class Proposal:
    """An inferred schema with the reason for every field, and for every column left out."""

    schema: Schema
    reasons: dict[str, str]
    left_out: dict[str, str]

    def __str__(self) -> str:
        return explain(self.schema, self.reasons, self.left_out)


def infer_schema(
    events: pl.DataFrame | Path,
    queries: pl.DataFrame | Path | None = None,
    items: pl.DataFrame | Path | None = None,
    *,
    query: str | None = None,
    item: str | None = None,
    time: str | None = None,
    labels: Sequence[str] | None = None,
) -> Schema:
    """The schema of `propose`, without its reasons."""
    return propose(events, queries, items, query=query, item=item, time=time, labels=labels).schema


def propose(
    events: pl.DataFrame | Path,
    queries: pl.DataFrame | Path | None = None,
    items: pl.DataFrame | Path | None = None,
    *,
    query: str | None = None,
    item: str | None = None,
    time: str | None = None,
    labels: Sequence[str] | None = None,
) -> Proposal:
    """Propose a schema from tables, or Parquet, CSV, TSV or JSON-lines files (first 100,000 rows).

    Columns of ``queries`` and ``items`` belong to the query and the item, other columns of the events are
    context. What is not named (query, item, time, labels) is guessed from usual column names.

    Raises
    ------
    ConfigError
        A named column is not there, or the query or item column cannot be guessed.
    DataError
        A file cannot be read, or a side table lacks its id column.

    >>> log = pl.DataFrame({"user_id": [1, 2, 2], "item_id": [7, 8, 7], "clk": [0, 1, 1], "hour": [3, 4, 3]})
    >>> print(propose(log))
    schema:
      query: user_id
      item: item_id
      fields:
      - {name: user_id, kind: id, role: query}  # names the query
      - {name: item_id, kind: id, role: item}  # names the item
      - {name: clk, kind: number, role: label}  # usual name of a label
      - {name: hour, kind: category, role: context}  # whole numbers, 2 different
    """
    log = _table(events)
    query = _pick(log, "query", query, _QUERY_NAMES)
    item = _pick(log, "item", item, _ITEM_NAMES)
    if query is None or item is None:
        missing = "query" if query is None else "item"
        raise ConfigError(
            f"which column names the {missing}? Give {missing}=, one of: {', '.join(log.columns)}"
        )
    time = _pick(log, "time", time, _TIME_NAMES)
    why = "named as a label"
    if labels is None:
        labels = [name for name in log.columns if name.lower() in _LABEL_NAMES]
        why = "usual name of a label"
    for label in labels:
        _pick(log, "labels", label, ())
    guess = _Guess()
    guess.add(Field(name=query, kind="id", role="query"), "names the query")
    guess.table(_side(queries, query), "query", query)
    guess.add(Field(name=item, kind="id", role="item"), "names the item")
    guess.table(_side(items, item), "item", item)
    for label in labels:
        guess.add(Field(name=label, kind="number", role="label"), why)
    if time is not None:
        guess.add(Field(name=time, kind="number", role="time"), "orders the events")
    guess.table(log, "context")
    return Proposal(Schema(query=query, item=item, fields=tuple(guess.fields)), guess.reasons, guess.left_out)


def explain(
    schema: Schema, reasons: dict[str, str] | None = None, left_out: dict[str, str] | None = None
) -> str:
    """The schema as YAML for a recipe, each field on one line with its reason as a comment."""
    lines = ["schema:", f"  query: {_scalar(schema.query)}", f"  item: {_scalar(schema.item)}", "  fields:"]
    for field in schema.fields:
        values = field.model_dump(mode="json", exclude_defaults=True)
        inside = ", ".join(f"{name}: {_scalar(value)}" for name, value in values.items())
        reason = (reasons or {}).get(field.name)
        lines.append(f"  - {{{inside}}}" + (f"  # {reason}" if reason else ""))
    told = [f"{name} ({reason})" for name, reason in (left_out or {}).items()]
    # a line break in a name would end the comment, and the rest would be no YAML
    lines += [f"  # left out: {each if each.isprintable() else repr(each)}" for each in told]
    return "\n".join(lines)


class _Guess:
    """Fields so far, with the reasons."""

    def __init__(self) -> None:
        self.fields: list[Field] = []
        self.reasons: dict[str, str] = {}
        self.left_out: dict[str, str] = {}

    def add(self, field: Field, reason: str) -> None:
        self.fields.append(field)
        self.reasons[field.name] = reason

    def table(self, table: pl.DataFrame | None, role: Role, key: str | None = None) -> None:
        """All columns of a table that have no field yet."""
        for name in table.columns if table is not None else ():
            assert table is not None
            if name == key or name in BOOKKEEPING:
                continue
            if not name:
                self.left_out["(nameless)"] = "a column without a name, most likely row numbers"
                continue
            label = self._told_by(table, name) if role == "context" else None
            if label is not None:
                self.left_out[name] = f"tells the label {label}"
                continue
            if name in self.reasons:
                if role != "context":
                    self.left_out[name] = "stands in more than one table"
                continue
            kind, reason, dim = _kind(table[name])
            if kind is None:
                self.left_out[name] = reason
            else:
                self.add(Field(name=name, kind=kind, role=role, dim=dim), reason)

    def _told_by(self, table: pl.DataFrame, name: str) -> str | None:
        """A label that this other column gives away: the values go one to one (click and not-click)."""
        if name in self.reasons or table[name].dtype.is_nested():
            return None
        labels = (field.name for field in self.fields if field.role == "label")
        return next((label for label in labels if _one_to_one(table[name], table[label])), None)


def _one_to_one(a: pl.Series, b: pl.Series) -> bool:
    return a.n_unique() == b.n_unique() == pl.DataFrame([a.alias("a"), b.alias("b")]).n_unique() > 1


def _kind(column: pl.Series) -> tuple[Kind | None, str, int]:
    """What a column most likely holds, why, and the length of a vector."""
    known = column.drop_nulls()
    if known.is_empty():
        return None, "no values", 0
    if isinstance(column.dtype, pl.Array | pl.List):
        return _list_kind(known)
    different = known.n_unique()
    if different == 1:
        return None, f"always {known[0]!r}", 0
    if column.dtype == pl.Boolean:
        return "category", "true or false", 0
    if column.dtype.is_float():
        return "number", "numbers with fractions", 0
    if column.dtype.is_integer():
        few = different <= FEW
        return ("category" if few else "number"), f"whole numbers, {different:,} different", 0
    if column.dtype == pl.String:
        return _string_kind(known, different)
    return None, f"type {column.dtype} is no feature", 0


def _list_kind(lists: pl.Series) -> tuple[Kind | None, str, int]:
    if isinstance(lists.dtype, pl.Array):
        lists = lists.arr.to_list()
    lengths = lists.list.len()
    inner = lists.dtype.inner if isinstance(lists.dtype, pl.List) else lists.dtype
    shortest, longest = (int(n) for n in np.percentile(lengths.to_numpy(), (0, 100)))
    if pl.Series(dtype=inner).dtype.is_float():
        if shortest == longest > 0:
            return "vector", f"lists of {longest} numbers", longest
        return None, f"lists of {shortest} to {longest} fractions: neither a bag nor a vector", 0
    return "bag", f"lists of {shortest} to {longest} values", 0


def _string_kind(words: pl.Series, different: int) -> tuple[Kind | None, str, int]:
    parts = words.str.split("|").explode()
    if len(parts) > len(words) and parts.n_unique() < different:
        return "bag", f"values joined by '|', {parts.n_unique():,} different", 0
    length = int(words.str.len_chars().sum()) / len(words)
    phrases = int(words.str.contains(" ", literal=True).sum()) / len(words)
    if length > 40 or (phrases > 0.5 and different > 0.5 * len(words)):
        return "text", f"{length:.0f} characters on average, {different:,} different", 0
    return "category", f"strings, {different:,} different", 0


def _pick(table: pl.DataFrame, role: str, named: str | None, usual: Sequence[str]) -> str | None:
    if named is not None:
        if named not in table.columns:
            raise ConfigError(f"{role}: the events have no column {named!r}{nearest(named, table.columns)}")
        return named
    by_lower = {name.lower(): name for name in reversed(table.columns)}
    return next((by_lower[name] for name in usual if name in by_lower), None)


def _side(source: pl.DataFrame | Path | None, key: str) -> pl.DataFrame | None:
    if source is None:
        return None
    table = _table(source)
    if key not in table.columns:
        raise DataError(
            f"the side table has no column {key!r}; found: {', '.join(table.columns)}",
            file=None if isinstance(source, pl.DataFrame) else source,
            remedy="rename its id column, or give the events' name for it",
        )
    return table


def _table(source: pl.DataFrame | Path) -> pl.DataFrame:
    if isinstance(source, pl.DataFrame):
        return source.head(SAMPLE_ROWS)
    path = find_file(source.parent, source.name)
    try:
        if path.suffix in (".parquet", ".pq"):
            return pl.scan_parquet(path, glob=False).head(SAMPLE_ROWS).collect()
        if JSON_LINES & set(path.suffixes):
            table = pl.read_ndjson(read_bytes(path), n_rows=SAMPLE_ROWS, infer_schema_length=None)
            return table.head(SAMPLE_ROWS)
        return pl.read_csv(
            path,
            n_rows=SAMPLE_ROWS,
            separator="\t" if ".tsv" in path.suffixes else ",",
            infer_schema_length=None,
            glob=False,
        )
    except (pl.exceptions.PolarsError, OSError) as error:
        reason = str(error).partition("\n")[0]
        raise DataError(f"cannot be read as a table: {reason}", file=path) from None


def _scalar(value: object) -> str:
    return dump_yaml(value).removesuffix("\n").removesuffix("\n...")
