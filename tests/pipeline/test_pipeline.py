"""One recipe from data to a measured funnel, and what a second run leaves alone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import polars as pl
import pytest
import torch

from twotower.errors import ConfigError, DataError, MismatchError, StorageError
from twotower.models.catalogue import load_model, make_model, save_model
from twotower.pipeline.pipeline import Pipeline
from twotower.pipeline.recipe import Recipe
from twotower.train.events import Saved

MADE = ("data", "models", "tables", "index")


@pytest.fixture
def copy(trained, tmp_path) -> Path:
    """A copy of the finished run, to change."""
    return Path(shutil.copytree(trained.directory, tmp_path / "run"))


def open_with(directory, plain, **more) -> tuple[Pipeline, list[str]]:
    said: list[str] = []
    return Pipeline(Recipe.parse(plain), directory, say=said.append, **more), said


def files(directory: Path) -> dict[str, int]:
    paths = [path for part in MADE for path in (directory / part).rglob("*") if path.is_file()]
    return {str(path.relative_to(directory)): path.stat().st_mtime_ns for path in paths}


def timeless(plain):
    """A report's data without what a clock measured."""
    return {
        **plain,
        "stages": [{k: v for k, v in stage.items() if not k.endswith("_ms")} for stage in plain["stages"]],
    }


def test_the_report_says_what_each_stage_did(trained):
    plain = trained.report.plain()
    retrieve, rank = plain["stages"]
    assert (retrieve["stage"], retrieve["k"], rank["stage"], rank["k"]) == ("retrieve", 30, "rank", 10)
    assert retrieve["alive"] == pytest.approx(retrieve["R@30"])
    assert rank["alive"] == pytest.approx(rank["R@10"])
    assert 0 < rank["R@10"] <= retrieve["R@30"] <= 1
    assert retrieve["p50_ms"] <= retrieve["p99_ms"]
    assert list(plain["baselines"]) == ["popularity"]
    assert sum(plain["fate"].values()) == len(trained.report.experiment.task.relevant.values)
    assert any("seen items are masked" in note for note in plain["notes"])


def test_results_are_written_beside_being_returned(trained):
    results = trained.directory / "results"
    assert json.loads((results / "report.json").read_text()) == trained.report.plain()
    assert trained.report.about["measured"] == trained.pipeline.measured_mark()
    assert (results / "report.txt").read_text() == trained.report.text() + "\n"
    per_query = pl.read_parquet(results / "per_query.parquet")
    for stage in trained.report.plain()["stages"]:
        column = per_query[f"{stage['stage']} nDCG@10"]
        assert column.mean() == pytest.approx(stage["nDCG@10"])
    assert per_query["popularity R@10"].mean() == pytest.approx(
        trained.report.plain()["baselines"]["popularity"]["R@10"]
    )


def test_other_tools_read_the_same_numbers_from_the_files(trained):
    ir_measures = pytest.importorskip("ir_measures")
    results, last = trained.directory / "results", trained.report.plain()["stages"][-1]
    names = ["nDCG@10", "R@10"]
    found = ir_measures.calc_aggregate(
        [ir_measures.parse_measure(name) for name in names],
        ir_measures.read_trec_qrels(str(results / "qrels.trec")),
        ir_measures.read_trec_run(str(results / "run.trec")),
    )
    for measure, value in found.items():
        assert value == pytest.approx(last[str(measure)], abs=1e-9)
    per_query = pl.read_parquet(results / "per_query.parquet")
    of_query = dict(zip(per_query["user"].cast(pl.String), per_query["rank nDCG@10"], strict=True))
    for metric in ir_measures.iter_calc(
        [ir_measures.parse_measure("nDCG@10")],
        ir_measures.read_trec_qrels(str(results / "qrels.trec")),
        ir_measures.read_trec_run(str(results / "run.trec")),
    ):
        assert metric.value == pytest.approx(of_query[metric.query_id], abs=1e-9)


