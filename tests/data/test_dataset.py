"""Three tables that fit each other."""

import polars as pl
import pytest

from twotower.data.dataset import Dataset
from twotower.errors import DataError
from twotower.schema import PART, ROW, TIME_EXACT, Schema

SCHEMA = Schema.parse(
    {
        "query": "user",
        "item": "movie",
        "fields": [
            {"name": "user", "kind": "id", "role": "query"},
            {"name": "movie", "kind": "id", "role": "item"},
            {"name": "year", "kind": "number", "role": "item"},
            {"name": "rating", "kind": "number", "role": "label"},
            {"name": "time", "kind": "number", "role": "time"},
        ],
    }
)
EVENTS = pl.DataFrame(
    {"user": [7, 8, 7], "movie": ["a", "b", "c"], "rating": [5, 3, 4], "time": [30, 10, 20]}
)
ITEMS = pl.DataFrame({"movie": ["b", "a", "z"], "year": [1990, 2000, 2010], "other": [0, 0, 0]})


def build(events=EVENTS, items=ITEMS, **more):
    return Dataset.build("toy", SCHEMA, events, items=items, **more)


def test_events_keep_their_order_and_are_numbered():
    data = build()
    assert data.events.columns == ["user", "movie", "rating", "time", ROW]
    assert data.events[ROW].to_list() == [0, 1, 2]
    assert data.events["user"].to_list() == [7, 8, 7]


def test_bookkeeping_of_the_reader_is_kept_and_strange_columns_are_not():
    extra = EVENTS.with_columns(
        pl.Series(ROW, [10, 4, 2]),
        pl.Series(PART, ["train"] * 3),
        pl.Series(TIME_EXACT, [True] * 3),
        x=pl.lit(1),
    )
    data = build(extra)
    assert data.events.columns == ["user", "movie", "rating", "time", ROW, TIME_EXACT, PART]
    assert data.events[ROW].to_list() == [10, 4, 2]


def test_items_of_events_are_added_with_missing_values_and_counted():
    data = build(notes=("read 3 rows",))
    assert data.items.rows() == [("b", 1990), ("a", 2000), ("z", 2010), ("c", None)]
    note = "1 of the events' movie ids are not in the item table: added with missing values"
    assert data.notes == ("read 3 rows", note)
    assert data.item_catalogue.keys(pl.Series(["c"])).tolist() == [3]


def test_queries_without_a_table_stand_in_order_of_appearance():
    data = build()
    assert data.queries.rows() == [(7,), (8,)]
    assert repr(data) == "Dataset(toy: 3 events, 2 queries, 4 items)"


@pytest.mark.parametrize(
    ("events", "items", "message"),
    [
        (EVENTS.clear(), ITEMS, "no events at all"),
        (EVENTS.drop("rating"), ITEMS, "no column 'rating'; found: user, movie, time"),
        (EVENTS.with_columns(time=pl.Series([30, None, None])), ITEMS, "2 events have no value"),
        (EVENTS.with_columns(user=pl.Series([None, 8, 7])), ITEMS, "1 events have no value"),
        (EVENTS, None, "no item table"),
        (EVENTS, ITEMS.drop("year"), "item table has no column 'year'"),
        (EVENTS, pl.concat([ITEMS, ITEMS[1:]]), "2 ids more than once, first 'a'"),
        (EVENTS, ITEMS.with_columns(movie=pl.Series(["a", None, "b"])), "rows without an id"),
        (EVENTS, ITEMS.with_columns(movie=pl.Series([1, 2, 3])), "Int64 in the item table and String"),
    ],
)
def test_tables_that_do_not_fit_are_refused(events, items, message):
    with pytest.raises(DataError, match=message):
        build(events, items)


def test_a_missing_value_is_found_by_its_line():
    with pytest.raises(DataError) as caught:
        build(EVENTS.with_columns(time=pl.Series([30, None, 20])))
    assert (caught.value.line, caught.value.column) == (2, "time")
    assert "--on-error skip" in str(caught.value)
