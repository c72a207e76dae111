"""The depths a planner tries."""

from __future__ import annotations

import pytest
import torch

from twotower.cascade.cascade import Cascade
from twotower.cascade.filter import Filter
from twotower.cascade.rank import Rank
from twotower.cascade.stage import Request, Stage
from twotower.errors import ConfigError
from twotower.pipeline.planning.grid import depth_grid, levels_of, steps_between
from twotower.types import Candidates


class Any(Stage):
    def run(self, request: Request, candidates: Candidates | None, k: int) -> Candidates:
        raise AssertionError("a grid asks no stage")

    @property
    def bytes_per_item(self) -> float:
        return 0


class Scoring(Rank):
    def __init__(self, k: int, name: str) -> None:
        Stage.__init__(self, name, k)


def test_depths_are_nested_and_the_cascades_own_are_among_them() -> None:
    cascade = Cascade(
        Any("retrieve", 120), Scoring(70, "prerank"), Scoring(30, "rank"), Scoring(10, "rerank")
    )
    grid = depth_grid(cascade, n_items=10_000)
    assert {"retrieve": 120, "prerank": 70, "rank": 30, "rerank": 10} in grid
    assert all(p["retrieve"] >= p["prerank"] >= p["rank"] >= p["rerank"] == 10 for p in grid)
    assert max(p["retrieve"] for p in grid) == 480
    assert max(p["rank"] for p in grid) == 120
    assert len({tuple(p.values()) for p in grid}) == len(grid)


def test_no_depth_is_above_the_catalogue() -> None:
    grid = depth_grid(Cascade(Any("retrieve", 50), Scoring(10, "rank")), n_items=60)
    assert [p["retrieve"] for p in grid] == [10, 20, 50, 60]


def test_a_filter_passes_on_what_it_is_given_and_other_stages_keep_their_depth() -> None:
    sieve = Filter(torch.ones(100, dtype=torch.bool), k=7, name="filter")
    cascade = Cascade(Any("retrieve", 20), sieve, Scoring(20, "rank"), Any("diversify", 10), Any("rules", 10))
    grid = depth_grid(cascade, 100, {"retrieve": [20, 40], "rank": [20]})
    assert grid == [{"retrieve": k, "filter": k, "rank": 20, "diversify": 10, "rules": 10} for k in (20, 40)]


def test_a_cascade_of_one_stage_has_one_plan() -> None:
    assert depth_grid(Cascade(Any("retrieve", 20)), 100) == [{"retrieve": 20}]


def test_depths_for_a_stage_that_is_not_planned_are_refused() -> None:
    cascade = Cascade(Any("retrieve", 20), Scoring(10, "rank"))
    with pytest.raises(ConfigError, match="did you mean 'retrieve'"):
        depth_grid(cascade, 100, {"retreive": [5]})
    with pytest.raises(ConfigError, match="no depth of a stage 'rank'"):
        depth_grid(cascade, 100, {"rank": [5]})


def test_depths_that_leave_no_plan_are_refused() -> None:
    cascade = Cascade(Any("retrieve", 20), Scoring(10, "prerank"), Scoring(10, "rank"))
    with pytest.raises(ConfigError, match="above those of the one before"):
        depth_grid(cascade, 100, {"retrieve": [10], "prerank": [20]})


@pytest.mark.parametrize(
    ("least", "most", "steps"),
    [(10, 10, [10]), (30, 20, [30]), (1, 10, [1, 2, 5, 10]), (7, 23, [7, 10, 20, 23])],
)
def test_steps(least: int, most: int, steps: list[int]) -> None:
    assert steps_between(least, most) == steps


def test_levels_span_the_grid() -> None:
    grid = depth_grid(Cascade(Any("retrieve", 400), Scoring(50, "rank"), Scoring(10, "rerank")), 10_000)
    levels = levels_of(grid)
    assert len(levels) <= 5
    for name in ("retrieve", "rank"):
        assert min(x[name] for x in levels) == min(p[name] for p in grid)
        assert max(x[name] for x in levels) == max(p[name] for p in grid)