def test_the_second_run_makes_nothing_again(copy, tiny, trained):
    before = files(copy)
    pipeline, said = open_with(copy, tiny())
    pipeline.prepare()
    pipeline.train()
    assert files(copy) == before
    assert [line for line in said if "trained already" in line] == [
        "retriever: trained already",
        "ranker: trained already",
    ]
    assert not any(line.startswith("reading") for line in said)
    assert timeless(pipeline.evaluate().plain()) == timeless(trained.report.plain())


def test_a_finished_run_is_opened_by_its_directory_alone(copy, trained):
    assert timeless(Pipeline.open(copy).evaluate().plain()) == timeless(trained.report.plain())


@pytest.mark.parametrize("change", ["seed=1", "evaluate.queries=warm"])
def test_another_seed_or_task_trains_again_on_the_same_data(copy, tiny, change):
    before, digest = files(copy), load_model(copy / "models/ranker").digest()
    pipeline, said = open_with(copy, tiny(change))
    pipeline.prepare()
    pipeline.train()
    assert not any(line.startswith("reading") for line in said)
    assert sum("training" in line for line in said) == 2
    assert {k: v for k, v in files(copy).items() if k.startswith("data")} == {
        k: v for k, v in before.items() if k.startswith("data")
    }
    if change == "seed=1":
        assert load_model(copy / "models/ranker").digest() != digest
    assert Pipeline.open(copy).recipe == Recipe.parse(tiny(change))  # what is answered with is what was asked


def test_another_split_prepares_again(copy, tiny):
    pipeline, said = open_with(copy, tiny("split.kind=leave-last-out"))
    pipeline.prepare()
    assert sum(line.startswith("reading") for line in said) == 1
    assert json.loads((copy / "data/leakage.json").read_text())["split"] == "leave-last-out"
    steps = json.loads((copy / "steps.json").read_text())
    assert pipeline.space.done("prepare", steps["prepare"])


def test_only_what_changed_is_trained_again(copy, tiny):
    pipeline, said = open_with(copy, tiny("models.ranker.train.epochs=2"))
    pipeline.prepare()
    pipeline.train()
    assert "retriever: trained already" in said
    assert "ranker: training dcn-v2 by lists" in said


def test_the_same_recipe_and_seed_give_the_same_weights(trained, tiny, tmp_path):
    pipeline, _ = open_with(tmp_path, tiny())
    pipeline.prepare()
    for name, model in pipeline.train().items():
        assert model.digest() == load_model(trained.directory / "models" / name).digest(), name


def test_removed_data_is_made_again_without_training_again(copy, tiny):
    shutil.rmtree(copy / "data")
    pipeline, said = open_with(copy, tiny())
    pipeline.prepare()
    pipeline.train()
    assert any(line.startswith("reading") for line in said)
    assert "retriever: trained already" in said


def test_a_removed_index_is_built_again_from_the_same_weights(copy, tiny):
    digest = load_model(copy / "models/retriever").digest()
    shutil.rmtree(copy / "index")
    pipeline, _ = open_with(copy, tiny())
    assert pipeline.train()["retriever"].digest() == digest
    assert pipeline.cascade() is not None


def stop_at(step):
    def listen(event):
        if isinstance(event, Saved) and event.step >= step:
            raise KeyboardInterrupt

    return listen


def interrupted(directory, plain):
    pipeline, _ = open_with(directory, plain, events=stop_at(3))
    pipeline.prepare()
    with pytest.raises(KeyboardInterrupt):
        pipeline.train()


def resumed_at(directory):
    lines = (directory / "models/retriever/train.jsonl").read_text().splitlines()
    return [line["resumed_at_step"] for line in map(json.loads, lines) if line["event"] == "started"]


SAVING = ("models.retriever.train.checkpoint_every_steps=1", "models.retriever.batches=events")


