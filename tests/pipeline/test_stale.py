"""A model is trained again when what it learnt from has changed, and what cannot be read is made again."""

import copy
import json
import shutil

import polars as pl
import pytest

from twotower.errors import ConfigError, DataError, MismatchError, StorageError
from twotower.models.catalogue import load_model
from twotower.pipeline.changes import changed
from twotower.pipeline.export import export_vectors
from twotower.pipeline.pipeline import Pipeline
from twotower.pipeline.recipe import Recipe

from ..shop import FIELDS as SHOP_FIELDS

PLACE = {"name": "place", "kind": "category", "role": "context"}
FIELDS = [*(field for field in SHOP_FIELDS if field["role"] != "item" or field["kind"] == "id"), PLACE]
SCORED = {"embedding": 4, "layers": [4]}
SHORT = {"epochs": 1, "batch_size": 64}
SHOP = {
    "name": "shop",
    "data": {
        "reader": "tabular",
        "schema": {"query": "user", "item": "item", "fields": FIELDS},
        "interactions": {"file": "events.csv"},
    },
    "positive": {"label": "click"},
    "models": {
        "towers": {
            "model": "two-tower",
            "config": SCORED,
            "objective": {"kind": "pointwise"},
            "train": SHORT,
        },
        "ranker": {"model": "dcn", "config": SCORED, "objective": {"kind": "pointwise"}, "train": SHORT},
    },
    "cascade": [
        {"stage": "retrieve", "model": "towers", "k": 20},
        {"stage": "rank", "model": "ranker", "k": 5},
    ],
}


def write(folder, users):
    """Events of so many users; everyone clicks on every other item shown."""
    folder.mkdir(exist_ok=True)
    n = 20 * users
    pl.DataFrame(
        {"user": [i % users for i in range(n)], "item": [i * 7 % 40 for i in range(n)]}
        | {"place": [i % 3 for i in range(n)], "click": [i % 2 for i in range(n)], "time": list(range(n))}
    ).write_csv(folder / "events.csv")
    return folder


def opened(directory, *changes, data=None, plain=SHOP):
    said = []
    recipe = Recipe.parse(changed(copy.deepcopy(plain), changes, "shop"))
    return Pipeline(recipe, directory, data=data, say=said.append), said


def trained(said):
    return [line.partition(":")[0] for line in said if ": training" in line]


@pytest.fixture
def shop(tmp_path):
    data = write(tmp_path / "data", 30)
    pipeline, _ = opened(tmp_path / "run", data=data)
    pipeline.prepare()
    pipeline.train()
    return tmp_path


def test_data_that_arrive_while_a_run_trains_are_not_what_it_learnt(tmp_path):
    data = write(tmp_path / "data", 30)
    pipeline, _ = opened(tmp_path / "run", data=data)
    pipeline.prepare()
    write(data, 40)
    models = pipeline.train()
    again, said = opened(tmp_path / "run", data=data)
    again.prepare()
    fresh = again.train()
    assert trained(said) == ["towers", "ranker"]
    assert all(fresh[name].spec != model.spec for name, model in models.items())


def test_a_recipe_that_prepares_otherwise_must_prepare_first(shop):
    pipeline, _ = opened(shop / "run", "split.kind=by-user", data=shop / "data")
    with pytest.raises(ConfigError, match="its data were not prepared by this recipe; run: twotower prepare"):
        pipeline.train()


def test_only_files_that_are_read_are_data(tmp_path):
    write(tmp_path, 30)
    for name in ("one", "two"):
        pipeline, _ = opened(tmp_path / "runs" / name, data=tmp_path)
        pipeline.prepare()
        pipeline.train()
    (tmp_path / "notes.txt").write_text("whatever")
    pipeline, said = opened(tmp_path / "runs" / "one", data=tmp_path)
    pipeline.prepare()
    pipeline.train()
    assert not any(line.startswith("reading") for line in said)
    assert trained(said) == []


def test_other_weights_of_events_train_again(shop):
    pipeline, said = opened(shop / "run", "weights={field: place, values: {'1': 5.0}}")
    pipeline.prepare()
    pipeline.train()
    assert trained(said) == ["towers", "ranker"]


def test_a_reader_that_fails_leaves_the_prepared_data(shop):
    pipeline, _ = opened(shop / "run", data=shop / "nodata")
    with pytest.raises(DataError, match="no such directory"):
        pipeline.prepare()
    again, said = opened(shop / "run")
    again.prepare()
    again.train()
    assert trained(said) == []


