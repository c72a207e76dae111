"""Every protocol from data to a report, on tiny data; and what a leave-last-out query may not know."""

import polars as pl
import pytest
import torch

from twotower.errors import DataError
from twotower.pipeline.pipeline import Pipeline
from twotower.pipeline.prepared import Prepared
from twotower.pipeline.recipe import Recipe
from twotower.types import UNKNOWN

FAST = (
    "models.retriever.train.epochs=1",
    "models.retriever.batches=events",
    "baselines=[]",
    "evaluate.requests_timed=1",
)


def pipeline_of(plain, directory, **more):
    return Pipeline(Recipe.parse(plain), directory, **more)


@pytest.mark.parametrize("kind", ["leave-last-out", "by-user"])
def test_a_funnel_by(kind, tiny, tmp_path):
    plain = tiny(*FAST, f"split.kind={kind}", "positive={}")
    report = pipeline_of(plain, tmp_path).run().plain()
    assert [stage["stage"] for stage in report["stages"]] == ["retrieve", "rank"]
    assert any(kind in note for note in report["notes"])
    assert 0 < report["stages"][0]["alive"] <= 1


def test_a_hash_random_split_judges_labelled_events(tiny, tmp_path):
    plain = tiny("split.kind=hash-random")
    train = {"epochs": 1, "batch_size": 256}
    plain["models"] = {
        "dcn": {
            "model": "dcn-v2",
            "features": ["user", "item", "category"],
            "config": {"embedding": 4, "layers": [8]},
            "objective": {"kind": "pointwise"},
            "train": train,
        },
        "towers": {
            "model": "two-tower",
            "features": ["user", "history", "item"],
            "config": {"embedding": 4, "layers": [8], "history": {"kind": "mean"}},
            "objective": {"kind": "pointwise"},
            "train": train,
        },
    }
    del plain["cascade"], plain["baselines"]
    pipeline = pipeline_of(plain, tmp_path)
    report = pipeline.run()
    assert report.plain()["stages"] == []
    assert pipeline.cascade() is None
    assert set(report.ratings) == {"dcn", "towers"}
    for values in report.ratings.values():
        assert set(values) == {"AUC", "log loss", "GAUC", "ECE"}
        assert 0 < values["AUC"] < 1
    assert "Ratings of the labelled test events" in (tmp_path / "results/report.txt").read_text()
    assert not (tmp_path / "results/run.trec").exists()
    assert (tmp_path / "models/dcn/result.json").exists()


@pytest.mark.parametrize("valid", [True, False])
def test_a_predefined_split_comes_from_files(valid, tiny, tmp_path):
    events = Recipe.parse(tiny()).data.read().events.sort("timestamp")
    cuts = [0, len(events) * 8 // 10, len(events) * 9 // 10, len(events)]
    folder = tmp_path / "data"
    folder.mkdir()
    for name, start, stop in zip(("train", "valid", "test"), cuts, cuts[1:], strict=False):
        events[start:stop].select("user", "item", "click", "timestamp").write_csv(folder / f"{name}.csv")
    plain = tiny(*FAST, "split.kind=predefined")
    fields = [
        ("user", "id", "query"),
        ("item", "id", "item"),
        ("click", "number", "label"),
        ("timestamp", "number", "time"),
    ]
    plain["data"] = {
        "reader": "tabular",
        "schema": {
            "query": "user",
            "item": "item",
            "fields": [dict(zip(("name", "kind", "role"), field, strict=True)) for field in fields],
        },
        "interactions": {},
        "splits": {"train": "train.csv", "test": "test.csv"} | ({"valid": "valid.csv"} if valid else {}),
    }
    for model in plain["models"].values():
        model["features"] = ["user", "history", "item"]
    pipeline = pipeline_of(plain, tmp_path / "run", data=folder)
    if valid:
        assert pipeline.run().plain()["stages"][1]["k"] == 10
        return
    assert len(pipeline.prepare().split.valid) == 0
    with pytest.raises(DataError, match="the valid part has no positive to choose by"):
        pipeline.train()


def test_without_labelled_validation_events_a_pointwise_model_says_so(tiny, tmp_path):
    plain = tiny(
        "split.fractions=[0.9,0,0.1]",
        "models.ranker.objective={kind: pointwise}",
        "models.ranker.config.pair=[]",
    )
    del plain["models"]["retriever"], plain["cascade"]
    pipeline = pipeline_of(plain, tmp_path)
    pipeline.prepare()
    with pytest.raises(DataError, match="must hold both positives and negatives"):
        pipeline.train()


@pytest.fixture(scope="module")
def llo(tiny):
    return Prepared.make(Recipe.parse(tiny("split.kind=leave-last-out", "positive={}")), None, "raise")


@pytest.mark.parametrize("part", ["valid", "test"])
def test_no_history_holds_the_item_to_be_found(llo, part):
    task = llo.task(part)
    assert len(task) > 100
    index = llo.features.item_index_of_keys(llo.dataset.items)
    for row in range(len(task)):
        relevant = set(task.relevant[row].tolist())
        assert not relevant & set(task.history[row].tolist())
        assert not relevant & set(task.seen[row].tolist())
        shown = set(task.query["history"][row].tolist())
        assert not ({int(index[key]) for key in relevant} - {UNKNOWN}) & shown


@pytest.mark.parametrize("part", ["valid", "test"])
def test_a_history_is_everything_before_the_held_out_event(llo, part):
    """Against a plain walk over each query's events."""
    task, events = llo.task(part), llo.dataset.events
    left = {"valid": 2, "test": 1}[part]
    catalogue = llo.dataset.item_catalogue
    for row, key in enumerate(task.query_keys.tolist()):
        user = llo.dataset.query_catalogue.ids([key])[0]
        mine = events.filter(pl.col("user") == user).sort("timestamp", "row")["item"]
        keys = catalogue.keys(mine).tolist()
        assert task.history[row].tolist() == keys[: len(keys) - left]
        assert task.relevant[row].tolist() == [keys[len(keys) - left]]
        assert task.seen[row].tolist() == sorted(set(keys[: len(keys) - left]))


def test_nothing_held_out_is_trained_on(llo):
    def pairs(events):
        return set(zip(events["user"], events["item"], events["timestamp"], strict=True))

    split = llo.split
    assert not pairs(split.train) & (pairs(split.valid) | pairs(split.test))
    counted = llo.positives(split.train).item_keys
    assert torch.equal(llo.item_counts, torch.bincount(counted, minlength=llo.n_items))
