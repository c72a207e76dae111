"""Several labels, one value."""

import polars as pl
import pytest

from twotower.data.values import ValueTerm, value_of
from twotower.errors import ConfigError, DataError
from twotower.schema import Field, Schema

SCHEMA = Schema(
    query="user",
    item="item",
    fields=(
        Field(name="user", kind="id", role="query"),
        Field(name="item", kind="id", role="item"),
        Field(name="click", kind="number", role="label"),
        Field(name="rating", kind="number", role="label"),
    ),
)
EVENTS = pl.DataFrame({"click": [1, 0, 1], "rating": [5.0, 4.0, 2.0]})


def value(*terms, events=EVENTS):
    return value_of(events, SCHEMA, [ValueTerm.parse(term) for term in terms]).tolist()


def test_terms_are_added_by_weight():
    rating = {"label": "rating", "at_least": 4, "weight": 3}
    assert value({"label": "click"}) == [1, 0, 1]
    assert value(rating) == [3, 3, 0]
    assert value({"label": "click", "weight": 0.5}, rating) == [3.5, 3, 0.5]
    assert value({"label": "rating"}) == [5, 4, 2]
    assert value({"label": "rating"}, events=EVENTS.clear()) == []


def test_what_cannot_be_a_gain_is_refused():
    with pytest.raises(ConfigError, match="'clik' is no label of the data; did you mean 'click'"):
        value({"label": "clik"})
    with pytest.raises(DataError, match="1 values are missing"):
        value({"label": "rating"}, events=pl.DataFrame({"rating": [1.0, None]}))
    below = pl.DataFrame({"rating": [1.0, -2.0]})
    with pytest.raises(DataError, match="a gain cannot be negative, found -2"):
        value({"label": "rating"}, events=below)
    assert value({"label": "rating", "at_least": 0}, events=below) == [1, 0]
