"""With several sources the depth of each is part of the plan: tried, measured, explained and served."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from twotower.cascade.cascade import Cascade
from twotower.cascade.fuse import Fuse
from twotower.cascade.stage import Request, Stage, rank_pair
from twotower.errors import ConfigError
from twotower.evaluate.experiment import request_of
from twotower.metrics.ranking import evaluate
from twotower.pipeline.pipeline import Pipeline
from twotower.pipeline.planning.choice import Limits
from twotower.pipeline.planning.costs import Costs, Line
from twotower.pipeline.planning.grid import depth_grid, sources_of
from twotower.pipeline.planning.plan import Plan
from twotower.pipeline.planning.planner import planned_cascade, survey_run
from twotower.pipeline.planning.quality import quality_by_depths
from twotower.pipeline.recipe import Recipe
from twotower.types import Candidates

SOURCES = {"tower": 30, "popular": 20, "like": 10}


class Any(Stage):
    """The items 0, 1, 2, ...; counts how often it is asked."""

    asked = 0

    def run(self, request: Request, candidates: Candidates | None, k: int) -> Candidates:
        self.asked += 1
        keys = torch.arange(k).expand(len(request), -1)
        return rank_pair(self.name, Candidates(keys, -keys.float()))

    @property
    def bytes_per_item(self) -> float:
        return 4.0


def fused(k: int = 40) -> Cascade:
    return Cascade(Fuse([Any("a", 30), Any("b", 10)], k=k), Any("last", 10))


def test_each_source_is_tried_at_half_and_at_twice_its_depth() -> None:
    grid = depth_grid(fused(), n_items=1000)
    tried = {(plan["a"], plan["b"]) for plan in grid}
    assert tried == {(30, 10), (15, 10), (60, 10), (30, 5), (30, 20), (15, 5), (60, 20)}
    assert {"a": 30, "b": 10, "retrieve": 40, "last": 10} in grid
    assert all(plan["retrieve"] <= plan["a"] + plan["b"] for plan in grid)
    assert len({tuple(sorted(plan.items())) for plan in grid}) == len(grid)


def test_the_cascades_own_depths_are_tried_even_where_its_sources_cannot_fill_them() -> None:
    assert {"a": 30, "b": 10, "retrieve": 500, "last": 10} in depth_grid(fused(500), n_items=1000)


def test_no_source_is_asked_for_more_than_there_is_nor_for_nothing() -> None:
    small = Cascade(Fuse([Any("a", 1), Any("b", 30)], k=10), Any("last", 5))
    grid = depth_grid(small, n_items=40)
    assert {plan["b"] for plan in grid} == {15, 30, 40}
    assert {plan["a"] for plan in grid} == {1, 2}


def test_given_depths_of_sources_are_tried_in_all_combinations() -> None:
    grid = depth_grid(fused(), 1000, {"a": [10, 20], "b": [7, 9], "retrieve": [10]})
    assert [(plan["a"], plan["b"]) for plan in grid] == [(10, 7), (10, 9), (20, 7), (20, 9)]
    assert {plan["b"] for plan in depth_grid(fused(), 1000, {"a": [5]})} == {10}
    with pytest.raises(ConfigError, match=r"no depth of a stage 'aa' is planned; did you mean 'a'"):
        depth_grid(fused(), 1000, {"aa": [5]})


def test_quality_is_that_of_the_cascade_at_these_depths_and_sources_are_asked_once(whole_run) -> None:
    cascade, task = whole_run.cascade(), whole_run.prepared.task("valid")
    given = {"tower": [10, 30], "popular": [5, 20], "retrieve": [20, 40], "rank": [20], "rerank": [15]}
    grid = depth_grid(cascade, whole_run.prepared.n_items, given)
    assert len(grid) == 7  # 40 is more than 10 + 5 + 10 find, than 10 + 20 + 10 it is not
    values = quality_by_depths(cascade, task, grid, queries_at_once=1000)
    for row, depths in enumerate(grid):
        found, _ = cascade.within(None)(replace(request_of(task), depths=depths))
        assert values[row].equal(evaluate(found.keys, task.relevant, ["nDCG@10"])["nDCG@10"]), depths


def test_a_source_is_asked_once_at_each_depth(whole_run) -> None:
    task, cascade = whole_run.prepared.task("valid"), fused()
    grid = depth_grid(cascade, 1000, {"a": [20, 30], "b": [10], "retrieve": [10, 20, 30]})
    quality_by_depths(cascade, task, grid, queries_at_once=1000)
    assert [source.asked for source in cascade.stages[0].sources] == [2, 1]


def test_time_is_that_of_each_source_and_of_uniting_what_they_find() -> None:
    lines = {
        "a": {"-": Line(1.0, 0.1, 0)},
        "b": {"-": Line(2.0, 0.2, 0)},
        "retrieve": {"-": Line(0.5, 0.01, 0)},
        "rank": {"-": Line(0.0, 1.0, 0)},
    }
    costs = Costs(lines, {"a": {"-": 1}, "retrieve": {"-": 0}}, 0.25, "wall", {"a": 5, "b": 10})
    own = costs.ms({"retrieve": 8, "rank": 3}, {})
    assert own == pytest.approx(0.25 + 1.5 + 4 + 0.5 + 0.15 + 8)
    assert costs.ms({"a": 15, "retrieve": 8, "rank": 3}, {}) == pytest.approx(own + 1 + 0.1)


@pytest.fixture(scope="module")
def plan(whole_run) -> Plan:
    depths = {"popular": [5, 20], "retrieve": [40], "rank": [20], "rerank": [15]}
    survey = survey_run(whole_run.space.directory, depths=depths, rounds=2)
    return survey.plan(Limits(rule="best"))


def test_the_plan_names_and_explains_its_sources(plan: Plan) -> None:
    assert list(plan.depths)[:4] == [*SOURCES, "retrieve"]
    assert plan.depths["popular"] in (5, 20)
    assert plan.survey.now.depths["popular"] == 20
    costs = plan.survey.costs
    assert list(costs.lines)[:4] == [*SOURCES, "retrieve"]
    assert costs.bytes_per_item["retrieve"] == {"-": 0}
    assert costs.bytes_per_item["tower"]["-"] > 0
    assert costs.sources == SOURCES
    text = str(plan)
    assert f"Chosen: tower 30, popular {plan.depths['popular']}, like 10, retrieve 40" in text


def test_what_is_served_follows_the_plan(whole_run, whole, plan: Plan, tmp_path: Path) -> None:
    depths = {**plan.depths, "popular": 5, "tower": 20}
    recipe = Recipe.parse(whole() | {"plan": {"depths": depths}})
    assert recipe.plan is not None
    served = Pipeline(recipe, whole_run.space.directory).cascade()
    assert served is not None
    assert sources_of(served) == {"tower": 20, "popular": 5, "like": 10}
    request = request_of(whole_run.prepared.task("test"))
    expected, _ = whole_run.cascade()(replace(request, depths=depths))
    assert served(request)[0].keys.equal(expected.keys)
    assert planned_cascade(whole_run, depths)(request)[0].keys.equal(expected.keys)


def test_a_plan_stores_nothing_of_a_source(whole) -> None:
    with pytest.raises(ConfigError, match="plan: no stage is called 'popular'"):
        Recipe.parse(whole() | {"plan": {"stores": {"popular": "ids"}}})
