"""Each kind of field: values by hand, missing values, wrong values."""

from __future__ import annotations

import math

import numpy as np
import polars as pl
import pytest
import torch

from twotower.data.encoders import Buckets, OneOf, SomeOf, Standard, Vector
from twotower.data.vocabulary import Vocabulary
from twotower.errors import DataError
from twotower.types import UNKNOWN

WORDS = Vocabulary(pl.Series("f", ["a", "b"]))


def test_one_of() -> None:
    encoded = OneOf(WORDS).encode(pl.Series(["b", None, "z"]))
    assert encoded.tolist() == [3, UNKNOWN, UNKNOWN]
    assert encoded.dtype == torch.int64


def test_bags_are_padded_cut_and_may_be_empty_or_missing() -> None:
    lists = pl.Series("f", [["a"], [], None, ["b", None, "a"], ["z"]], dtype=pl.List(pl.String))
    assert SomeOf(WORDS, 2).encode(lists).tolist() == [[2, 0], [0, 0], [1, 0], [3, 1], [1, 0]]
    assert SomeOf(WORDS, 3).encode(lists)[3].tolist() == [3, 1, 2]
    assert SomeOf(WORDS, 2).encode(lists.clear()).shape == (0, 2)
    assert SomeOf(WORDS, 2).encode(pl.Series("f", [None, None])).tolist() == [[1, 0], [1, 0]]
    arrays = pl.Series("f", [["a", "b"]], dtype=pl.Array(pl.String, 2))
    assert SomeOf(WORDS, 2).encode(arrays).tolist() == [[2, 3]]
    with pytest.raises(DataError, match="expected a list"):
        SomeOf(WORDS, 2).encode(pl.Series("f", ["a"]))


def test_numbers_are_standardised_on_what_is_there() -> None:
    values = pl.Series("f", [2.0, 4.0, None, math.nan, math.inf, 6.0])
    standard = Standard.fit(values)
    assert (standard.mean, standard.std) == pytest.approx((4.0, math.sqrt(8 / 3)))
    encoded = standard.encode(values)
    assert encoded.dtype == torch.float32
    assert encoded[:, 1].tolist() == [0, 0, 1, 1, 1, 0]
    assert encoded[2:5, 0].tolist() == [0, 0, 0]
    torch.testing.assert_close(encoded[[0, 1, 5]].double().mean(0), torch.zeros(2, dtype=torch.float64))


@pytest.mark.parametrize("values", [[0.1, 0.1, 0.1], [None, None], [7]])
def test_a_column_without_spread_is_zero(values: list[float | None]) -> None:
    standard = Standard.fit(pl.Series("f", values, dtype=pl.Float64))
    assert standard.encode(pl.Series([5.0, None])).tolist() == [[0, 0], [0, 1]]


def test_buckets_hold_equal_shares_and_keep_ties_together() -> None:
    values = pl.Series("f", np.random.default_rng(0).permutation(1000))
    buckets = Buckets.fit(values, 4)
    rows = buckets.encode(values)
    assert buckets.size == 6
    assert rows.bincount().tolist() == [0, 0, 250, 250, 250, 250]
    tied = Buckets.fit(pl.Series("f", [0] * 9 + [5]), 4)  # one edge is left: nothing, something
    assert tied.encode(pl.Series([0.0, 1.0, 5.0, -3.0, None, math.nan])).tolist() == [2, 3, 3, 2, 1, 1]
    skewed = Buckets.fit(pl.Series("f", [0, 0, 0, 7, 7, 7, 7, 7, 7, 7]), 4)
    assert skewed.encode(pl.Series([0, 5, 7, 99])).tolist() == [2, 3, 3, 3]
    assert Buckets.fit(pl.Series("f", [None], dtype=pl.Float64), 4).encode(pl.Series([1.0])).tolist() == [2]


def test_vectors() -> None:
    vectors = pl.Series("f", [[1.0, 2.0], None, [3.0, 4.0]])
    assert Vector(2).encode(vectors).tolist() == [[1, 2], [0, 0], [3, 4]]
    assert Vector(2).encode(vectors.cast(pl.Array(pl.Float64, 2))).tolist() == [[1, 2], [0, 0], [3, 4]]
    assert Vector(2).encode(pl.Series("f", [None])).tolist() == [[0, 0]]
    assert Vector(2).encode(vectors.clear()).shape == (0, 2)
    with pytest.raises(DataError, match=r"row 1 holds 1 floats, expected 2"):
        Vector(2).encode(pl.Series("f", [[1.0, 2.0], [1.0]]))
    with pytest.raises(DataError, match="finite"):
        Vector(2).encode(pl.Series("f", [[1.0, math.nan]]))


def test_no_number_is_encoded_as_infinite() -> None:
    encoded = Standard(0.0, 1.0).encode(pl.Series("f", [1e300, -1e300, 2.0, math.inf]))
    assert encoded.tolist() == [[1e6, 0], [-1e6, 0], [2, 0], [0, 1]]


@pytest.mark.parametrize("encoder", [Standard(0, 1), Buckets((1.0,))])
def test_text_is_no_number(encoder: Standard | Buckets) -> None:
    with pytest.raises(DataError, match=r"column f.*numbers"):
        encoder.encode(pl.Series("f", ["12"]))
