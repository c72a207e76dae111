"""The benchmark of the whole catalogue, on a world small enough for seconds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from benchmarks.whole_catalogue import judge, student
from benchmarks.whole_catalogue.drawn import RetrieveAndDraw
from benchmarks.whole_catalogue.ranked import ranked
from benchmarks.whole_catalogue.settings import RECIPES, SETTINGS
from benchmarks.whole_catalogue.stages import Stages, cut

from twotower.cascade.cascade import Cascade
from twotower.cascade.retrieve import Retrieve
from twotower.config import load_yaml
from twotower.evaluate.experiment import request_of
from twotower.metrics.ranking import evaluate
from twotower.pipeline.pipeline import Pipeline
from twotower.pipeline.recipe import Recipe

WORLD = {"reader": "synthetic", "n_items": 200, "n_queries": 200, "requests_per_query": 8}
DEPTHS = {"retrieve": (20, 50), "prerank": (10, 20)}
GRID: dict[str, Any] = {**DEPTHS, "planned_by": 60, "compared_by": 20, "timed": 3, "rounds": 2}


def recipe(name: str, **changes: Any) -> Recipe:
    """The committed one, on a small world and with little training."""
    plain = load_yaml(RECIPES / f"{name}.yaml")
    for model in plain["models"].values():
        model["train"] |= {"epochs": 1, "batch_size": 64}
    plain["models"]["ranker"]["config"]["layers"] = [16, 8]
    plain["cascade"][0]["k"], plain["cascade"][1]["k"] = 100, 30
    plain["cascade"][0]["index"] = {"kind": "exact"}
    return Recipe.parse(plain | {"data": WORLD, "split": {"kind": "time"}, **changes})


def test_a_cascade_as_deep_as_the_catalogue_is_the_full_ranking(tmp_path: Path, monkeypatch: Any) -> None:
    for name, count in {"MINED": 40, "BEST": 10, "OTHERS": 10, "DRAWN": 10, "ROUNDS": 1}.items():
        monkeypatch.setattr(student, name, count)
    setting = replace(SETTINGS["synthetic-1m"], **GRID)
    stages = Stages(setting, Pipeline(recipe("synthetic-1m"), tmp_path), None, lambda line: None)
    task = stages.prepared.task("test")
    full = ranked(stages.full, task, 10, tmp_path / "lists", queries_at_once=7)
    deep = cut(stages.cascade, {"retrieve": 200, "prerank": 200, "rank": 10})
    behind, _ = deep(request_of(task))
    # the same ten, but for scores that differ by less than floats do
    assert (full.keys == behind.keys).double().mean() > 0.99
    torch.testing.assert_close(full.scores, behind.scores)
    # pieces are read again, not ranked again
    assert torch.equal(ranked(stages.full, task, 10, tmp_path / "lists").keys, full.keys)
    cell, values = judge.judged(stages, setting, tmp_path / "lists")
    assert set(cell["systems"]) == set(values)
    assert cell["plans"]["four stages"]["chosen"]["depths"][-1] == 10
    assert 0 < cell["against the full ranking"]["four stages"]["overlap"] <= 1
    assert cell["time"]["requests"] == 3
    found = evaluate(full.keys[:, :10], task.relevant, ["nDCG@10"])["nDCG@10"].mean()
    assert cell["systems"]["whole catalogue"]["nDCG@10"] == pytest.approx(float(found))


def test_drawn_items_stand_behind_the_retrieved_with_their_own_scores(tmp_path: Path) -> None:
    setting = replace(SETTINGS["ml-1m-time"], **GRID, drawn=(20, 20))
    small = recipe("synthetic-1m")
    plain = small.plain()
    plain["models"]["ranker"]["objective"] = {"kind": "lists", "share": 0.5}
    plain["models"]["ranker"]["config"]["pair"] = ["retrieve_score"]
    plain["models"]["ranker"]["train"]["average"] = None
    stages = Stages(setting, Pipeline(Recipe.parse(plain), tmp_path), None, lambda line: None)
    retrieve, request = stages.retrieve, request_of(stages.prepared.task("test")).rows(0, 5)
    assert isinstance(retrieve, Retrieve)
    drawn, _ = Cascade(RetrieveAndDraw(retrieve, 20, 20, torch.Generator().manual_seed(0)))(request)
    everything = retrieve.run(request, None, 200)
    assert torch.equal(drawn.keys[:, :20], everything.keys[:, :20])
    assert (drawn.pair["retrieve_rank"][:, 20:] >= 20).all()
    for row in drawn.keys.tolist():
        shown = [key for key in row if key >= 0]
        assert len(set(shown)) == len(shown)
    # the ranker reads the retriever's score of every item: at full depth both ways are one
    deep, _ = cut(stages.cascade, {"retrieve": 200, "rank": 10})(request)
    torch.testing.assert_close(stages.full.run(request, None, 10).scores, deep.scores)
