"""The leakage report: numbers worked out by hand, then the ones known of real data."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from twotower.data.dataset import Dataset
from twotower.data.leakage import LeakageReport
from twotower.data.positives import Positive
from twotower.data.splits import SplitConfig, split
from twotower.schema import Field, Schema

FIELDS = (
    Field(name="user", kind="id", role="query"),
    Field(name="movie", kind="id", role="item"),
    Field(name="rating", kind="number", role="label"),
    Field(name="time", kind="number", role="time"),
)
SCHEMA = Schema(query="user", item="movie", fields=FIELDS)


def dataset(rows: list[tuple[int, int, int, int]]) -> Dataset:
    names = ("user", "movie", "rating", "time")
    return Dataset.build("tiny", SCHEMA, pl.DataFrame(rows, schema=names, orient="row"))


LAST_OUT = [  # user, movie, rating, time
    (1, 10, 5, 1),
    (1, 11, 2, 2),
    (1, 12, 5, 3),  # valid; tied with the test event
    (1, 13, 4, 3),  # test: a movie that nobody has in train
    (2, 10, 1, 5),
    (2, 12, 5, 7),  # valid
    (2, 10, 5, 9),  # test: a pair that is in train too
    (3, 14, 5, 9),  # one event: trains
]


def last_out() -> LeakageReport:
    return LeakageReport.of(
        split(dataset(LAST_OUT), SplitConfig(kind="leave-last-out")), Positive(label="rating", at_least=4)
    )


def test_by_hand() -> None:
    train, valid, test = (last_out().parts[name] for name in ("train", "valid", "test"))
    assert (train.rows, train.queries, train.items, train.positives) == (4, 3, 3, 2)
    assert (train.cold_items, train.seen_pairs, train.future_in_train, train.decided_by_row) == (None,) * 4
    assert (train.first_time, train.last_time) == (1, 9)
    assert (valid.rows, valid.items, valid.cold_items, valid.cold_item_rows) == (2, 1, 1, 2)
    assert (test.rows, test.queries, test.items, test.positives) == (2, 2, 2, 2)
    assert (test.cold_queries, test.cold_query_rows) == (0, 0)
    assert (test.cold_items, test.cold_item_rows, test.seen_pairs) == (1, 1, 1)
    assert (test.first_time, test.last_time) == (3, 9)
    assert (test.future_in_train, test.overlap_rows) == (2, 2)  # times 5 and 9 train, test starts at 3
    assert (test.tied, valid.tied) == (1, 1)
    assert test.decided_by_row == 0.5  # of two tied events either could be the last
    assert test.estimated_times is None


def test_a_split_by_time_has_no_future_in_train() -> None:
    data = dataset([(1, n, 5, n) for n in range(10)])
    parts = LeakageReport.of(split(data)).parts
    for name in ("valid", "test"):
        assert (parts[name].future_in_train, parts[name].overlap_rows) == (0, 0)
        assert (parts[name].tied, parts[name].decided_by_row) == (0, 0)
        assert parts[name].cold_item_rows == 1


def test_estimated_times_are_counted() -> None:
    data = dataset(LAST_OUT)
    exact = pl.Series("time_exact", [False, True, True, False, True, True, True, True])
    data = replace(data, events=data.events.with_columns(exact))
    parts = LeakageReport.of(split(data, SplitConfig(kind="leave-last-out"))).parts
    assert [part.estimated_times for part in parts.values()] == [1, 0, 1]


def test_without_a_time() -> None:
    untimed = Schema(query="user", item="movie", fields=FIELDS[:3])
    events = dataset(LAST_OUT).events.drop("time")
    data = Dataset.build("tiny", untimed, events)
    test = LeakageReport.of(split(data, SplitConfig(kind="leave-last-out"))).parts["test"]
    assert (test.first_time, test.future_in_train, test.tied, test.decided_by_row) == (None,) * 4
    assert "first time" in str(LeakageReport.of(split(data, SplitConfig(kind="leave-last-out"))))


def test_an_empty_part() -> None:
    result = split(dataset(LAST_OUT), SplitConfig(fractions=(0.5, 0.0, 0.5)))
    valid = LeakageReport.of(result).parts["valid"]
    assert (valid.rows, valid.positives, valid.cold_items, valid.first_time, valid.tied) == (0, 0, 0, None, 0)


def test_fold_in_is_told() -> None:
    data = dataset([(user, n, 5, n // 2) for user in range(40) for n in range(4)])
    report = LeakageReport.of(split(data, SplitConfig(kind="by-user", fold_in=0.5)))
    given = sum(part.rows for name, part in report.parts.items() if name != "train")
    assert report.notes == (f"{given:,} events of held-out queries given as history",)
    assert report.parts["test"].cold_query_rows == report.parts["test"].rows
    assert report.parts["test"].tied == report.parts["test"].rows  # the pairs are cut between moments:
    assert report.parts["test"].decided_by_row == 0  # so the row rule decides nothing


def test_text_and_json() -> None:
    report = last_out()
    lines = str(report).splitlines()
    assert lines[0].split() == ["leave-last-out", "train", "valid", "test"]
    assert len({len(line) for line in lines[:-1]}) == 1  # aligned
    assert lines[-1] == "1 queries with fewer than three events only train"
    row = next(line for line in lines if line.startswith("rows of cold items"))
    assert row.split()[4:] == ["-", "2", "(100.0%)", "1", "(50.0%)"]
    plain: dict[str, Any] = json.loads(json.dumps(report.plain()))
    assert plain["split"] == "leave-last-out"
    assert plain["parts"]["test"]["decided_by_row"] == 0.5


def test_seconds_since_1970_are_printed_as_dates() -> None:
    data = dataset([(user, movie, rating, 978300760 + time) for user, movie, rating, time in LAST_OUT])
    text = str(LeakageReport.of(split(data, SplitConfig(kind="leave-last-out"))))
    assert "2000-12-31 22:12:41" in text


@pytest.mark.data
def test_movielens_leave_last_out() -> None:
    root = os.environ.get("TWOTOWER_DATA")
    if not root:
        pytest.skip("TWOTOWER_DATA is not set")
    names = {"user_id": "user", "movie_id": "movie", "rating": "rating", "timestamp": "time"}
    events = pl.read_csv(Path(root) / "ml-1m" / "ratings.csv.gz").rename(names)
    data = Dataset.build("ml-1m", SCHEMA, events)
    exact = events["timestamp_exact"].cast(pl.Boolean).alias("time_exact")
    data = replace(data, events=data.events.with_columns(exact))
    report = LeakageReport.of(split(data, SplitConfig(kind="leave-last-out")))
    test = report.parts["test"]
    assert test.tied == 2544  # 42.1 % of the users
    assert test.decided_by_row is not None
    assert test.decided_by_row / test.rows == pytest.approx(0.262, abs=0.001)
    assert test.estimated_times == 0
    assert sum(part.estimated_times or 0 for part in report.parts.values()) == 141_437
    assert test.seen_pairs == 0
