"""Parquet files are found by their own path, whatever signs are in it."""

import polars as pl

from twotower.data.parquet import read_parquet
from twotower.data.vocabulary import Vocabulary


def test_a_path_is_no_pattern(tmp_path):
    for name, value in {"run1": 1, "run2": 2, "run[12]": 3}.items():
        (tmp_path / name).mkdir()
        pl.DataFrame({"x": [value]}).write_parquet(tmp_path / name / "e.parquet")
    assert read_parquet(tmp_path / "run[12]" / "e.parquet", ["x"]).frame["x"].to_list() == [3]


def test_what_lies_in_a_folder_with_brackets_can_be_read_again(tmp_path):
    vocabulary = Vocabulary.fit(pl.Series("x", ["a", "b"]))
    vocabulary.save(tmp_path / "exp[1]")
    assert Vocabulary.load(tmp_path / "exp[1]").digest() == vocabulary.digest()