@pytest.mark.parametrize("damage", ["cut", "gone"])
def test_weights_that_cannot_be_read_are_learnt_again(shop, damage):
    weights = shop / "run/models/towers/model.safetensors"
    before = load_model(weights.parent).digest()
    if damage == "cut":
        weights.write_bytes(weights.read_bytes()[:40])
    else:
        weights.unlink()
    pipeline, said = opened(shop / "run")
    pipeline.prepare()
    assert pipeline.train()["towers"].digest() == before
    assert trained(said) == ["towers"]


@pytest.mark.parametrize("part", ["index/towers", "tables/ranker"])
def test_tables_and_indexes_that_are_damaged_are_built_again(shop, part):
    file = next((shop / "run" / part).glob("*.bin"))
    data = file.read_bytes()
    file.write_bytes(bytes([data[0] ^ 1]) + data[1:])
    pipeline, said = opened(shop / "run")
    with pytest.raises(StorageError, match=r"is damaged \(its checksum is wrong\).*twotower train"):
        pipeline.cascade()
    pipeline.train()
    assert not trained(said)
    assert file.read_bytes() == data
    pipeline.cascade()


def test_a_source_that_is_damaged_is_fitted_again(tmp_path):
    plain = copy.deepcopy(SHOP)
    popular = {"baseline": "popularity", "name": "popular", "k": 9}
    plain["cascade"] = [{"stage": "retrieve", "sources": [popular], "k": 9}]
    plain["models"] = {}
    pipeline, _ = opened(tmp_path / "run", data=write(tmp_path / "data", 30), plain=plain)
    pipeline.prepare()
    pipeline.train()
    file = tmp_path / "run/sources/popular.safetensors"
    data = file.read_bytes()
    file.write_bytes(data[:-3])
    with pytest.raises(StorageError, match=r"popular.safetensors: no readable source .*train the run again"):
        pipeline.cascade()
    pipeline.train()
    assert file.read_bytes() == data


def test_vectors_of_other_data_are_not_exported(shop):
    write(shop / "data", 40)
    opened(shop / "run", data=shop / "data")[0].prepare()
    with pytest.raises(MismatchError, match="the recipe or its data have changed since this was trained"):
        export_vectors(shop / "run", shop / "out")


def test_the_pupil_of_a_list_learns_again_with_its_teacher(tiny, tmp_path):
    plain = tiny("models.ranker.train.max_steps=2")
    plain["models"]["light"] = plain["models"]["ranker"] | {
        "model": "two-tower",
        "features": ["user", "item"],
        "config": {"embedding": 4, "layers": [4]},
        "objective": {"kind": "lists", "teacher": "ranker", "share": 0.5},
    }
    plain["cascade"].insert(1, {"stage": "prerank", "model": "light", "k": 15})
    for change, expected in (
        ("seed=0", ["retriever", "ranker", "light"]),
        ("models.ranker.train.max_steps=1", ["ranker", "light"]),
        ("cascade.1.k=20", ["light"]),  # it is chosen by what it keeps of the teacher's
    ):
        plain = changed(plain, [change], "tiny")
        pipeline, said = opened(tmp_path, plain=plain)
        pipeline.prepare()
        pipeline.train()
        assert trained(said) == expected, change


def test_a_model_has_one_index(tiny):
    plain = tiny()
    sources = [
        {"name": "a", "model": "retriever", "k": 30},
        {"name": "b", "model": "retriever", "k": 30, "index": {"kind": "faiss", "factory": "HNSW32"}},
    ]
    plain["cascade"][0] = {"stage": "retrieve", "k": 30, "sources": sources}
    with pytest.raises(ConfigError, match="model 'retriever' has two indexes"):
        Recipe.parse(plain)


def test_a_warm_start_follows_what_it_starts_from(shop):
    old, new = shop / "run", shop / "new"

    def run(*changes):
        said = []
        recipe = Recipe.parse(changed(copy.deepcopy(SHOP), changes, "shop"))
        pipeline = Pipeline(recipe, new, data=shop / "data", warm_from=old, say=said.append)
        pipeline.prepare()
        pipeline.train()
        return said

    extra = "models.extra={model: dcn, config: {embedding: 4, layers: [4]}, objective: {kind: pointwise}}"
    said = run(extra)
    assert trained(said) == ["towers", "ranker", "extra"]
    assert "extra: the earlier run has no such model; it starts afresh" in said
    assert trained(run(extra)) == []
    again, _ = opened(old, "models.towers.train.epochs=2")
    again.prepare()
    again.train()
    assert trained(run(extra)) == ["towers"]
    shutil.rmtree(old)  # what it was then is remembered
    pipeline, said = opened(new, extra)
    pipeline.prepare()
    pipeline.train()
    assert trained(said) == []
    assert set(json.loads((new / "warm.json").read_text())["models"]) == {"towers", "ranker"}
