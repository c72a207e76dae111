"""A data set: events, and a table for each side, checked once when it is made."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import polars as pl

from twotower.data.catalogue import Catalogue
from twotower.errors import DataError
from twotower.schema import BOOKKEEPING, ROW, Schema

Side = Literal["query", "item"]


@dataclass(frozen=True)
class Dataset:
    """Events (query, item, labels, time, ...) beside the query and the item table.

    Make one with `Dataset.build`. ``notes`` says in plain sentences what the reader counted, added or
    dropped: it is printed, so that nothing is lost silently.
    """

    name: str
    schema: Schema
    events: pl.DataFrame  # schema.event_columns + ROW, and TIME_EXACT and PART where the reader has them
    queries: pl.DataFrame  # schema.side_columns("query"), one row per query
    items: pl.DataFrame  # schema.side_columns("item"), one row per item
    notes: tuple[str, ...] = field(default=())

    @classmethod
    def build(
        cls,
        name: str,
        schema: Schema,
        events: pl.DataFrame,
        queries: pl.DataFrame | None = None,
        items: pl.DataFrame | None = None,
        notes: tuple[str, ...] = (),
    ) -> Dataset:
        """Check the three tables, complete the two sides, and number the events.

        A side table may be missing, or lack entities that occur in events: they are appended with missing
        values and counted in ``notes``. Events keep their order; existing `BOOKKEEPING` columns are kept.

        Raises
        ------
        DataError
            No events, a missing column, a missing key or time, or an id twice in a side table.
        """
        if events.is_empty():
            raise DataError("no events at all", remedy="check the file and the mapping of the recipe")
        for column in schema.event_columns:
            if column not in events.columns:
                raise DataError(
                    f"the events have no column {column!r}; found: {', '.join(events.columns)}",
                    remedy="name the right column in the recipe's mapping",
                )
        if ROW not in events.columns:
            events = events.with_row_index(ROW)
        kept = [column for column in BOOKKEEPING if column in events.columns]
        events = events.select(*schema.event_columns, *kept).with_columns(pl.col(ROW).cast(pl.Int64))
        for column in filter(None, (schema.query, schema.item, schema.time)):
            missing = events.filter(pl.col(column).is_null())
            if len(missing):
                raise DataError(
                    f"{len(missing)} events have no value",
                    column=column,
                    line=int(missing[ROW][0]) + 1,
                    remedy="repair the rows, or read with --on-error skip",
                )
        queries, query_notes = _complete(schema, "query", queries, events)
        items, item_notes = _complete(schema, "item", items, events)
        return cls(name, schema, events, queries, items, (*notes, *query_notes, *item_notes))

    @cached_property
    def query_catalogue(self) -> Catalogue:
        return Catalogue(self.queries[self.schema.query])

    @cached_property
    def item_catalogue(self) -> Catalogue:
        return Catalogue(self.items[self.schema.item])

    def __repr__(self) -> str:
        sizes = f"{len(self.events):,} events, {len(self.queries):,} queries, {len(self.items):,} items"
        return f"Dataset({self.name}: {sizes})"


def _complete(
    schema: Schema, side: Side, table: pl.DataFrame | None, events: pl.DataFrame
) -> tuple[pl.DataFrame, tuple[str, ...]]:
    """The side's table with every entity of the events, and a note when some had to be added."""
    key = schema.query if side == "query" else schema.item
    columns = schema.side_columns(side)
    if table is None:
        if columns != (key,):
            raise DataError(f"the schema declares {side} fields {columns[1:]}, but there is no {side} table")
        table = events.select(key).unique(maintain_order=True)
    for column in columns:
        if column not in table.columns:
            raise DataError(
                f"the {side} table has no column {column!r}; found: {', '.join(table.columns)}",
                remedy="name the right column in the recipe's mapping",
            )
    table = table.select(columns)
    if table[key].null_count():
        raise DataError(f"the {side} table has rows without an id", column=key)
    twice = table.filter(pl.col(key).is_duplicated())
    if len(twice):
        raise DataError(
            f"the {side} table holds {twice[key].n_unique()} ids more than once, first {twice[key][0]!r}",
            column=key,
            remedy="keep one row per id",
        )
    if table[key].dtype != events[key].dtype:
        raise DataError(
            f"ids are {table[key].dtype} in the {side} table and {events[key].dtype} in the events",
            column=key,
            remedy="give both the same type",
        )
    missing = (
        events.select(key).unique(maintain_order=True).join(table, on=key, how="anti", maintain_order="left")
    )
    if missing.is_empty():
        return table, ()
    note = f"{len(missing):,} of the events' {key} ids are not in the {side} table: added with missing values"
    return pl.concat([table, missing], how="diagonal"), (note,)
