"""The rule of positives, and what is left out before the split."""

from __future__ import annotations

import math
from dataclasses import replace

import polars as pl
import pytest

from twotower.data.dataset import Dataset
from twotower.data.positives import Drop, Positive
from twotower.errors import ConfigError, DataError
from twotower.schema import Field, Schema

SCHEMA = Schema(
    query="user",
    item="movie",
    fields=(
        Field(name="user", kind="id", role="query"),
        Field(name="movie", kind="id", role="item"),
        Field(name="rating", kind="number", role="label"),
    ),
)


def dataset(*ratings: float | None) -> Dataset:
    ids = list(range(len(ratings)))
    events = pl.DataFrame({"user": ids, "movie": ids, "rating": pl.Series(ratings, dtype=pl.Float64)})
    return Dataset.build("tiny", SCHEMA, events)


def test_without_a_rule_all_is_positive_and_nothing_goes() -> None:
    data = dataset(1, 5)
    assert Positive().apply(data) == data
    assert Positive().mask(data.events).to_list() == [True, True]
    assert Positive().mask(data.events.clear()).to_list() == []


def test_drop_comes_before_all_and_is_counted() -> None:
    rule = Positive(label="rating", at_least=4, drop=Drop(label="rating", equals=3))
    kept = rule.apply(dataset(1, 3, 4, 3, 5))
    assert kept.events["row"].to_list() == [0, 2, 4]
    assert rule.mask(kept.events).to_list() == [False, True, True]
    assert len(kept.items) == 5
    assert kept.notes == (
        "2 events left out by the rule rating = 3",
        "2 of 3 events are positive (rating >= 4)",
    )


def test_a_rule_that_leaves_nothing() -> None:
    with pytest.raises(DataError, match="no event"):
        Positive(drop=Drop(label="rating", equals=3)).apply(dataset(3, 3))


@pytest.mark.parametrize("hole", [None, math.nan])
def test_a_missing_label_is_neither_positive_nor_negative(hole: float | None) -> None:
    rule = Positive(label="rating", at_least=4)
    with pytest.raises(DataError, match=r"^column rating: event 2 \(user 1, movie 1\) has no label"):
        rule.apply(dataset(5, hole))
    with pytest.raises(DataError, match=r"2 events have no label, first event 2 \(user 1, movie 1\)"):
        rule.apply(dataset(5, hole, 3, hole))
    with pytest.raises(DataError, match=r"event 2 has no label"):
        rule.mask(pl.DataFrame({"rating": [5.0, hole]}))


@pytest.mark.parametrize("hole", [None, math.nan])
def test_a_missing_label_is_said_of_an_event_and_not_of_a_line(hole: float | None) -> None:
    """A CSV file has a header and there may be several files: which line it was is not known any more."""
    with pytest.raises(DataError, match=r"event 3 \(user 2, movie 2\)") as caught:
        Positive(drop=Drop(label="rating", equals=3)).apply(dataset(3, 5, hole))
    assert (caught.value.file, caught.value.line) == (None, None)
    both = Positive(label="rating", drop=Drop(label="rating", equals=3))
    data = dataset(3, 5, 1)
    holed = data.events.slice(1).with_columns(rating=pl.Series([5.0, hole]))
    with pytest.raises(DataError, match=r"event 3 \(user 2"):  # counted as read, whatever was left out since
        both.apply(replace(data, events=holed))


def test_unknown_label() -> None:
    for rule in (Positive(label="ratings"), Positive(drop=Drop(label="ratings", equals=1))):
        with pytest.raises(ConfigError, match="did you mean 'rating'"):
            rule.apply(dataset(1))
