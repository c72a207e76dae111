"""A run started from an earlier one: grown vocabularies, the same first scores, remembered later."""

import json
import shutil

import pytest
import torch

from twotower.errors import ConfigError, MismatchError, StorageError
from twotower.models.catalogue import load_model, make_model
from twotower.pipeline.pipeline import Pipeline
from twotower.pipeline.recipe import Recipe
from twotower.pipeline.warm import Earlier
from twotower.types import UNKNOWN

PLAIN = {
    "name": "tiny",
    "data": {"reader": "synthetic", "n_queries": 80, "n_items": 60},
    "positive": {"label": "click"},
    "split": {"kind": "time", "fractions": [0.5, 0.25, 0.25]},
    "models": {
        "towers": {
            "model": "two-tower",
            "config": {"embedding": 4, "layers": [8, 4], "history": {"kind": "mean"}},
            "objective": {"kind": "in-batch"},
            "batches": "events",
            "train": {"epochs": 1, "batch_size": 256},
        }
    },
}
LATER = PLAIN | {"split": {"kind": "time", "fractions": [0.8, 0.1, 0.1]}}


@pytest.fixture(scope="module")
def earlier(tmp_path_factory):
    directory = tmp_path_factory.mktemp("runs") / "old"
    pipeline = Pipeline(Recipe.parse(PLAIN), directory)
    pipeline.prepare()
    pipeline.train()
    return directory


def test_known_rows_are_taken_over_and_new_ones_begin_as_the_unknown(earlier, tmp_path):
    prepared = Pipeline(Recipe.parse(LATER), tmp_path, warm_from=earlier).prepare()
    old, old_features = load_model(earlier / "models" / "towers"), Earlier(earlier).features
    about = prepared.recipe.models["towers"]
    new = make_model(about.model, prepared.spec(None), about.config)
    Earlier(earlier).start("towers", about.model, new, prepared.features)
    grown = prepared.features.vocabulary("user").values
    before = set(old_features.vocabulary("user").values.to_list())
    assert len(grown) > len(before), "the later split must bring new users, or this test shows nothing"
    table, start = new.inputs.embeddings.table.weight, new.inputs.embeddings.starts["user"]
    old_table, old_start = old.inputs.embeddings.table.weight, old.inputs.embeddings.starts["user"]
    for row, user in enumerate(grown.to_list(), start=2):
        place = old_features.vocabulary("user").encode(grown.filter(grown == user))[0]
        assert (place == UNKNOWN) == (user not in before)
        assert torch.equal(table[start + row], old_table[old_start + place])
    # so the first scores are the old ones, for known and for new
    old_items = old_features.encode_items(prepared.dataset.items)
    torch.testing.assert_close(
        new.eval().encode_item(prepared.items)["vector"], old.encode_item(old_items)["vector"]
    )


def test_a_warm_run_remembers_what_it_was_started_from(earlier, tmp_path):
    source = tmp_path / "old"
    shutil.copytree(earlier, source)
    Pipeline(Recipe.parse(LATER), tmp_path / "new", warm_from=source).run()
    weights = tmp_path / "new" / "models" / "towers" / "model.safetensors"
    bytes_before = weights.read_bytes()
    shutil.rmtree(source)  # the earlier run may be gone by then
    told: list[str] = []
    again = Pipeline(Recipe.parse(LATER), tmp_path / "new", say=told.append)
    again.run()
    assert "towers: trained already" in told
    assert weights.read_bytes() == bytes_before
    assert json.loads((tmp_path / "new" / "warm.json").read_text())["digest"]


@pytest.mark.parametrize(
    ("start", "out", "how"),
    [
        ("old", "old", "it is the directory"),
        ("link", "old", "it is the directory"),
        ("old/../old", "old", "it is the directory"),
        ("old", "old/new", "it holds the directory"),
        ("old", ".", "it lies in the directory"),
    ],
)
def test_a_run_is_not_started_from_itself(earlier, tmp_path, start, out, how):
    """Its first step would remove the vocabularies it shall take over."""
    shutil.copytree(earlier, tmp_path / "old")
    (tmp_path / "link").symlink_to(tmp_path / "old")
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    with pytest.raises(ConfigError, match=f"{how} of the new run.*give another --out"):
        Pipeline(Recipe.parse(LATER), tmp_path / out, warm_from=tmp_path / start)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_nor_when_it_was_moved_to_where_the_earlier_one_was(earlier, tmp_path):
    shutil.copytree(earlier, tmp_path / "old")
    Pipeline(Recipe.parse(LATER), tmp_path / "new", warm_from=tmp_path / "old").prepare()
    shutil.rmtree(tmp_path / "old")
    (tmp_path / "new").rename(tmp_path / "old")
    Pipeline(Recipe.parse(LATER), tmp_path / "old").prepare()  # nothing to do: it is as it was
    with pytest.raises(ConfigError, match="it is the directory of the new run"):
        Pipeline(Recipe.parse(PLAIN), tmp_path / "old").prepare()
    assert (tmp_path / "old" / "data" / "features").exists()


def test_a_root_of_bundles_stands_for_its_current_version(tiny, packed, tmp_path):
    root = shutil.copytree(packed.root, tmp_path / "root")
    version = root / packed.bundle.version
    assert Earlier(root).space.directory == version
    assert Earlier(root).digest == Earlier(version).digest == Earlier(packed.run).digest
    Pipeline(Recipe.parse(tiny()), tmp_path / "new", warm_from=root).prepare()
    assert json.loads((tmp_path / "new" / "warm.json").read_text())["directory"] == str(version.resolve())
    weights = version / "models" / "ranker" / "model.safetensors"
    weights.chmod(0o644)
    content = weights.read_bytes()
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(StorageError, match="its checksum is wrong"):
        Earlier(root)


def test_another_kind_of_model_is_refused(earlier, tmp_path):
    plain = json.loads(json.dumps(LATER))
    plain["models"]["towers"] |= {
        "model": "dcn-v2",
        "config": {"embedding": 4, "layers": [4]},
        "objective": {"kind": "pointwise"},
        "batches": "auto",
    }
    pipeline = Pipeline(Recipe.parse(plain), tmp_path, warm_from=earlier)
    pipeline.prepare()
    with pytest.raises(MismatchError, match="towers holds a 'two-tower', not a 'dcn-v2'"):
        pipeline.train()


def test_code_that_only_the_earlier_run_names_is_not_imported(earlier, tmp_path, monkeypatch):
    old = shutil.copytree(earlier, tmp_path / "old")
    about = json.loads((old / "models" / "towers" / "model.json").read_text())
    (old / "models" / "towers" / "model.json").write_text(json.dumps(about | {"model": "foreign_code:Model"}))
    (tmp_path / "foreign_code.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(str(tmp_path))
    pipeline = Pipeline(Recipe.parse(LATER), tmp_path / "new", warm_from=old)
    pipeline.prepare()
    with pytest.raises(MismatchError, match="holds a 'foreign_code:Model', not a 'two-tower'"):
        pipeline.train()


def test_a_seed_of_its_own_is_refused():
    plain = json.loads(json.dumps(PLAIN))
    plain["models"]["towers"]["train"]["seed"] = 3
    with pytest.raises(ConfigError, match="seed at the top level"):
        Recipe.parse(plain)
