from pathlib import Path

import numpy as np
import polars as pl
import pytest

from twotower.data.rows import Broken, Column, Raw, checked
from twotower.errors import DataError
from twotower.schema import ROW


def check(values, on_error="raise", **column):
    source = values if isinstance(values, pl.Series) else pl.Series(values, dtype=pl.String)
    frame = pl.DataFrame({"x": source}).with_row_index(ROW)
    broken = Broken(Path("t.csv"), on_error)
    raw = Raw(Path("t.csv"), frame, len(frame), lambda row: row + 2)
    return checked(raw, [Column(name="x", source="x", **column)], broken)["x"], broken


@pytest.mark.parametrize(
    ("type_", "text", "values"),
    [
        ("integer", ["1", " -2 ", None], [1, -2, None]),
        ("number", ["1", " 2.5", None, "NaN"], [1.0, 2.5, None, None]),
        ("word", ["007", None], ["007", None]),
        ("text", ["x y", None], ["x y", None]),
        ("bag", ["a|b", "|a|", None], [["a", "b"], ["a"], None]),
        ("time", ["5", None], [5, None]),
        ("time", ["5", "5.5"], [5.0, 5.5]),
        ("time", ["1970-01-02", "1970-01-01T00:01:00Z", "1970-01-01 02:00:00+02:00"], [86400, 60, 0]),
        ("time", ["1970-01-01 00:00:00.250000+00:00", "1970-01-01 00:00:01", "7"], [0.25, 1.0, 7.0]),
    ],
)
def test_text_becomes_typed_values(type_, text, values):
    assert check(text, type=type_)[0].to_list() == values


def test_vectors_have_the_declared_length():
    series, _ = check(["1|2", None, "3|4.5"], type="vector", dim=2)
    assert series.dtype == pl.Array(pl.Float32, 2)
    assert series.to_list() == [[1, 2], None, [3, 4.5]]


def test_times_may_count_milliseconds():
    assert check(["1500", "3000"], type="time", unit="ms")[0].to_list() == [1.5, 3.0]


@pytest.mark.parametrize(
    ("source", "type_", "values"),
    [
        (pl.Series([1, None], dtype=pl.UInt8), "word", [1, None]),
        (pl.Series([1.0, None, np.nan]), "word", [1, None, None]),
        (pl.Series(["a", "b"], dtype=pl.Categorical), "word", ["a", "b"]),
        (pl.Series([True, False]), "number", [1.0, 0.0]),
        (pl.Series([1.5, np.nan]), "number", [1.5, None]),
        (pl.Series([0, 1_500_000]).cast(pl.Datetime("us")), "time", [0.0, 1.5]),
        (pl.Series([1, 2]).cast(pl.Date), "time", [86400, 172800]),
        (pl.Series([[1, 2], []]), "bag", [[1, 2], []]),
        (pl.Series([[1.0], [2.0]], dtype=pl.Array(pl.Float64, 1)), "vector", [[1.0], [2.0]]),
    ],
)
def test_types_of_parquet_are_understood(source, type_, values):
    assert check(source, type=type_, dim=1)[0].to_list() == values


@pytest.mark.parametrize(
    ("source", "type_"),
    [
        (pl.Series([[1]]), "number"),
        (pl.Series([1]), "bag"),
        (pl.Series([1]), "vector"),
        (pl.Series([1]).cast(pl.Date), "word"),
        (pl.Series([[1]]), "text"),
        (pl.Series([[1]]), "time"),
    ],
)
def test_a_type_that_cannot_hold_the_field_is_an_error_of_the_column(source, type_):
    with pytest.raises(DataError, match=r"the column has the type .*, expected"):
        check(source, type=type_, on_error="skip")


BROKEN = {
    "no integer": ("integer", ["1", "two"], "found 'two', expected an integer"),
    "no number": ("number", ["1", "two"], "found 'two', expected a finite number"),
    "infinite": ("number", ["1", "inf"], "found 'inf', expected a finite number"),
    "no time": ("time", ["1", "yesterday"], "found 'yesterday', expected a number or an ISO date and time"),
    "half an id": ("word", pl.Series([1.0, 1.5]), "found 1.5, expected an integer or a string"),
    "short vector": ("vector", ["1|2", "1"], "expected a list of finite numbers of length 2"),
    "word in vector": ("vector", ["1|2", "1|x"], "found '1|x', expected a list of finite numbers"),
}


@pytest.mark.parametrize(("type_", "values", "message"), BROKEN.values(), ids=BROKEN)
def test_a_broken_value_is_named_or_dropped(type_, values, message):
    with pytest.raises(DataError) as caught:
        check(values, type=type_, dim=2)
    assert message in str(caught.value)
    assert (caught.value.line, caught.value.column) == (3, "x")
    series, broken = check(values, on_error="skip", type=type_, dim=2)
    assert (len(series), broken.count) == (1, 1)


@pytest.mark.parametrize("missing", [pl.Series([1.0, None]), pl.Series([1.0, np.nan])])
def test_a_required_value_may_not_be_missing(missing):
    with pytest.raises(DataError, match="expected a finite number"):
        check(missing, type="number", required=True)
    assert check(missing, on_error="skip", type="number", required=True)[1].count == 1


def test_the_first_broken_row_of_all_columns_is_named_and_rows_are_counted_once():
    frame = pl.DataFrame({"a": ["1", "2", "x", "y"], "b": ["1", "z", "z", "4"]}).with_row_index(ROW)
    raw = Raw(Path("t.csv"), frame, 4, lambda row: row + 2)
    columns = [Column("a", "integer", "a"), Column("b", "integer", "b")]
    broken = Broken(Path("t.csv"), "skip")
    assert checked(raw, columns, broken).rows() == [(1, 1, 0)]
    assert broken.notes() == (
        "t.csv: 3 broken rows dropped, first in line 3 [column b]: found 'z', expected an integer",
    )


def test_the_second_row_of_an_id_is_broken():
    with pytest.raises(DataError, match="'a' stands here a second time") as caught:
        check(["a", "b", "a"], type="word", unique=True)
    assert caught.value.line == 4
    assert check(["a", "b", "a"], on_error="skip", type="word", unique=True)[0].to_list() == ["a", "b"]


def test_a_table_without_a_sound_row_is_an_error():
    with pytest.raises(DataError, match="no rows"):
        check([], type="word")
    with pytest.raises(DataError, match="not one sound row"):
        check(["x"], on_error="skip", type="integer")
