"""Every kind of stage from one recipe: trained, restarted, evaluated, bundled, and served in time."""

from __future__ import annotations

import shutil

import pytest
import torch

from twotower.cascade.stage import Request
from twotower.errors import ConfigError, StorageError
from twotower.evaluate.experiment import request_of
from twotower.pipeline.bundles.bundle import Bundle, build
from twotower.pipeline.pipeline import Pipeline
from twotower.pipeline.recipe import Recipe


def test_the_cascade_has_every_stage(whole_run):
    pipeline = whole_run
    assert repr(pipeline.cascade()) == (
        "retrieve(40) >> filter(40) >> rank(30) >> rerank(20) >> diversify(15) >> rules(10)"
    )
    report = pipeline.evaluate()
    assert [stage.name for stage in report.experiment.stages] == list(pipeline.recipe.stage_names)


def test_what_the_stages_promise_together(whole_run):
    pipeline = whole_run
    found, trace = pipeline.cascade()(request_of(pipeline.prepared.task("test")))
    items = pipeline.prepared.dataset.items["category"].to_list()
    for row in found.keys:
        shown = [items[key] for key in row.tolist() if key >= 0]
        assert "tent" not in shown
        assert all(shown.count(value) <= 3 for value in shown)
    fields = {"tower_score", "from_popular", "like_rank", "retrieve_score", "rank_score", "rerank_rank"}
    assert fields <= set(found.pair)
    assert trace.degraded == ()
    assert (trace.steps[0].output.pair["from_popular"] == 1).any()


def test_a_second_run_does_nothing_again(whole_run, whole):
    pipeline = whole_run
    said: list[str] = []
    again = Pipeline(Recipe.parse(whole()), pipeline.space.directory, say=said.append)
    again.train()
    assert sorted(line for line in said if "trained already" in line) == [
        f"{name}: trained already" for name in ("lister", "ranker", "retriever")
    ]
    assert not [line for line in said if "training" in line]


def test_a_bundle_holds_all_of_it(whole_run, tmp_path):
    pipeline = whole_run
    build(pipeline.space.directory, tmp_path / "bundles")
    bundle = Bundle.load(tmp_path / "bundles")
    request = request_of(pipeline.prepared.task("test"))
    here, there = pipeline.cascade()(request)[0], bundle.cascade(request)[0]
    assert torch.equal(here.keys, there.keys)


def test_budgets_of_the_recipe_hold_for_requests_and_not_for_evaluation(whole_run, whole):
    pipeline = whole_run
    plain = whole()
    plain["cascade"][2]["budget_ms"] = 1e-6
    plain["budget_ms"] = 60_000.0
    hurried = Pipeline(Recipe.parse(plain), pipeline.space.directory, say=lambda line: None)
    hurried.train()  # nothing was trained again: how fast a stage must be is not what models learn from
    cascade = hurried.cascade()
    request: Request = request_of(pipeline.prepared.task("test")).rows(0, 1)
    _, trace = cascade(request)
    assert trace.degraded == ("rank", "rerank")  # the list model reads what the ranker would have said
    assert cascade.degraded == {"rank": 1, "rerank": 1}
    timed = hurried.recipe.evaluate.requests_timed
    report = hurried.evaluate()
    assert report.experiment is not None  # quality is judged without a budget, time under it
    assert [note for note in report.notes if note.startswith("out of time")] == [
        f"out of time in some of them, and left out there: rank {timed}, rerank {timed}"
    ]
    assert cascade.budget.total_ms == 60_000.0


RETRIEVE = {"stage": "retrieve", "k": 40, "sources": [{"name": "tower", "model": "retriever", "k": 30}]}
FILTER = {"stage": "filter", "where": {"field": "category", "in": ["tent"]}, "k": 40}
RANK = {"stage": "rank", "model": "ranker", "k": 30}
DIVERSIFY = {"stage": "diversify", "field": "category", "k": 15}


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ([RETRIEVE | {"model": "retriever"}], "names a model, or several sources"),
        ([{"stage": "retrieve", "k": 5}], "names a model, or several sources"),
        ([RETRIEVE, DIVERSIFY, RANK], "stage 2 is a rank stage, but a diversify stage stands before"),
        ([RETRIEVE, FILTER, FILTER], r"occur twice: \['filter'\]; set name:"),
        ([RETRIEVE, RANK | {"name": "tower"}], r"occur twice: \['tower'\]"),
        ([RETRIEVE, {"stage": "diversify", "k": 3}], "compares the vectors of a model, or the values"),
        ([RETRIEVE, {"stage": "rules", "rules": [], "k": 3}], "rules: .*at least 1"),
        ([RETRIEVE, {"stage": "ranc", "k": 3}], "'ranc'"),
        ([RETRIEVE | {"sources": [{"name": "a", "k": 3}]}], "source 'a' is one of model, baseline, similar"),
        (
            [RETRIEVE | {"sources": [{"name": "a", "k": 3, "baseline": "ease", "options": {"l": 2}}]}],
            "baseline ease: unknown option 'l'",
        ),
    ],
)
def test_what_is_wrong_with_a_stage_is_said(whole, stages, message):
    recipe = whole()
    recipe["cascade"] = stages
    recipe["models"] = {"retriever": recipe["models"]["retriever"], "ranker": recipe["models"]["ranker"]}
    recipe["models"]["ranker"]["objective"] = {"kind": "pointwise"}
    with pytest.raises(ConfigError, match=message):
        Recipe.parse(recipe)


def test_an_unknown_item_field_is_named_with_the_nearest(whole_run, whole):
    pipeline = whole_run
    plain = whole()
    plain["cascade"][4]["field"] = "categori"
    with pytest.raises(ConfigError, match="'categori'; did you mean 'category'"):
        Pipeline(Recipe.parse(plain), pipeline.space.directory).cascade()


def test_a_damaged_source_is_named_with_the_remedy(whole_run, whole, tmp_path):
    directory = tmp_path / "run"
    shutil.copytree(whole_run.space.directory, directory)
    (directory / "sources" / "popular.safetensors").write_bytes(b"nothing")
    with pytest.raises(StorageError, match=r"popular.safetensors: no readable source .*train the run again"):
        Pipeline(Recipe.parse(whole()), directory).cascade()
