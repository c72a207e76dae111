"""A bundle answers as its run did, without it; and whatever is changed in it, it is refused."""

import json
import shutil

import pytest

from twotower.errors import ConfigError, MismatchError, StorageError
from twotower.pipeline.answerer import Answerer
from twotower.pipeline.bundles import bundle as bundle_module
from twotower.pipeline.bundles.bundle import Bundle, build, rollback
from twotower.pipeline.bundles.manifest import MANIFEST
from twotower.pipeline.bundles.root import BundleRoot
from twotower.pipeline.pipeline import Pipeline
from twotower.pipeline.recipe import Recipe

from .tampering import copied, files_of

USER = 1000001


@pytest.fixture
def version(packed, tmp_path):
    return copied(packed, tmp_path)


# -- what it is good for ------------------------------------------------------------------------------


def test_it_answers_as_the_run_without_the_run(trained, packed, tmp_path):
    root = shutil.copytree(packed.root, tmp_path / "elsewhere")
    there, here = Bundle.load(root).answerer(), Answerer.open(trained.directory)
    for asked in (
        {"user": USER, "k": 7},
        {"features": {"country": "de"}, "history": [50000003, 50000006]},
        {"features": {}, "depths": {"retrieve": 12}},
    ):
        assert there.answer(**asked).items.equals(here.answer(**asked).items), asked


def test_the_manifest_says_what_it_is_and_where_from(trained, packed):
    manifest = packed.bundle.manifest
    assert manifest.recipe == trained.pipeline.recipe.plain()
    assert manifest.data_schema == trained.pipeline.prepared.dataset.schema
    assert manifest.counts == {"items": 120, "queries": 150, "events": 5248}
    assert manifest.metrics["stages"][1]["stage"] == "rank"
    assert manifest.plan is None
    assert {"built", "commit", "torch", "twotower"} <= manifest.provenance.keys()
    models = {name: trained.pipeline.model(name) for name in manifest.models}
    assert {name: m.digest() for name, m in models.items()} == {
        n: m.digest for n, m in manifest.models.items()
    }
    on_disk = {str(path.relative_to(packed.bundle.directory)) for path in files_of(packed.bundle.directory)}
    assert on_disk == {*manifest.files, MANIFEST}
    assert not any("training" in name or name.endswith(".jsonl") for name in on_disk)


def test_without_people_it_answers_whoever_is_described(packed, tmp_path):
    bundle = build(packed.run, tmp_path, people=False, plan={"retrieve": 12})
    assert bundle.manifest.plan == {"retrieve": 12}
    assert (bundle.manifest.counts["queries"], bundle.manifest.counts["events"]) == (0, 0)
    asked = {"features": {"country": "de"}, "history": [50000003], "k": 5}
    again = Bundle.load(tmp_path).answerer()
    assert again.answer(**asked).items.equals(packed.bundle.answerer().answer(**asked).items)
    with pytest.raises(ConfigError, match="describe an unseen one"):
        again.answer(user=USER)


def test_without_people_every_kind_of_stage_is_packed(whole_run, tmp_path):
    """Fitted sources, a filter, rules and fields to diversify by need the items, and no event at all."""
    bundle = build(whole_run.space.directory, tmp_path, people=False)
    assert bundle.encoded.dataset.events.is_empty()
    asked = {"features": {"country": "de"}, "history": [50000003], "k": 5}
    here = Answerer.open(whole_run.space.directory).answer(**asked)
    assert Bundle.load(tmp_path).answerer().answer(**asked).items.equals(here.items)


@pytest.fixture
def run(packed, tmp_path):
    """A copy of the run, to change."""
    return shutil.copytree(packed.run, tmp_path / "run")


def test_metrics_of_models_trained_since_are_left_out(run, tmp_path):
    path = run / "results/report.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"about": {"measured": "of other models"}}))
    said = []
    assert build(run, tmp_path / "root", say=said.append).manifest.metrics is None
    assert "is of another recipe or other models" in said[0]
    path.unlink()
    assert build(run, tmp_path / "root", say=said.append).manifest.metrics is None
    assert "the run was not evaluated" in said[1]


def test_a_plan_applied_after_the_evaluation_leaves_the_metrics_out(tiny, run, tmp_path):
    """They are of the depths before; but a budget of time changes nothing that was measured without one."""
    plan = {"depths": {"retrieve": 20, "rank": 10}, "stores": {}}
    for number, (changes, measured, expected) in enumerate(
        [
            (("budget_ms=5000", "cascade.1.budget_ms=2000"), True, None),
            (("plan.depths.retrieve=20", "plan.depths.rank=10"), False, plan | {"reason": "safe"}),
            (("plan.depths.retrieve=15",), False, None),
        ]
    ):
        (run / "plan.json").write_text(json.dumps(plan | {"reason": "safe"}))
        pipeline = Pipeline(Recipe.parse(tiny(*changes)), run)
        pipeline.prepare()
        said = []
        manifest = build(run, tmp_path / f"root{number}", say=said.append).manifest
        assert (manifest.metrics is not None) == measured
        assert manifest.plan == expected
        assert any("differs from the recipe's plan" in line for line in said) == (number == 2)


