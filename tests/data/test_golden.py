"""Golden rows notice every change of what a value encodes to, and say where."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch

from twotower.data.dataset import Dataset
from twotower.data.features import Features
from twotower.data.golden import GoldenRows
from twotower.errors import MismatchError, StorageError
from twotower.schema import Field, Schema
from twotower.types import UNKNOWN, Batch

PLAIN = (
    Field(name="user", kind="id", role="query"),
    Field(name="movie", kind="id", role="item"),
)
RICH = (
    *PLAIN,
    Field(name="age", kind="number", role="query"),
    Field(name="mood", kind="vector", role="query", dim=2),
    Field(name="tags", kind="bag", role="query"),
    Field(name="history", kind="sequence", role="query", of="movie"),
    Field(name="year", kind="number", role="item", buckets=2),
    Field(name="device", kind="category", role="context"),
)


def dataset(fields: tuple[Field, ...] = RICH, scale: float = 1.0) -> Dataset:
    events = pl.DataFrame(
        {"user": [0, 1, 2, 0], "movie": ["a", "b", "a", "c"], "device": ["x", "y", None, "x"]}
    )
    queries = pl.DataFrame(
        {
            "user": [2, 1, 0],
            "age": [10.0 * scale, None, 50.0],
            "mood": [[0.5, 1.0], None, [1.0, 2.0]],
            "tags": [["p", "q"], [], None],
        }
    )
    items = pl.DataFrame({"movie": ["c", "b", "a"], "year": [1990, 2000, None]})
    return Dataset.build("tiny", Schema(query="user", item="movie", fields=fields), events, queries, items)


def fitted(data: Dataset) -> Features:
    return Features.fit(data, data.events)


def test_rows_are_drawn_reproducibly_with_a_missing_one_first() -> None:
    data = dataset()
    golden = GoldenRows.take(fitted(data), data, n=2, seed=3)
    assert len(golden.queries) == len(golden.items) == len(golden.context) == 3
    assert golden.queries.row(0) == (None,) * 4
    assert golden.encoded["items/movie"][0] == UNKNOWN
    assert "queries/history" not in golden.encoded
    again = GoldenRows.take(fitted(data), data, n=2, seed=3)
    assert again.queries.equals(golden.queries)
    assert len(GoldenRows.take(fitted(data), data, n=99).items) == 5


@pytest.mark.parametrize("fields", [PLAIN, RICH])
def test_save_load_replay(tmp_path: Path, fields: tuple[Field, ...]) -> None:
    data = dataset(fields)
    features = fitted(data)
    GoldenRows.take(features, data).save(tmp_path / "golden")
    features.save(tmp_path / "features")
    GoldenRows.load(tmp_path / "golden").replay(Features.load(tmp_path / "features"))


def test_other_features_are_refused_with_column_and_row() -> None:
    data = dataset()
    golden = GoldenRows.take(fitted(data), data)
    with pytest.raises(MismatchError, match=r"queries/age, row \d: was .*, is .*do not belong together"):
        golden.replay(fitted(dataset(scale=2.0)))
    with pytest.raises(MismatchError, match=r"hold \['context/device'"):
        golden.replay(Features.fit(data, data.events, use=["user", "movie"]))


def test_one_changed_value_is_found() -> None:
    data = dataset()
    golden = GoldenRows.take(fitted(data), data)
    changed = golden.encoded["queries/tags"].clone()
    changed[3, 0] += 1
    with pytest.raises(MismatchError, match="queries/tags, row 3"):
        replace(golden, encoded=Batch({**golden.encoded, "queries/tags": changed})).replay(fitted(data))
    wider = torch.cat([changed, changed], dim=1)
    with pytest.raises(MismatchError, match=r"queries/tags was \(5, 4\)"):
        replace(golden, encoded=Batch({**golden.encoded, "queries/tags": wider})).replay(fitted(data))


def test_a_request_that_goes_another_way_is_found() -> None:
    class Odd(Features):
        def encode_request(self, values: Mapping[str, Any]) -> Batch:
            batch = super().encode_request(values)
            return Batch({**batch, "age": batch["age"] + 1})

    data = dataset()
    features = fitted(data)
    golden = GoldenRows.take(features, data)
    with pytest.raises(MismatchError, match=r"queries/age \(as a request\), row 0"):
        golden.replay(Odd(features.schema, features._encoders))


def test_rows_the_features_cannot_read() -> None:
    data = dataset()
    golden = GoldenRows.take(fitted(data), data)
    broken = replace(golden, queries=golden.queries.drop("age"))
    with pytest.raises(MismatchError, match="cannot encode"):
        broken.replay(fitted(data))


def test_damaged_files_are_storage_errors(tmp_path: Path) -> None:
    with pytest.raises(StorageError):
        GoldenRows.load(tmp_path)
    data = dataset()
    GoldenRows.take(fitted(data), data).save(tmp_path)
    (tmp_path / "encoded.safetensors").write_bytes(b"cut")
    with pytest.raises(StorageError):
        GoldenRows.load(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(StorageError):
        GoldenRows.take(fitted(data), data).save(tmp_path / "file")
