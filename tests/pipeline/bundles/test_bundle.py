"""A bundle answers as its run did, without it; and whatever is changed in it, it is refused."""

import hashlib
import json
import random
import shutil

import pytest
import torch

from twotower.data.golden import GoldenRows
from twotower.errors import ConfigError, MismatchError, StorageError, TwotowerError
from twotower.pipeline.answerer import Answerer
from twotower.pipeline.bundles import bundle as bundle_module
from twotower.pipeline.bundles.bundle import Bundle, build, rollback
from twotower.pipeline.bundles.manifest import MANIFEST, digest_path, seal
from twotower.pipeline.bundles.root import BundleRoot
from twotower.pipeline.pipeline import Pipeline
from twotower.pipeline.recipe import Recipe

USER = 1000001


def files_of(directory):
    return sorted(path for path in directory.rglob("*") if path.is_file())


@pytest.fixture
def version(packed, tmp_path):
    """A copy of the bundle's directory, with its digest beside it."""
    source = packed.bundle.directory
    shutil.copyfile(digest_path(source), tmp_path / digest_path(source).name)
    return shutil.copytree(source, tmp_path / source.name)


def sealed_again(version):
    """The directory under a manifest that fits its files, as a tool gone wrong would write it."""
    manifest = version / MANIFEST
    plain = json.loads(manifest.read_bytes())
    manifest.unlink()
    digest = seal(version, {name: value for name, value in plain.items() if name not in ("files", "format")})
    place = version.rename(version.with_name(f"0001-{digest[:12]}"))
    digest_path(place).write_text(f"{digest}\n")
    return place


def refused(path, error=TwotowerError, **options):
    with pytest.raises(error) as found:
        Bundle.load(path, **options)
    assert type(found.value) in (StorageError, MismatchError)
    return str(found.value)


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


def test_a_recipe_that_asks_for_other_models_is_not_packed(tiny, packed, tmp_path):
    run = shutil.copytree(packed.run, tmp_path / "run")
    Pipeline(Recipe.parse(tiny("models.ranker.config.crosses=2")), run).prepare()
    with pytest.raises(MismatchError, match="the recipe has changed since this was trained"):
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


# -- what is refused ----------------------------------------------------------------------------------


def test_any_byte_of_any_file_that_is_flipped(version):
    draw = random.Random(0)
    for path in [*files_of(version), digest_path(version)]:
        path.chmod(0o644)
        content = path.read_bytes()
        places = {
            0,
            1,
            len(content) // 2,
            len(content) - 1,
            *(draw.randrange(len(content)) for _ in range(3)),
        }
        for place in places:
            flipped = content[place] ^ draw.randint(1, 255)
            path.write_bytes(content[:place] + bytes([flipped]) + content[place + 1 :])
            message = refused(version, StorageError)
            assert path.name in message or "digest" in message, (path, place, message)
        path.write_bytes(content)
    assert Bundle.load(version).version == version.name


def test_any_file_cut_grown_missing_or_added(version):
    for path in [*files_of(version), digest_path(version)]:
        path.chmod(0o644)
        content = path.read_bytes()
        for changed in (b"", content[:-1], content + b"\n"):
            path.write_bytes(changed)
            refused(version, StorageError)
            refused(version, StorageError, fast=True)
        path.unlink()
        refused(version, StorageError)
        path.write_bytes(content)
    (version / "models" / "notes.txt").touch()
    assert "is not in the manifest" in refused(version)


def test_any_file_of_another_bundle(version, other):
    """Names and sizes may be the same: the checksums are not."""
    there, swapped = other.bundle.directory, 0
    for path in files_of(version):
        stranger = there / path.relative_to(version)
        content = path.read_bytes()
        if stranger.exists() and stranger.read_bytes() != content:
            path.chmod(0o644)
            path.write_bytes(stranger.read_bytes())
            refused(version, StorageError)
            path.write_bytes(content)
            swapped += 1
    assert swapped > 20


def test_a_manifest_of_another_bundle_with_its_digest(version, other):
    """Only the directory's name still tells them apart, and the files."""
    there = other.bundle.directory
    for source, target in (
        (there / MANIFEST, version / MANIFEST),
        (digest_path(there), digest_path(version)),
    ):
        target.chmod(0o644)
        target.write_bytes(source.read_bytes())
    assert f"is not the digest of the bundle {version.name}" in refused(version, StorageError)


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ("models/ranker", "produced by|the model 'ranker'"),
        ("models/retriever", "produced by"),
        ("tables/ranker", "produced by"),
        ("index/retriever", "produced by"),
        ("data/features", "golden rows"),
        ("data/items.parquet", "not what the bundle was built with: the item table"),
        ("data/golden", "golden rows"),
        ("golden", "golden answers"),
    ],
)
def test_a_part_of_another_bundle_under_a_manifest_that_fits_its_files(version, other, part, message):
    """Checksums are right, as if a build had mixed two runs: the parts know that they are strangers."""
    source, target = other.bundle.directory / part, version / part
    if source.is_dir():
        shutil.rmtree(target)
        shutil.copytree(source, target)
    else:
        target.unlink()
        shutil.copyfile(source, target)
    place = sealed_again(version)
    with pytest.raises(MismatchError, match=message):
        Bundle.load(place)
    with pytest.raises(MismatchError, match=message):
        Bundle.load(place, fast=True)


def test_features_that_encode_otherwise_though_their_golden_rows_agree(version, other):
    """Vocabularies and golden rows swapped together still are not those the tables were made of."""
    for part in ("data/features", "data/golden"):
        shutil.rmtree(version / part)
        shutil.copytree(other.bundle.directory / part, version / part)
    with pytest.raises(MismatchError, match="not what the bundle was built with: the features"):
        Bundle.load(sealed_again(version))


def test_a_format_that_is_not_known(version):
    manifest = version / MANIFEST
    plain = json.loads(manifest.read_bytes()) | {"format": 2, "compressed": True}
    manifest.chmod(0o644)
    manifest.write_text(json.dumps(plain))
    digest = hashlib.sha256(manifest.read_bytes()).hexdigest()
    place = version.rename(version.with_name(f"0001-{digest[:12]}"))
    digest_path(place).write_text(f"{digest}\n")
    assert "has format 2, this version of twotower reads 1" in refused(place, StorageError)


def test_the_fast_way_compares_sizes_only_but_still_asks_the_golden_requests(version):
    index = next((version / "index/retriever").glob("vectors-*"))
    index.chmod(0o644)
    vectors = torch.frombuffer(bytearray(index.read_bytes()), dtype=torch.float32)
    index.write_bytes((-vectors).numpy().tobytes())
    assert "checksum" in refused(version, StorageError)
    assert "golden answers: " in refused(version, MismatchError, fast=True)


def test_a_directory_that_holds_none(tmp_path):
    assert "build one with: twotower bundle build" in refused(tmp_path, StorageError)
    assert "none" in refused(tmp_path / "nowhere", StorageError)
    with pytest.raises(StorageError, match="twotower bundle build"):
        rollback(tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()


def test_golden_rows_of_the_features_are_those_of_the_run(packed):
    rows = GoldenRows.load(packed.bundle.directory / "data/golden")
    rows.replay(packed.bundle.encoded.features)
