"""Quality by depths, held against the cascade run at each of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from twotower.cascade.cascade import Cascade
from twotower.cascade.deadline import Budget
from twotower.cascade.fuse import Fuse
from twotower.cascade.fusion import NormalisedScore
from twotower.cascade.rank import Rank
from twotower.cascade.retrieve import Retrieve
from twotower.cascade.stage import Request, Stage, no_candidates
from twotower.errors import DataError
from twotower.evaluate.experiment import request_of
from twotower.evaluate.task import Task
from twotower.index.exact import ExactIndex
from twotower.index.item_table import ItemTable
from twotower.metrics.ranking import evaluate
from twotower.models.base import Model
from twotower.models.catalogue import make_model
from twotower.pipeline.pipeline import Pipeline
from twotower.pipeline.planning.grid import depth_grid
from twotower.pipeline.planning.quality import LookedUp, quality_by_depths, steady_stages
from twotower.types import Batch

GRID = {"retrieve": [8, 20, 60, 120], "prerank": [5, 8, 33, 120], "rank": [5, 20, 33]}


class Approximate(ExactIndex):
    @property
    def exact(self) -> bool:
        return False


@pytest.fixture(scope="module")
def pipeline(trained) -> Pipeline:
    return Pipeline.open(trained.directory)


@pytest.fixture(scope="module")
def task(pipeline: Pipeline) -> Task:
    return pipeline.prepared.task("valid").take(torch.arange(12))


@pytest.fixture(scope="module")
def scoring(pipeline: Pipeline) -> Callable[..., Rank]:
    """A stage by an untrained model, whose weights are drawn."""
    spec = pipeline.prepared.spec(("user", "history", "item", "category"))

    def make(name: str, k: int, model: str, **config: object) -> Rank:
        draw = torch.Generator().manual_seed(len(name))
        made: Model = make_model(model, spec, {"embedding": 4, **config}).eval()
        with torch.no_grad():
            for weights in made.parameters():
                weights.copy_(torch.randn(weights.shape, generator=draw) * 0.3)
        items = pipeline.prepared.items
        table = ItemTable.build(
            lambda keys: made.encode_item(items.take(keys)), items.rows, made.item_specs(), made.item_digest()
        )
        return Rank(made, table, k, name)

    return make


@pytest.fixture(scope="module")
def retrieve(pipeline: Pipeline) -> Retrieve:
    cascade = pipeline.cascade()
    assert cascade is not None
    assert isinstance(cascade.stages[0], Retrieve)
    return cascade.stages[0]


def same_as_run_at_each_depth(cascade: Cascade, task: Task) -> None:
    planned = [stage.name for stage in cascade.stages[:-1] if stage.name in GRID]
    grid = depth_grid(cascade, 120, {name: GRID[name] for name in planned})
    found = quality_by_depths(cascade, task, grid, queries_at_once=5)
    for depths, values in zip(grid, found, strict=True):
        out, _ = cascade(replace(request_of(task), depths=depths))
        expected = evaluate(out.keys, task.relevant, ["nDCG@10"])["nDCG@10"]
        torch.testing.assert_close(values, expected, msg=str(depths))
    assert found.std(0).max() > 0  # depths matter here


HISTORY = {"history": {"kind": "mean"}}
DEEP = {"layers": [8], **HISTORY}


def test_steady_stages_are_remembered(retrieve: Retrieve, scoring: Callable[..., Rank], task: Task) -> None:
    cascade = Cascade(
        retrieve,
        scoring("prerank", 30, "dcn-v2", crosses=1, **DEEP),
        scoring(
            "rank", 20, "dcn-v2", crosses=1, pair=["retrieve_score", "retrieve_rank", "prerank_score"], **DEEP
        ),
        scoring("rerank", 5, "dcn-v2", crosses=1, pair=["rank_score"], **DEEP),
    )
    assert steady_stages(cascade) == 4
    same_as_run_at_each_depth(cascade, task)


def test_lists_are_scored_again(retrieve: Retrieve, scoring: Callable[..., Rank], task: Task) -> None:
    cascade = Cascade(
        retrieve,
        scoring("prerank", 30, "dcn-v2", crosses=1, **DEEP),
        scoring("rank", 20, "dcn-v2", crosses=1, **DEEP),
        scoring("rerank", 5, "prm", dim=8, heads=2, blocks=1, hidden=8, list_length=30, **HISTORY),
    )
    assert steady_stages(cascade) == 3
    same_as_run_at_each_depth(cascade, task)


def test_a_rank_among_those_that_came_so_far_is_not_steady(
    retrieve: Retrieve, scoring: Callable[..., Rank], task: Task
) -> None:
    cascade = Cascade(
        retrieve,
        scoring("prerank", 30, "dcn-v2", crosses=1, **DEEP),
        scoring("rank", 20, "dcn-v2", crosses=1, pair=["prerank_rank"], **DEEP),
        scoring("rerank", 5, "dcn-v2", crosses=1, pair=["rank_score"], **DEEP),
    )
    assert steady_stages(cascade) == 2
    same_as_run_at_each_depth(cascade, task)


@pytest.mark.parametrize("kind", ["approximate", "fused"])
def test_other_retrieval_is_asked_at_each_depth(
    kind: str, retrieve: Retrieve, scoring: Callable[..., Rank], task: Task
) -> None:
    assert isinstance(retrieve.index, ExactIndex)
    near = Approximate(retrieve.index.vectors, retrieve.index.produced_by)
    first: Stage = Retrieve(retrieve.model, near, 30)
    if kind == "fused":
        first = Fuse([Retrieve(retrieve.model, near, 15, name) for name in ("one", "two")], k=20)
    cascade = Cascade(first, scoring("rank", 5, "dcn-v2", crosses=1, pair=["retrieve_score"], **DEEP))
    assert steady_stages(cascade) == 0
    same_as_run_at_each_depth(cascade, task)


@pytest.mark.parametrize(
    ("pair", "steady"), [(["one_score", "prerank_score"], 3), (["retrieve_score"], 2), (["one_rank"], 2)]
)
def test_behind_sources_that_score_everything_stages_are_steady(
    pair: list[str], steady: int, retrieve: Retrieve, scoring: Callable[..., Rank], task: Task
) -> None:
    other = scoring("two", 5, "two-tower", layers=[4], **HISTORY)
    index = ExactIndex.build(other.table.stored["vector"], produced_by=other.model.item_digest())
    sources = [
        Retrieve(retrieve.model, retrieve.index, 15, "one"),
        Retrieve(other.model, index, 20, "two"),
    ]
    cascade = Cascade(
        Fuse(sources, NormalisedScore(scale="z"), k=25),
        scoring("prerank", 20, "dcn-v2", crosses=1, pair=["one_score", "two_score"], **DEEP),
        scoring("rank", 5, "dcn-v2", crosses=1, pair=pair, **DEEP),
    )
    assert steady_stages(cascade) == steady
    same_as_run_at_each_depth(cascade, task)


def test_a_budget_does_not_cut_what_is_measured(
    retrieve: Retrieve, scoring: Callable[..., Rank], task: Task
) -> None:
    plain = retrieve >> scoring("rank", 5, "dcn-v2", crosses=1, **DEEP)
    grid = depth_grid(plain, 120, {"retrieve": [8, 60]})
    hasty = plain.within(Budget(total_ms=1e-6))
    assert quality_by_depths(hasty, task, grid).equal(quality_by_depths(plain, task, grid))


def test_an_empty_task_is_refused(retrieve: Retrieve, task: Task) -> None:
    with pytest.raises(DataError, match="nothing to plan by"):
        quality_by_depths(Cascade(retrieve), task.take(torch.arange(0)), [{"retrieve": 5}])


def test_scores_of_nothing_are_looked_up() -> None:
    nothing = LookedUp(torch.empty(2, 0, dtype=torch.int64), torch.empty(2, 0), 5, "rank")
    found = nothing.run(Request(Batch()), no_candidates(2), 5)
    assert found.keys.shape == (2, 0)
    assert {"rank_score", "rank_rank"} <= set(found.pair)
