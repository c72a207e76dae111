"""After each training step the cascade so far is measured, on queries that teach no ranker."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import polars as pl
import pytest

from twotower.cascade.cascade import Cascade
from twotower.evaluate.experiment import run_cascade
from twotower.pipeline.order import share_taught
from twotower.pipeline.pipeline import Pipeline
from twotower.pipeline.recipe import Recipe
from twotower.pipeline.untaught import validation_task


def steps(run: Path) -> list[dict]:
    return json.loads((run / "results/steps.json").read_text())


def test_each_step_is_said_and_written(trained):
    first, second = steps(trained.directory)
    assert (first["after"], first["stages"]) == ("retriever", {"retrieve": 30})
    assert (second["after"], second["stages"]) == ("ranker", {"retrieve": 30, "rank": 10})
    assert first["R@10"]["gained"] is None
    gained = second["nDCG@10"]["gained"]
    assert gained["mean"] == pytest.approx(second["nDCG@10"]["value"] - first["nDCG@10"]["value"])
    assert gained["low"] <= gained["mean"] <= gained["high"]
    said = [line for line in trained.said if "so far" in line or line.startswith("  after ")]
    assert "validation queries that teach no ranker; epochs are chosen on them too" in said[0]
    assert said[1].startswith(f"  after retriever: retrieve: nDCG@10 {first['nDCG@10']['value']:.4f}, R@10 ")
    assert said[2].startswith("  after ranker: retrieve >> rank: nDCG@10 ")
    assert len(said) == 3


def test_the_figures_are_those_of_the_cascade_on_untaught_validation_queries(trained):
    pipeline = trained.pipeline
    task, _ = validation_task(pipeline.prepared, "fresh", 2000, 0)
    everyone = pipeline.prepared.task("valid")
    assert 0 < len(task) < len(everyone)
    assert share_taught(pipeline.recipe) == 0.5
    for step, cut in zip(steps(trained.directory), (1, 2), strict=True):
        cascade = Cascade(*map(pipeline.assembly.stage, pipeline.recipe.cascade[:cut]))
        values = run_cascade(cascade, task, ["nDCG@10", "R@10"]).stages[-1].values
        assert step["queries"] == len(task)
        for measure in ("nDCG@10", "R@10"):
            assert step[measure]["value"] == pytest.approx(float(values[measure].mean()))
    kept = pl.read_parquet(trained.directory / "results/steps/ranker.parquet")
    ids = pipeline.prepared.dataset.query_catalogue.ids(task.query_keys.numpy())
    assert kept["user"].to_list() == ids.to_list()


def test_a_skipped_step_shows_its_kept_figures(trained, tiny, tmp_path, monkeypatch):
    run = Path(shutil.copytree(trained.directory, tmp_path / "run"))
    before = (run / "results/steps.json").read_text()
    said: list[str] = []

    def never(*_: object) -> None:
        raise AssertionError("measured again")

    monkeypatch.setattr("twotower.pipeline.so_far.run_cascade", never)
    Pipeline(Recipe.parse(tiny()), run, say=said.append).train()
    assert (run / "results/steps.json").read_text() == before
    assert [line for line in said if "after " in line] == [x for x in trained.said if "after " in x]


def test_a_file_that_cannot_be_read_is_made_again(trained, tiny, tmp_path):
    run = Path(shutil.copytree(trained.directory, tmp_path / "run"))
    before = steps(run)
    (run / "results/steps/ranker.parquet").write_bytes(b"nothing")
    said: list[str] = []
    Pipeline(Recipe.parse(tiny()), run, say=said.append).train()
    assert any("measured again" in line for line in said)
    assert steps(run) == before


def test_a_changed_depth_is_measured_anew_and_nothing_else(trained, tiny, tmp_path):
    run = Path(shutil.copytree(trained.directory, tmp_path / "run"))
    retriever = (run / "results/steps/retriever.parquet").stat().st_mtime_ns
    Pipeline(Recipe.parse(tiny("cascade.1.k=20")), run).train()
    first, second = steps(run)
    assert "R@20" in first  # as deep as the whole cascade will hand on
    assert second["stages"] == {"retrieve": 30, "rank": 20}
    assert (run / "results/steps/retriever.parquet").stat().st_mtime_ns != retriever


def test_it_can_be_turned_off_and_bounded(trained, tiny, tmp_path):
    run = Path(shutil.copytree(trained.directory, tmp_path / "run"))
    Pipeline(Recipe.parse(tiny("evaluate.after_each_step=5")), run).train()
    assert [step["queries"] for step in steps(run)] == [5, 5]
    said: list[str] = []
    Pipeline(Recipe.parse(tiny("evaluate.after_each_step=0")), run, say=said.append).train()
    assert not [line for line in said if "so far" in line]


def test_stages_without_a_model_stand_from_the_start(whole_run):
    found = [(step["after"], list(step["stages"])) for step in steps(whole_run.space.directory)]
    free = ["diversify", "rules"]
    assert found == [
        ("retriever", ["retrieve", "filter", *free]),
        ("ranker", ["retrieve", "filter", "rank", *free]),
        ("lister", ["retrieve", "filter", "rank", "rerank", *free]),
    ]
