"""The five splits: who is held out, what may be known, and that nothing gets lost."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from twotower.data.dataset import Dataset
from twotower.data.positives import Drop, Positive
from twotower.data.splits import PARTS, Split, SplitConfig, order, split
from twotower.errors import ConfigError, DataError
from twotower.schema import Field, Schema

FIELDS = (
    Field(name="user", kind="id", role="query"),
    Field(name="movie", kind="id", role="item"),
    Field(name="rating", kind="number", role="label"),
)
TIMED = Schema(query="user", item="movie", fields=(*FIELDS, Field(name="time", kind="number", role="time")))
UNTIMED = Schema(query="user", item="movie", fields=FIELDS)
KINDS = ("time", "leave-last-out", "by-user", "predefined", "hash-random")


def dataset(users: list[int], times: list[int], schema: Schema = TIMED) -> Dataset:
    n = len(users)
    columns: dict[str, Any] = {"user": users, "movie": range(n), "rating": [1] * n}
    if schema.time:
        columns["time"] = times
    return Dataset.build("tiny", schema, pl.DataFrame(columns))


def random_dataset(n: int = 600, seed: int = 0) -> Dataset:
    rng = np.random.default_rng(seed)
    data = dataset(rng.integers(0, 40, n).tolist(), rng.integers(0, 50, n).tolist())
    part = pl.Series("part", rng.choice(PARTS, n, p=[0.8, 0.1, 0.1]))
    return replace(data, events=data.events.with_columns(part))


def rows(frame: pl.DataFrame) -> list[int]:
    return frame["row"].to_list()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", [0, 1])
def test_every_event_is_in_one_part_and_parts_are_ordered(kind: Any, seed: int) -> None:
    data = random_dataset(seed=seed)
    result = split(data, SplitConfig(kind=kind))
    frames = [result.train, result.valid, result.test, *result.fold_in.values()]
    assert sorted(row for frame in frames for row in rows(frame)) == list(range(len(data.events)))
    for frame in (*frames, result.history("valid"), result.history("test")):
        assert frame.equals(frame.sort("time", "row"))
    assert split(data, SplitConfig(kind=kind)).test.equals(result.test)


def test_time_puts_ties_at_the_cut_into_the_earlier_part() -> None:
    data = dataset([0] * 10, [9, 8, 7, 7, 7, 3, 2, 1, 10, 10])
    result = split(data, SplitConfig(fractions=(0.5, 0.3, 0.2)))
    # in order: 1 2 3 7 7 7 8 9 10 10; the fifth is a 7, so that all three 7 train
    assert result.cuts == (7, 9)
    assert rows(result.train) == [7, 6, 5, 2, 3, 4]
    assert rows(result.valid) == [1, 0]
    assert rows(result.test) == [8, 9]
    assert result.history("test")["row"].to_list() == [7, 6, 5, 2, 3, 4, 1, 0]
    assert result.history("valid").equals(result.train)


@given(st.lists(st.integers(0, 8), min_size=5, max_size=60))
@settings(max_examples=60, deadline=None)
def test_time_never_lets_the_future_into_train(times: list[int]) -> None:
    try:
        result = split(dataset([0] * len(times), times))
    except DataError:
        return  # too many ties for three parts
    train, valid, test = (result.part(name)["time"].to_numpy() for name in PARTS)
    assert train.max() < valid.min()
    assert valid.max() < test.min()
    assert len(result.train) >= 0.8 * len(times)


def test_time_without_a_validation_part() -> None:
    result = split(dataset([0] * 10, list(range(10))), SplitConfig(fractions=(0.7, 0, 0.3)))
    assert [len(result.part(name)) for name in PARTS] == [7, 0, 3]


def test_leave_last_out_by_time_then_row() -> None:
    #                 rows 0  1  2  3  4  5  6
    data = dataset(users=[1, 1, 1, 1, 2, 2, 3], times=[5, 9, 9, 1, 1, 2, 4])
    result = split(data, SplitConfig(kind="leave-last-out"))
    assert rows(result.test) == [2]  # of the tied rows 1 and 2 the later row
    assert rows(result.valid) == [1]
    assert rows(result.train) == [3, 4, 5, 6, 0]
    assert result.notes == ("2 queries with fewer than three events only train",)
    assert rows(result.history("test")) == [3, 4, 5, 6, 0, 1]


def test_leave_last_out_without_a_time_goes_by_row() -> None:
    result = split(dataset([1, 2, 1, 1], [], UNTIMED), SplitConfig(kind="leave-last-out"))
    assert (rows(result.train), rows(result.valid), rows(result.test)) == ([0, 1], [2], [3])
    assert order(UNTIMED) == ["row"]


def test_by_user_holds_out_whole_users_and_gives_their_first_events() -> None:
    data = random_dataset(3000)
    result = split(data, SplitConfig(kind="by-user", fold_in=0.6))
    sides = [set(result.part(name)["user"]) for name in PARTS]
    assert not sides[0] & sides[1]
    assert not sides[0] & sides[2]
    assert not sides[1] & sides[2]
    for name in ("valid", "test"):
        given, targets = result.fold_in[name], result.part(name)
        for user in set(targets["user"]):
            mine, later = given.filter(user=user), targets.filter(user=user)
            n = len(mine) + len(later)
            assert len(mine) == max(1, int(0.6 * n))
            assert mine.select("time", "row").row(-1) < later.select("time", "row").row(0)
    assert set(result.history("test")["user"]) == sides[0] | sides[2]
    other = split(data, SplitConfig(kind="by-user", seed=1))
    assert set(other.test["user"]) != sides[2]


def test_by_user_does_not_mind_what_columns_are_called() -> None:
    data = random_dataset(300)
    named = replace(data, events=data.events.with_columns(dealt=pl.lit("x")))
    config = SplitConfig(kind="by-user")
    assert rows(split(named, config).test) == rows(split(data, config).test)


def test_by_user_gives_nothing_of_a_single_event() -> None:
    result = split(dataset(list(range(200)), [1] * 200), SplitConfig(kind="by-user"))
    assert all(frame.is_empty() for frame in result.fold_in.values())
    shares = [len(result.part(name)) / 200 for name in PARTS]
    assert shares == pytest.approx([0.8, 0.1, 0.1], abs=0.06)


def test_predefined() -> None:
    data = dataset([1, 2, 3], [3, 2, 1])
    with pytest.raises(ConfigError, match="lack"):
        split(data, SplitConfig(kind="predefined"))
    named = replace(data, events=data.events.with_columns(fold=pl.Series(["test", "train", "train"])))
    result = split(named, SplitConfig(kind="predefined", column="fold"))
    assert (rows(result.train), rows(result.valid), rows(result.test)) == ([2, 1], [], [0])
    strange = replace(data, events=data.events.with_columns(part=pl.Series(["dev", None, "train"])))
    with pytest.raises(DataError, match=r"found None, 'dev'; expected train, valid, test"):
        split(strange, SplitConfig(kind="predefined"))
    numbers = replace(data, events=data.events.with_columns(part=pl.Series([0, 1, 2])))
    with pytest.raises(DataError, match=r"found '0', '1', '2'; expected train, valid, test"):
        split(numbers, SplitConfig(kind="predefined"))


def test_hash_random_is_the_stated_formula() -> None:
    data = random_dataset()
    result = split(data, SplitConfig(kind="hash-random"))
    expected: dict[str, list[int]] = {name: [] for name in PARTS}
    for user, movie, row in data.events.sort("time", "row").select("user", "movie", "row").iter_rows():
        digit = xxhash.xxh64(f"{user}:{movie}".encode()).intdigest() % 10
        expected[PARTS[max(0, digit - 7)]].append(row)
    assert {name: rows(result.part(name)) for name in PARTS} == expected
    assert result.history("test").equals(result.train)  # the past may hold labels of other random rows


def test_an_empty_part_is_an_error() -> None:
    for kind in ("time", "leave-last-out", "by-user", "hash-random"):
        with pytest.raises(DataError, match="is empty"):
            split(dataset([1, 1], [3, 3]), SplitConfig.parse({"kind": kind}))


def test_bad_configs() -> None:
    with pytest.raises(ConfigError, match="role time"):
        split(dataset([1, 2], [], UNTIMED))
    for fractions in ((0.5, 0.1, 0.1), (0.0, 0.5, 0.5), (1.2, -0.1, -0.1)):
        with pytest.raises(ConfigError, match="sum to 1"):
            SplitConfig.parse({"fractions": fractions})
    with pytest.raises(ConfigError, match="did you mean 'fold_in'"):
        SplitConfig.parse({"foldin": 0.5})


def test_repr() -> None:
    assert repr(split(random_dataset())).startswith("Split(time: train 4")


@pytest.fixture(scope="module")
def movielens() -> Dataset:
    root = os.environ.get("TWOTOWER_DATA")
    if not root:
        pytest.skip("TWOTOWER_DATA is not set")
    names = {"user_id": "user", "movie_id": "movie", "rating": "rating", "timestamp": "time"}
    events = pl.read_csv(Path(root) / "ml-1m" / "ratings.csv.gz").rename(names)
    return Dataset.build("ml-1m", TIMED, events)


def sizes(result: Split) -> list[int]:
    return [len(result.part(name)) for name in PARTS]


@pytest.mark.data
def test_movielens_hash_split(movielens: Dataset) -> None:
    rule = Positive(label="rating", at_least=4, drop=Drop(label="rating", equals=3))
    result = split(rule.apply(movielens), SplitConfig(kind="hash-random"))
    assert sizes(result) == [591_025, 73_606, 74_381]


@pytest.mark.data
def test_movielens_time_split(movielens: Dataset) -> None:
    result = split(movielens)
    assert result.cuts[0] == 975768738
    assert len(result.train) == 800_168


@pytest.mark.data
def test_movielens_leave_last_out(movielens: Dataset) -> None:
    assert sizes(split(movielens, SplitConfig(kind="leave-last-out"))) == [988_129, 6_040, 6_040]
