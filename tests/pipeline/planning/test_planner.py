"""A trained run is planned, and what is written can be used."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from twotower.cascade.cascade import Cascade
from twotower.cascade.rank import Rank
from twotower.errors import ConfigError
from twotower.evaluate.experiment import request_of
from twotower.pipeline.bundles.bundle import Bundle, build
from twotower.pipeline.order import share_taught
from twotower.pipeline.pipeline import Pipeline
from twotower.pipeline.planning.choice import Limits
from twotower.pipeline.planning.plan import Plan
from twotower.pipeline.planning.planner import planned_cascade, survey_run
from twotower.pipeline.planning.plot import draw_plan
from twotower.pipeline.recipe import Recipe
from twotower.pipeline.untaught import validation_task

DEPTHS = {"retrieve": [10, 20, 30, 60]}


@pytest.fixture(scope="module")
def plan(trained) -> Plan:
    said: list[str] = []
    survey = survey_run(trained.directory, depths=DEPTHS, rounds=20, say=said.append)
    assert any("4 depths" in line for line in said)
    assert said[-2:] == ["  10 of 20 rounds", "  20 of 20 rounds"]
    return survey.plan(Limits(rule="best"))


def test_a_plan_says_what_it_chose_and_why(plan: Plan) -> None:
    assert set(plan.depths) == {"retrieve", "rank"}
    assert plan.depths["rank"] == 10
    assert plan.stores["rank"] in ("ids", "embeddings", "first_layer")
    assert plan.survey.now.depths["retrieve"] == 30
    assert plan.survey.now.stores["rank"] == "first_layer"
    text = str(plan)
    for word in (
        "first_layer",
        "misfit",
        "chosen best",
        "taught a ranker",
        "mostly luck",
        "Chosen: retrieve",
    ):
        assert word in text


def test_it_says_what_the_cascade_is_worth_without_its_last_stage(plan: Plan, trained) -> None:
    """Against the shorter cascade, answering the same queries."""
    pipeline, survey = trained.pipeline, plan.survey
    task, _ = validation_task(pipeline.prepared, "fresh", 2000, 0)
    first = planned_cascade(pipeline, survey.now.depths).stages[0]
    found, _ = Cascade(first)(replace(request_of(task), depths={first.name: 10}))
    own = task.measure(found.keys, ["nDCG@10"])["nDCG@10"]
    less = float(own.mean()) - survey.now.quality
    (note,) = survey.shorter
    assert note.startswith(f"without rank: nDCG@10 {own.mean():.4f} ({less:+.4f} [")
    milliseconds = survey.costs.lines["retrieve"]["-"](10) + survey.costs.around_ms
    assert note.endswith(f"in {milliseconds:.3g} of its {survey.now.ms:.3g} ms")
    assert f"- {note}" in str(plan)
    with pytest.raises(ConfigError, match=r"no plan takes at most 1e-06 ms.*; without rank: nDCG@10"):
        survey.plan(Limits(ms=1e-6))


def test_a_plan_is_kept_as_json(plan: Plan, tmp_path: Path) -> None:
    kept = json.loads(plan.save(tmp_path).read_text())
    assert kept["depths"] == dict(plan.depths)
    assert kept["chosen"]["quality"] == plan.choice.point.quality
    assert set(kept["costs"]["stages"]["rank"]) == {"ids", "embeddings", "first_layer"}


def test_the_planned_recipe_differs_by_the_plan_alone(plan: Plan, trained, tmp_path: Path) -> None:
    recipe = trained.pipeline.recipe
    path = tmp_path / "new" / "planned.yaml"
    plan.save_recipe(recipe, path)
    made = Recipe.load(path)
    assert made.plan is not None
    assert (made.plan.depths, made.plan.stores) == (dict(plan.depths), dict(plan.stores))
    plain, other = recipe.plain(), made.plain()
    assert plain.pop("plan") is None
    other.pop("plan")
    assert plain == other
    with pytest.raises(ConfigError, match="exists already"):
        plan.save_recipe(recipe, path)


def test_a_planned_cascade_answers_as_the_runs_own_asked_for_these_depths(trained) -> None:
    pipeline = Pipeline.open(trained.directory)
    request = request_of(pipeline.prepared.task("test"))
    own = pipeline.cascade()
    assert own is not None
    expected, _ = own(replace(request, depths={"retrieve": 20}))
    made = planned_cascade(pipeline, {"retrieve": 20, "rank": 10}, {"rank": "ids"})
    assert isinstance(made.stages[1], Rank)
    assert made.stages[1].bytes_per_item < own.stages[1].bytes_per_item
    found, _ = made(request)
    assert found.keys.equal(expected.keys)
    torch.testing.assert_close(found.scores, expected.scores)


@pytest.mark.parametrize(
    ("depths", "stores"), [({"prerank": 5}, {}), ({}, {"retrieve": "ids"}), ({}, {"rank": "everything"})]
)
def test_a_plan_for_another_cascade_is_refused(
    trained, depths: dict[str, int], stores: dict[str, str]
) -> None:
    with pytest.raises(ConfigError):
        planned_cascade(Pipeline.open(trained.directory), depths, stores)


def test_queries_that_taught_a_ranker_are_left_out(trained) -> None:
    prepared = Pipeline.open(trained.directory).prepared
    assert share_taught(prepared.recipe) == 0.5
    everyone = prepared.task("valid")
    fresh, notes = validation_task(prepared, "fresh", 10_000, seed=0)
    assert 0 < len(fresh) < len(everyone)
    assert notes[0].startswith(f"{len(everyone) - len(fresh)} validation queries")
    assert len(validation_task(prepared, "all", 10_000, seed=0)[0]) == len(everyone)
    few, _ = validation_task(prepared, "all", 7, seed=0)
    assert few.query_keys.equal(validation_task(prepared, "all", 7, seed=0)[0].query_keys)
    assert len(few) == 7


def test_a_run_without_a_cascade_is_refused(trained, tiny, tmp_path: Path) -> None:
    directory = tmp_path / "run"
    shutil.copytree(trained.directory, directory)
    recipe = (directory / "recipe.yaml").read_text()
    before, _, rest = recipe.partition("\ncascade:")
    (directory / "recipe.yaml").write_text(
        before.replace("kind: lists", "kind: pointwise").split("\n  ranker:")[0]
        + "\ncascade: []\n"
        + rest[rest.index("\nbudget_ms:") :]
    )
    with pytest.raises(ConfigError, match="no cascade to plan"):
        survey_run(directory)


def test_the_picture_is_the_same_each_time_and_names_the_choice(plan: Plan, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    for name in ("a.svg", "b.svg"):
        draw_plan(plan, tmp_path / name)
    text = (tmp_path / "a.svg").read_text()
    assert text == (tmp_path / "b.svg").read_text()
    assert f"retrieve {plan.depths['retrieve']}" in text
    assert "predicted milliseconds" in text


def test_a_recipe_serves_its_plan_without_training(trained, tmp_path: Path) -> None:
    directory = tmp_path / "run"
    shutil.copytree(trained.directory, directory)
    plan = {"depths": {"retrieve": 17, "rank": 5}, "stores": {"rank": "ids"}}
    recipe = Recipe.parse(trained.pipeline.recipe.plain() | {"plan": plan})
    said: list[str] = []
    pipeline = Pipeline(recipe, directory, say=said.append)
    pipeline.prepare()
    pipeline.train()
    assert not [line for line in said if "training" in line]
    cascade = pipeline.cascade()
    assert repr(cascade) == "retrieve(17) >> rank(5)"
    assert isinstance(cascade.stages[1], Rank)
    assert cascade.stages[1].model.config.store == "ids"
    request = request_of(pipeline.prepared.task("test"))
    wanted = planned_cascade(Pipeline.open(trained.directory), plan["depths"])(request)[0]
    assert torch.equal(cascade(request)[0].keys, wanted.keys)
    built = build(directory, tmp_path / "bundles")
    assert torch.equal(Bundle.load(built.directory).cascade(request)[0].keys, wanted.keys)
    tables = sorted(path.name for path in (built.directory / "tables").iterdir())
    assert tables == ["ranker@ids"]  # what the plan left behind is not packed


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        ({"depths": {"retriev": 5}}, "plan: no stage or source is called 'retriev'; did you mean 'retrieve'"),
        ({"depths": {"rank": 0}}, "greater than 0"),
        ({"stores": {"rank": "disk"}}, "cannot store 'disk'; it offers: .*'first_layer'"),
        ({"stores": {"retrieve": "ids"}}, "stage 'retrieve' cannot store 'ids'"),
    ],
)
def test_a_plan_of_another_cascade_is_refused(trained, plan, message) -> None:
    with pytest.raises(ConfigError, match=message):
        Recipe.parse(trained.pipeline.recipe.plain() | {"plan": plan})