def test_models_trained_again_have_another_mark(packed, other):
    first, second = (Pipeline.open(each.run).measured_mark() for each in (packed, other))
    assert first != second
    assert first == packed.bundle.manifest.metrics["about"]["measured"]


def test_an_approximate_index_is_packed_whole(tiny, packed, tmp_path):
    pytest.importorskip("faiss")
    run = shutil.copytree(packed.run, tmp_path / "run")
    pipeline = Pipeline(Recipe.parse(tiny("cascade.0.index.kind=faiss")), run)
    pipeline.prepare()
    pipeline.train()  # nothing but the index is made anew
    build(run, tmp_path / "root")
    answerer = Bundle.load(tmp_path / "root").answerer()
    asked = {"user": USER, "k": 5}
    assert answerer.answer(**asked).items.equals(Answerer.open(run).answer(**asked).items)


def test_its_files_are_read_only(packed):
    assert {path.stat().st_mode & 0o777 for path in files_of(packed.bundle.directory)} == {0o444}


# -- versions -----------------------------------------------------------------------------------------


def test_versions_follow_each_other_and_a_rollback_goes_back_and_forth(packed, other, tmp_path):
    root = shutil.copytree(packed.root, tmp_path / "root")
    first, second = packed.bundle.version, build(other.run, root).version
    assert BundleRoot(root).served() == (second, first)
    assert Bundle.load(root).version == second
    assert rollback(root).version == first
    assert BundleRoot(root).served() == (first, second)
    assert Bundle.load(root).version == first
    assert rollback(root).version == second


def test_a_damaged_version_is_not_gone_back_to(packed, other, tmp_path):
    root = shutil.copytree(packed.root, tmp_path / "root")
    second = build(other.run, root).version
    (root / packed.bundle.version / "data/items.parquet").unlink()
    with pytest.raises(StorageError, match="is missing from the bundle"):
        rollback(root)
    assert BundleRoot(root).served()[0] == second


def test_a_failed_check_publishes_nothing(packed, tmp_path, monkeypatch):
    """Whatever the loading of the draft finds, the root stays as it is."""
    root = shutil.copytree(packed.root, tmp_path / "root")

    def fail(directory, manifest, code):
        raise MismatchError("the draft answers otherwise")

    monkeypatch.setattr(bundle_module, "_open", fail)
    with pytest.raises(MismatchError, match="answers otherwise"):
        build(packed.run, root)
    assert {path.name for path in root.iterdir()} == {path.name for path in packed.root.iterdir()}


def test_a_full_disk_publishes_nothing(packed, tmp_path, monkeypatch):
    def full(source, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(StorageError, match="No space left"):
        build(packed.run, tmp_path / "root")
    assert [path.name for path in (tmp_path / "root").iterdir()] == [".lock"]


# -- what cannot be packed ----------------------------------------------------------------------------


def test_an_unfinished_run_is_not_packed(packed, tmp_path):
    run = shutil.copytree(packed.run, tmp_path / "run")
    steps = json.loads((run / "steps.json").read_text())
    del steps["build ranker"]
    (run / "steps.json").write_text(json.dumps(steps))
    with pytest.raises(ConfigError, match="not finished: build ranker; run: twotower train"):
        build(run, tmp_path / "root")


@pytest.mark.parametrize("change", ["models.ranker.config.crosses=2", "seed=7", "data.n_items=130"])
def test_a_recipe_that_asks_for_other_models_is_not_packed(tiny, packed, tmp_path, change):
    run = shutil.copytree(packed.run, tmp_path / "run")
    Pipeline(Recipe.parse(tiny(change)), run).prepare()
    with pytest.raises(MismatchError, match="the recipe or its data have changed since this was trained"):
        build(run, tmp_path / "root")


def test_a_recipe_without_a_cascade_is_not_packed(tiny, packed, tmp_path):
    run = shutil.copytree(packed.run, tmp_path / "run")
    changes = ("cascade=[]", "models.ranker.objective={kind: pointwise}", "models.ranker.config.pair=[]")
    Pipeline(Recipe.parse(tiny(*changes)), run).prepare()
    with pytest.raises(ConfigError, match="no cascade to bundle"):
        build(run, tmp_path / "root")
    assert not (tmp_path / "root").exists()


def test_a_table_made_of_other_items_is_refused(packed, tmp_path):
    """In a run as in a bundle: the table says which items and features it was made of."""
    run = shutil.copytree(packed.run, tmp_path / "run")
    path = run / "data/items.parquet"
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(MismatchError, match="build it again from the present model and features"):
        Pipeline.open(run).cascade()
