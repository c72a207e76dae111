"""The fitted transform: what it learns, what it must not see, and that online equals offline."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch

from twotower.data.dataset import Dataset
from twotower.data.features import Column, Features, FeatureSpec
from twotower.errors import ConfigError, DataError, MismatchError, StorageError
from twotower.schema import Field, Schema
from twotower.types import PAD, UNKNOWN

SCHEMA = Schema(
    query="user",
    item="movie",
    fields=(
        Field(name="user", kind="id", role="query", dropout=0.1),
        Field(name="age", kind="number", role="query"),
        Field(name="income", kind="number", role="query", buckets=2),
        Field(name="history", kind="sequence", role="query", of="movie", max_length=3),
        Field(name="movie", kind="id", role="item"),
        Field(name="genres", kind="bag", role="item", max_length=2, min_count=2, hash_buckets=3),
        Field(name="title", kind="text", role="item"),
        Field(name="look", kind="vector", role="item", dim=2),
        Field(name="device", kind="category", role="context"),
        Field(name="rating", kind="number", role="label"),
        Field(name="time", kind="number", role="time"),
    ),
)
EVENTS = pl.DataFrame(
    {
        "user": ["u", "v", "u", "w"],
        "movie": [10, 20, 20, 30],
        "device": ["tv", None, "tv", "phone"],
        "rating": [5, 1, 4, 3],
        "time": [1, 2, 3, 4],
    }
)
QUERIES = pl.DataFrame(
    {"user": ["w", "v", "u"], "age": [1000.0, 20.0, 40.0], "income": [9, 1, 2]}, schema_overrides={}
)
ITEMS = pl.DataFrame(
    {
        "movie": [10, 20, 30],
        "genres": [["war", "love"], ["love", "sci-fi", "war"], ["opera"]],
        "title": ["A", "B", "C"],
        "look": [[1.0, 0.0], None, [0.5, 0.5]],
    }
)
DATASET = Dataset.build("tiny", SCHEMA, EVENTS, QUERIES, ITEMS)
TRAIN = DATASET.events[:3]  # w, 30, phone and opera come later
FEATURES = Features.fit(DATASET, TRAIN)


def test_the_spec_tells_models_what_they_need() -> None:
    assert FEATURES.spec.columns == (
        Column(name="user", kind="id", side="query", size=4, dropout=0.1),
        Column(name="age", kind="number", side="query", width=2),
        Column(name="income", kind="category", side="query", size=4),
        Column(name="history", kind="sequence", side="query", size=4, width=3, of="movie"),
        Column(name="movie", kind="id", side="item", size=4),
        Column(name="genres", kind="bag", side="item", size=8, width=2),
        Column(name="look", kind="vector", side="item", width=2),
        Column(name="device", kind="category", side="context", size=3),
    )
    assert [c.name for c in FEATURES.spec.side("context")] == ["device"]
    assert FEATURES.spec["look"].width == 2


def test_nothing_is_learnt_from_what_is_not_in_train() -> None:
    assert "w" not in FEATURES.vocabulary("user").values
    assert FEATURES.vocabulary("movie").values.to_list() == [20, 10]  # by training events
    assert FEATURES.vocabulary("device").values.to_list() == ["tv"]
    # two events of movie 20 count twice: sci-fi reaches min_count, opera is not seen
    assert FEATURES.vocabulary("genres").values.to_list() == ["love", "war", "sci-fi"]
    ages = FEATURES.encode_queries(DATASET.queries)["age"]
    assert ages.tolist() == [[97.0, 0.0], [-1.0, 0.0], [1.0, 0.0]]  # mean 30, deviation 10, without w


def test_tensors_and_their_shapes() -> None:
    queries, items = FEATURES.encode_queries(DATASET.queries), FEATURES.encode_items(DATASET.items)
    assert queries["user"].tolist() == [UNKNOWN, 3, 2]
    assert queries["income"].tolist() == [3, 2, 3]
    assert "history" not in queries
    assert "title" not in items
    assert items["genres"][:2].tolist() == [[3, 2], [2, 4]]
    assert items["genres"][2, 0] >= 5
    assert items["genres"][2, 1] == PAD
    assert items["look"].tolist() == [[1, 0], [0, 0], [0.5, 0.5]]
    assert FEATURES.encode_context(DATASET.events)["device"].tolist() == [2, 1, 2, 1]
    assert FEATURES.encode_items(DATASET.items.clear())["genres"].shape == (0, 2)
    for batch in (queries, items):
        for column in FEATURES.spec.columns:
            if column.name in batch and column.size:
                assert batch[column.name].max() < column.size


def test_cut_lists_are_counted() -> None:
    assert FEATURES.notes == ("genres: 1 lists cut to 2 values",)


def test_a_request_goes_the_way_of_the_table() -> None:
    offline = FEATURES.encode_queries(DATASET.queries).join(
        FEATURES.encode_context(pl.DataFrame({"device": ["tv", None, "new"]}))
    )
    for row, device in enumerate(["tv", None, "new"]):
        online = FEATURES.encode_request({**DATASET.queries.row(row, named=True), "device": device})
        assert online.keys() == offline.keys()
        for name, tensor in online.items():
            assert torch.equal(tensor, offline[name][row : row + 1])


def test_what_a_request_leaves_out_is_missing() -> None:
    empty = FEATURES.encode_request({})
    nulls = FEATURES.encode_request(dict.fromkeys(("user", "age", "income", "device")))
    assert {n: t.tolist() for n, t in empty.items()} == {
        "user": [1],
        "age": [[0.0, 1.0]],
        "income": [1],
        "device": [1],
    }
    assert all(torch.equal(empty[name], nulls[name]) for name in empty)


def test_a_request_may_bring_its_history() -> None:
    assert FEATURES.encode_request({"history": [10, 99]})["history"].tolist() == [[3, UNKNOWN, PAD]]
    assert FEATURES.encode_request({"history": (10, 20, 10, 20)})["history"].tolist() == [[2, 3, 2]]
    assert FEATURES.encode_request({"history": []})["history"].tolist() == [[PAD] * 3]


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        ({"agee": 3}, ConfigError, "did you mean 'age'"),
        ({"movie": 3}, ConfigError, "unknown field 'movie'"),
        ({"rating": 3}, ConfigError, "unknown field 'rating'"),
        ({"age": "old"}, DataError, "numbers"),
        ({"user": ["u"]}, DataError, "one plain value"),
        ({"user": {"id": "u"}}, DataError, "one plain value"),
        ({"user": object()}, DataError, "one plain value"),
        ({"history": [[1]]}, DataError, "one plain value"),
        ({"history": [1, "a"]}, DataError, "cannot read"),
    ],
)
def test_bad_requests(values: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        FEATURES.encode_request(values)


def test_item_index_of_keys() -> None:
    assert FEATURES.item_index_of_keys(DATASET.items).tolist() == [3, 2, UNKNOWN]
    with pytest.raises(ConfigError, match="'genres'"):
        FEATURES.item_index_of_keys(DATASET.items, "genres")


def test_whole_numbers_among_floats_as_json_writes_them() -> None:
    vector = Field(name="mood", kind="vector", role="query", dim=2)
    schema = SCHEMA.model_copy(update={"fields": (*SCHEMA.fields, vector)})
    queries = QUERIES.with_columns(mood=pl.lit([0.5, 0.5]))
    features = Features.fit(Dataset.build("x", schema, EVENTS, queries, ITEMS), TRAIN)
    assert features.encode_request({"mood": [1, 0.5]})["mood"].tolist() == [[1.0, 0.5]]


def test_use_chooses_fields() -> None:
    features = Features.fit(DATASET, TRAIN, use=["genres", "age"])
    assert [column.name for column in features.spec.columns] == ["age", "genres"]
    assert features.encode_request({"user": "u"}).keys() == {"age"}  # a field of the schema, not encoded
    with pytest.raises(ConfigError, match="did you mean 'genres'"):
        Features.fit(DATASET, TRAIN, use=["genre"])
    for name in ("title", "rating"):
        with pytest.raises(ConfigError, match="can be encoded"):
            Features.fit(DATASET, TRAIN, use=[name])
    with pytest.raises(ConfigError, match="'movie' to be used"):
        Features.fit(DATASET, TRAIN, use=["user", "history"])
    with pytest.raises(ConfigError, match="histories need"):
        features.item_index_of_keys(DATASET.items)


def test_no_training_event() -> None:
    with pytest.raises(DataError, match="no training events"):
        Features.fit(DATASET, TRAIN.clear())


def test_a_table_without_a_column() -> None:
    with pytest.raises(DataError, match="age"):
        FEATURES.encode_queries(DATASET.queries.drop("age"))


def test_save_and_load(tmp_path: Path) -> None:
    FEATURES.save(tmp_path)
    again = Features.load(tmp_path)
    assert again.digest() == FEATURES.digest()
    assert again.spec == FEATURES.spec
    assert again.notes == FEATURES.notes
    before, after = FEATURES.encode_items(DATASET.items), again.encode_items(DATASET.items)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert again.encode_request({"history": [20]})["history"].tolist() == [[2, 0, 0]]


def test_digest_follows_the_content() -> None:
    assert Features.fit(DATASET, TRAIN).digest() == FEATURES.digest()
    assert Features.fit(DATASET, DATASET.events).digest() != FEATURES.digest()
    assert FeatureSpec(columns=FEATURES.spec.columns[:2]).digest() != FEATURES.spec.digest()


def test_damaged_files_are_storage_errors(tmp_path: Path) -> None:
    with pytest.raises(StorageError):
        Features.load(tmp_path)
    FEATURES.save(tmp_path)
    file = tmp_path / "features.json"
    text = file.read_text()
    about = json.loads(text)
    about["encoders"]["user"]["vocabulary"] = "of another fit"
    for damaged in (text[:100], "[]", json.dumps(about), text.replace('"age"', '"aeg"', 1)):
        file.write_text(damaged)
        with pytest.raises(StorageError):
            Features.load(tmp_path)
    file.write_text(text)
    (tmp_path / "vocabulary-00" / "values.parquet").unlink()
    with pytest.raises(StorageError):
        Features.load(tmp_path)


def test_growing_keeps_what_was_and_says_where_the_new_starts() -> None:
    new = FEATURES.grow(DATASET, DATASET.events)
    old_items, new_items = FEATURES.encode_items(DATASET.items), new.encode_items(DATASET.items)
    assert new.spec["movie"].size == new.spec["history"].size == FEATURES.spec["movie"].size + 1
    assert new_items["movie"].tolist() == [3, 2, 4]
    rows = new.rows_in(FEATURES)
    assert rows.keys() == {"user", "movie", "genres", "device"}
    for name in ("movie", "genres"):
        assert (torch.from_numpy(rows[name])[new_items[name]] == old_items[name]).all()
    ages = [features.encode_queries(DATASET.queries)["age"] for features in (FEATURES, new)]
    assert torch.equal(*ages)


def test_rows_in_refuses_another_kind() -> None:
    fields = tuple(
        f.model_copy(update={"buckets": 0 if f.name == "income" else f.buckets}) for f in SCHEMA.fields
    )
    other = Features.fit(
        Dataset.build("x", SCHEMA.model_copy(update={"fields": fields}), EVENTS, QUERIES, ITEMS), TRAIN
    )
    with pytest.raises(MismatchError, match="'income' is category, but was number"):
        FEATURES.rows_in(other)


def test_a_spec_must_fit_together() -> None:
    item = Column(name="movie", kind="id", side="item", size=4)
    with pytest.raises(ConfigError, match="twice"):
        FeatureSpec.parse({"columns": [item, item]})
    with pytest.raises(ConfigError, match="share"):
        FeatureSpec.parse({"columns": [item, Column(name="h", kind="sequence", side="query", of="movie")]})
    with pytest.raises(KeyError):
        FEATURES.spec["nothing"]
    with pytest.raises(ConfigError, match="vocabulary"):
        FEATURES.vocabulary("age")
