"""Every kind of stage from one recipe: trained, restarted, evaluated, bundled, and served in time."""

from __future__ import annotations

import pytest
import torch

from twotower.cascade.stage import Request
from twotower.errors import ConfigError
from twotower.evaluate.experiment import request_of
from twotower.pipeline.bundle import Bundle, build
from twotower.pipeline.pipeline import Pipeline
from twotower.pipeline.recipe import Recipe

STAGES = [
    {
        "stage": "retrieve",
        "k": 40,
        "sources": [
            {"name": "tower", "model": "retriever", "k": 30},
            {"name": "popular", "baseline": "popularity", "k": 20},
            {"name": "like", "similar": "retriever", "k": 10},
        ],
        "fuse": {"kind": "quota", "weights": {"tower": 3}},
    },
    {"stage": "filter", "where": {"not": {"field": "category", "in": ["tent"]}}, "k": 40},
    {"stage": "rank", "model": "ranker", "k": 30},
    {"stage": "rerank", "model": "lister", "k": 20},
    {"stage": "diversify", "field": "category", "how": {"kind": "dpp", "strength": 0.9}, "k": 15},
    {
        "stage": "rules",
        "rules": [{"kind": "quota", "field": "category", "at_most": 3, "within": 10}],
        "k": 10,
    },
]


def whole(tiny):
    recipe = tiny()
    recipe["cascade"] = STAGES
    recipe["models"]["ranker"]["config"]["pair"] = ["retrieve_score", "from_popular"]
    recipe["models"]["lister"] = {
        "model": "prm",
        "features": ["user", "item", "category"],
        "config": {"embedding": 4, "dim": 8, "list_length": 30},
        "objective": {"kind": "lists"},
        "train": {"epochs": 1, "batch_size": 32},
    }
    recipe["baselines"] = []
    return recipe


@pytest.fixture(scope="module")
def run(tiny, tmp_path_factory):
    said: list[str] = []
    directory = tmp_path_factory.mktemp("whole") / "run"
    pipeline = Pipeline(Recipe.parse(whole(tiny)), directory, say=said.append)
    pipeline.prepare()
    pipeline.train()
    return pipeline, said


def test_the_cascade_has_every_stage(run):
    pipeline, _ = run
    assert repr(pipeline.cascade()) == (
        "retrieve(40) >> filter(40) >> rank(30) >> rerank(20) >> diversify(15) >> rules(10)"
    )
    report = pipeline.evaluate()
    assert [stage.name for stage in report.experiment.stages] == list(pipeline.recipe.stage_names)


def test_what_the_stages_promise_together(run):
    pipeline, _ = run
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


def test_a_second_run_does_nothing_again(run, tiny):
    pipeline, _ = run
    said: list[str] = []
    again = Pipeline(Recipe.parse(whole(tiny)), pipeline.space.directory, say=said.append)
    again.train()
    assert sorted(line for line in said if "trained already" in line) == [
        f"{name}: trained already" for name in ("lister", "ranker", "retriever")
    ]
    assert not [line for line in said if "training" in line]


def test_a_bundle_holds_all_of_it(run, tmp_path):
    pipeline, _ = run
    build(pipeline.space.directory, tmp_path / "bundles")
    bundle = Bundle.load(tmp_path / "bundles")
    request = request_of(pipeline.prepared.task("test"))
    here, there = pipeline.cascade()(request)[0], bundle.cascade(request)[0]
    assert torch.equal(here.keys, there.keys)


def test_budgets_of_the_recipe_hold_for_requests_and_not_for_evaluation(run, tiny):
    pipeline, _ = run
    plain = whole(tiny)
    plain["cascade"] = [*STAGES[:2], STAGES[2] | {"budget_ms": 1e-6}, *STAGES[3:]]
    plain["budget_ms"] = 60_000.0
    hurried = Pipeline(Recipe.parse(plain), pipeline.space.directory, say=lambda line: None)
    hurried.train()  # nothing was trained again: how fast a stage must be is not what models learn from
    cascade = hurried.cascade()
    request: Request = request_of(pipeline.prepared.task("test")).rows(0, 1)
    _, trace = cascade(request)
    assert trace.degraded == ("rank", "rerank")  # the list model reads what the ranker would have said
    assert cascade.degraded == {"rank": 1, "rerank": 1}
    assert hurried.evaluate().experiment is not None
    assert cascade.budget.total_ms == 60_000.0


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ([STAGES[0] | {"model": "retriever"}], "names a model, or several sources"),
        ([{"stage": "retrieve", "k": 5}], "names a model, or several sources"),
        ([STAGES[0], STAGES[4], STAGES[2]], "stage 2 is a rank stage, but a diversify stage stands before"),
        ([STAGES[0], STAGES[1], STAGES[1]], r"occur twice: \['filter'\]; set name:"),
        ([STAGES[0], STAGES[2] | {"name": "tower"}], r"occur twice: \['tower'\]"),
        ([STAGES[0], {"stage": "diversify", "k": 3}], "compares the vectors of a model, or the values"),
        ([STAGES[0], {"stage": "rules", "rules": [], "k": 3}], "rules: .*at least 1"),
        ([STAGES[0], {"stage": "ranc", "k": 3}], "'ranc'"),
        ([STAGES[0] | {"sources": [{"name": "a", "k": 3}]}], "source 'a' is one of model, baseline, similar"),
        (
            [STAGES[0] | {"sources": [{"name": "a", "k": 3, "baseline": "ease", "options": {"l": 2}}]}],
            "baseline ease: unknown option 'l'",
        ),
    ],
)
def test_what_is_wrong_with_a_stage_is_said(tiny, stages, message):
    recipe = whole(tiny)
    recipe["cascade"] = stages
    recipe["models"] = {"retriever": recipe["models"]["retriever"], "ranker": recipe["models"]["ranker"]}
    recipe["models"]["ranker"]["objective"] = {"kind": "pointwise"}
    with pytest.raises(ConfigError, match=message):
        Recipe.parse(recipe)


def test_an_unknown_item_field_is_named_with_the_nearest(run, tiny):
    pipeline, _ = run
    plain = whole(tiny)
    plain["cascade"] = [*STAGES[:4], STAGES[4] | {"field": "categori"}]
    with pytest.raises(ConfigError, match="'categori'; did you mean 'category'"):
        Pipeline(Recipe.parse(plain), pipeline.space.directory).cascade()