def test_an_interrupted_training_goes_on(tiny, tmp_path):
    interrupted(tmp_path, tiny(*SAVING))
    open_with(tmp_path, tiny(*SAVING))[0].train()
    assert resumed_at(tmp_path) == [0, 3]


@pytest.mark.parametrize(
    "change", ["models.retriever.objective.kind=in-batch", "seed=1", "split.fractions=[0.7,0.2,0.1]"]
)
def test_what_was_begun_with_other_inputs_starts_over(tiny, tmp_path, change):
    interrupted(tmp_path, tiny(*SAVING))
    pipeline, _ = open_with(tmp_path, tiny(*SAVING, change))
    pipeline.prepare()
    pipeline.train()
    assert resumed_at(tmp_path) == [0]


def test_an_unfinished_step_is_not_reported_as_done(tiny, tmp_path):
    interrupted(tmp_path, tiny(*SAVING))
    assert list(Pipeline.open(tmp_path).space.finished()) == ["prepare"]


def test_weights_that_the_index_was_not_built_from_are_refused(copy):
    model = load_model(copy / "models/retriever")
    torch.manual_seed(5)
    other = make_model("two-tower", model.spec, model.config.plain())
    save_model(other, "two-tower", copy / "models/retriever")
    was, now = model.digest()[:12], other.digest()[:12]
    with pytest.raises(MismatchError, match=rf"produced by {was}\S+, expected {now}\S+; build it again"):
        Pipeline.open(copy).cascade()


def test_a_changed_vocabulary_is_refused_with_the_remedy(copy):
    path = copy / "data/features/vocabulary-01/values.parquet"
    values = pl.read_parquet(path)
    values.reverse().write_parquet(path)
    with pytest.raises(StorageError, match=r"digest differs.*remove .*data and run prepare again"):
        Pipeline.open(copy).evaluate()


def test_features_that_encode_otherwise_than_they_did_are_refused(copy):
    path = copy / "data/golden/items.parquet"
    rows = pl.read_parquet(path)
    rows.with_columns(category=pl.col("category").shift(1)).write_parquet(path)
    with pytest.raises(MismatchError, match=r"golden rows: items/category, row \d+.*run prepare again"):
        Pipeline.open(copy).evaluate()


def test_a_cut_table_is_refused_with_the_remedy(copy):
    path = copy / "data/events.parquet"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(StorageError, match="run prepare again"):
        Pipeline.open(copy).evaluate()


def test_there_is_no_run_where_there_is_no_recipe(tmp_path):
    with pytest.raises(StorageError, match="no run here"):
        Pipeline.open(tmp_path)


MIXED = "history.events=all"


def test_a_history_of_all_events_is_no_list_of_targets(tiny, tmp_path):
    pipeline, _ = open_with(tmp_path, tiny(MIXED, "models.retriever.batches=sequences"))
    pipeline.prepare()
    with pytest.raises(ConfigError, match=r"batches: sequences needs history: \{events: positive\}"):
        pipeline.train()


def test_with_a_history_of_all_events_only_positives_are_targets(tiny, tmp_path):
    pipeline, _ = open_with(tmp_path, tiny(MIXED, "models.retriever.train.epochs=1"))
    prepared = pipeline.prepare()
    plain = tiny(MIXED, "models.retriever.train.epochs=1")
    del plain["models"]["ranker"], plain["cascade"]
    pipeline, _ = open_with(tmp_path, plain)
    pipeline.train()
    result = json.loads((tmp_path / "models/retriever/result.json").read_text())
    positives = int(prepared.item_counts.sum())
    assert result["steps"] == -(-positives // 64)


def test_nothing_to_choose_by_is_an_error(tiny, tmp_path):
    pipeline, _ = open_with(tmp_path, tiny("positive.at_least=2"))
    pipeline.prepare()
    with pytest.raises(DataError, match="no positive"):
        pipeline.train()
