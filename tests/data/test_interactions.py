import math

import polars as pl
import pytest
import torch

from twotower.data.catalogue import Catalogue
from twotower.data.interactions import Interactions
from twotower.errors import ConfigError, DataError
from twotower.schema import Field, Schema
from twotower.types import Batch

SCHEMA = Schema(
    query="user",
    item="movie",
    fields=(
        Field(name="user", kind="id", role="query"),
        Field(name="movie", kind="id", role="item"),
        Field(name="rating", kind="number", role="label"),
        Field(name="time", kind="number", role="time"),
        Field(name="w", kind="number", role="weight"),
    ),
)
EVENTS = pl.DataFrame(
    {
        "user": [7, 5, 7],
        "movie": ["b", "a", "a"],
        "rating": [4, 1, 5],
        "time": [30, 10, 20],
        "w": [1.0, 0.5, 2.0],
        "row": [10, 11, 12],
    }
)
USERS = Catalogue(pl.Series("user", [5, 7]))
MOVIES = Catalogue(pl.Series("movie", ["a", "b"]))


def test_ids_become_keys_and_columns_become_tensors():
    events = Interactions.of(EVENTS, SCHEMA, USERS, MOVIES, label="rating")
    assert events.query_keys.tolist() == [1, 0, 1]
    assert events.item_keys.tolist() == [1, 0, 0]
    assert events.times.tolist() == [30, 10, 20]
    assert events.times.dtype == torch.int64
    assert events.rows.tolist() == [10, 11, 12]
    assert events.labels is not None
    assert events.labels.dtype == torch.float32
    assert events.weights is not None
    assert events.weights.tolist() == [1.0, 0.5, 2.0]


def test_take_keeps_the_columns_together():
    context = Batch(device=torch.tensor([3, 4, 5]))
    events = Interactions.of(EVENTS, SCHEMA, USERS, MOVIES, label="rating", context=context)
    taken = events.take(torch.tensor([2, 0]))
    assert (taken.rows.tolist(), taken.context["device"].tolist()) == ([12, 10], [5, 3])
    assert taken.labels is not None
    assert taken.labels.tolist() == [5, 4]


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        ("user", [7, 5, 99], r"1 ids are not in the catalogue, first 99 at row 12"),
        ("movie", ["b", None, "a"], r"first None at row 11"),
        ("rating", [4.0, math.nan, 1.0], r"column rating.*first nan at row 11"),
        ("time", [None, 1, 2], r"column time.*at row 10"),
        ("w", [1.0, math.inf, math.inf], r"2 values are missing or not finite"),
        ("rating", ["4", "5", "x"], r"expected numbers, found String"),
    ],
)
def test_broken_values_are_named(column, values, message):
    events = EVENTS.with_columns(pl.Series(column, values))
    with pytest.raises(DataError, match=message):
        Interactions.of(events, SCHEMA, USERS, MOVIES, label="rating")


def test_an_unknown_label_names_the_nearest():
    with pytest.raises(ConfigError, match="did you mean 'rating'"):
        Interactions.of(EVENTS, SCHEMA, USERS, MOVIES, label="ratin")


def test_columns_of_different_length_are_refused():
    two, three = torch.zeros(2, dtype=torch.int64), torch.zeros(3, dtype=torch.int64)
    with pytest.raises(ValueError, match="rows has 3 rows, query_keys 2"):
        Interactions(two, two, two, three)
