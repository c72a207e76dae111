"""Vocabularies: deterministic, stable across machines, tolerant of what columns really look like."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from twotower.data.vocabulary import FIRST, Vocabulary
from twotower.errors import DataError, StorageError
from twotower.types import PAD, UNKNOWN

TEXTS = st.lists(st.one_of(st.none(), st.text(max_size=3)))


def series(*values: object) -> pl.Series:
    return pl.Series("field", values, strict=False)


def test_rows_follow_falling_count_then_value() -> None:
    vocabulary = Vocabulary.fit(series("b", "a", "c", "c", None))
    assert vocabulary.values.to_list() == ["c", "a", "b"]
    assert vocabulary.encode(series("a", "b", "c", None, "new")).tolist() == [3, 4, 2, UNKNOWN, UNKNOWN]
    assert vocabulary.size == 5


def test_order_of_the_data_does_not_matter() -> None:
    values = pl.Series("field", np.random.default_rng(0).integers(0, 50, 500))
    assert Vocabulary.fit(values).digest() == Vocabulary.fit(values.shuffle(seed=1)).digest()


def test_min_count_and_counts() -> None:
    assert Vocabulary.fit(series(1, 1, 2), min_count=2).values.to_list() == [1]
    assert Vocabulary.fit(series(1, 2, 3), counts=series(1, 9, 0)).values.to_list() == [2, 1]


@given(
    st.lists(st.one_of(st.none(), st.text(max_size=3))), st.lists(st.one_of(st.none(), st.text(max_size=3)))
)
@settings(max_examples=60, deadline=None)
def test_encode_equals_a_dictionary(train: list[str | None], later: list[str | None]) -> None:
    vocabulary = Vocabulary.fit(pl.Series("field", train, dtype=pl.String))
    rows = {value: row for row, value in enumerate(vocabulary.values, start=FIRST)}
    expected = [rows.get(value, UNKNOWN) for value in later]
    assert vocabulary.encode(pl.Series("field", later, dtype=pl.String)).tolist() == expected


def test_numbers_and_texts_that_mean_the_same_get_the_same_row() -> None:
    vocabulary = Vocabulary.fit(series(3.0, 4.0, 4.0, None))  # whole numbers with gaps arrive as floats
    assert vocabulary.values.to_list() == [4, 3]
    for same in (series(4, 3), series(4.0, 3.0), series("4", "3"), pl.Series([4, 3], dtype=pl.UInt8)):
        assert vocabulary.encode(same).tolist() == [2, 3]
    assert vocabulary.encode(series(4.5, float("nan"), float("inf"))).tolist() == [UNKNOWN] * 3
    words = Vocabulary.fit(series("4", "x"))
    assert words.encode(series(4, 5)).tolist() == [2, UNKNOWN]
    assert words.encode(series(4.0)).tolist() == [2]
    assert Vocabulary.fit(series(True, False, True)).encode(series(True, 0)).tolist() == [2, 3]


def test_hash_rows_are_pinned_on_every_machine() -> None:
    vocabulary = Vocabulary.fit(series("war"), hash_buckets=10)
    assert vocabulary.size == 13
    # the number is xxh64("opera")
    expected = FIRST + 1 + 9129691862559543580 % 10
    assert vocabulary.encode(series("war", "opera", None)).tolist() == [2, expected, UNKNOWN]
    numbers = Vocabulary.fit(series(1), hash_buckets=1000)
    rows = {int(numbers.encode(seven)[0]) for seven in (series(7), series(7.0), series("7"))}
    assert len(rows) == 1
    assert vocabulary.decode(np.array([expected, 2, PAD, UNKNOWN])).to_list() == [None, "war", None, None]


def test_rare_values_train_the_hash_rows() -> None:
    vocabulary = Vocabulary.fit(series("a", "a", "b"), min_count=2, hash_buckets=4)
    assert vocabulary.encode(series("b"))[0] >= vocabulary.size - 4


def test_decode_inverts_encode() -> None:
    vocabulary = Vocabulary.fit(series(5, 7, 9))
    assert vocabulary.decode(vocabulary.encode(series(9, 5, 7, None))).to_list() == [9, 5, 7, None]


def test_nothing_known_and_nothing_asked() -> None:
    for empty in (pl.Series("f", [], dtype=pl.Int64), series(None), pl.Series("f", [], dtype=pl.String)):
        vocabulary = Vocabulary.fit(empty)
        assert vocabulary.size == 2
        assert vocabulary.encode(series(1, None)).tolist() == [UNKNOWN, UNKNOWN]
        assert len(vocabulary.encode(empty.clear())) == 0


def test_growing_keeps_rows_and_says_where_new_ones_start() -> None:
    old = Vocabulary.fit(series("a", "b", "b"), hash_buckets=3)
    new = old.grow(series("c", "a", "d", "d", None))
    assert new.values.to_list() == ["b", "a", "d", "c"]
    start = new.rows_in(old)
    assert len(start) == new.size
    assert start[:4].tolist() == [PAD, UNKNOWN, 2, 3]
    assert start[4:6].tolist() == old.encode(series("d", "c")).tolist()
    assert start[-3:].tolist() == [4, 5, 6]
    # looked up through the map, every value finds what it found before
    asked = series("a", "b", "c", "d", "other", None)
    assert start[new.encode(asked)].tolist() == old.encode(asked).tolist()


def test_rows_in_a_vocabulary_without_hash_rows() -> None:
    old = Vocabulary.fit(series("a"))
    new = Vocabulary.fit(series("z", "a"), hash_buckets=2)
    assert new.rows_in(old).tolist() == [PAD, UNKNOWN, 2, UNKNOWN, UNKNOWN, UNKNOWN]


@pytest.mark.parametrize("values", [series(3, 1, 2), series("ü", "", "a\n"), series(None)])
def test_save_and_load(tmp_path: Path, values: pl.Series) -> None:
    vocabulary = Vocabulary.fit(values, hash_buckets=2)
    vocabulary.save(tmp_path)
    again = Vocabulary.load(tmp_path)
    assert again.digest() == vocabulary.digest()
    assert again.values.equals(vocabulary.values, check_names=True)


def test_damaged_files_are_storage_errors(tmp_path: Path) -> None:
    with pytest.raises(StorageError):
        Vocabulary.load(tmp_path)
    Vocabulary.fit(series(1, 2)).save(tmp_path)
    Vocabulary.fit(series(1, 3)).values.rename("value").to_frame().write_parquet(tmp_path / "values.parquet")
    with pytest.raises(StorageError, match="not the one"):
        Vocabulary.load(tmp_path)
    (tmp_path / "values.parquet").write_bytes(b"PAR1 cut")
    with pytest.raises(StorageError):
        Vocabulary.load(tmp_path)
    blocked = tmp_path / "file"
    blocked.touch()
    with pytest.raises(StorageError):
        Vocabulary.fit(series(1)).save(blocked)


def test_lists_are_refused() -> None:
    with pytest.raises(DataError, match="one plain value"):
        Vocabulary.fit(series([1, 2]))


def test_a_million_values_find_their_rows() -> None:
    values = pl.Series("field", np.random.default_rng(0).integers(0, 200_000, 1_000_000))
    vocabulary = Vocabulary.fit(values)
    rows = vocabulary.encode(values)
    assert (rows >= FIRST).all()
    assert vocabulary.decode(rows[:1000]).to_list() == values[:1000].to_list()
