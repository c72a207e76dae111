"""Slices of queries and items, against loops."""

import math
from dataclasses import replace

import pytest
import torch

from twotower.errors import DataError
from twotower.evaluate.experiment import Experiment, StageResult
from twotower.evaluate.slices import (
    Group,
    groups_of_items,
    groups_of_queries,
    slice_items,
    slice_queries,
)
from twotower.evaluate.task import Task
from twotower.metrics.ranking import evaluate
from twotower.types import Batch, Candidates, Ragged

Q, N = 30, 25


@pytest.fixture(scope="module")
def experiment():
    draw = torch.Generator().manual_seed(0)
    first = torch.stack([torch.randperm(N, generator=draw)[:12] for _ in range(Q)])
    second = torch.stack([row[torch.randperm(12, generator=draw)[:5]] for row in first])
    lengths = torch.randint(1, 5, (Q,), generator=draw).tolist()
    relevant = Ragged.of([torch.randperm(N, generator=draw)[:n].tolist() for n in lengths])
    past = Ragged.of([list(range(i % 7)) for i in range(Q)])
    task = Task(torch.arange(Q), Batch(), past, past, relevant, 0, 0)
    stages = tuple(
        StageResult(name, k, Candidates(keys, torch.zeros(Q, k)), evaluate(keys, relevant, ["nDCG@10"]), 0.0)
        for name, k, keys in (("retrieve", 12, first), ("rank", 5, second))
    )
    return Experiment(task, stages)


def share(wanted, keys):
    return sum(key in keys for key in wanted) / len(wanted) if wanted else math.nan


def mean(values):
    present = [value for value in values if not math.isnan(value)]
    return sum(present) / len(present)


def test_slices_of_queries_are_means_over_their_queries(experiment):
    past = experiment.task.history.lengths
    groups = groups_of_queries(past)
    assert [g.name for g in groups] == ["cold", "warm", "quiet", "medium", "active"]
    relevant = [row.tolist() for row in experiment.task.relevant]
    for found in slice_queries(experiment, groups, "nDCG@10", samples=50):
        rows = found.group.members.nonzero()[:, 0].tolist()
        assert found.queries == len(rows)
        assert found.relevant == sum(len(relevant[q]) for q in rows)
        for stage, interval in zip(experiment.stages, found.survived, strict=True):
            kept = [share(relevant[q], stage.output.keys[q].tolist()) for q in rows]
            assert interval.mean == pytest.approx(mean(kept))
            assert interval.low <= interval.mean <= interval.high
        values = experiment.stages[-1].values["nDCG@10"]
        assert found.order.mean == pytest.approx(float(values[rows].mean()))


def test_slices_of_items_look_at_their_items_alone(experiment):
    draw = torch.Generator().manual_seed(1)
    training = torch.randint(0, 9, (N,), generator=draw)
    groups = groups_of_items(training)
    relevant = [row.tolist() for row in experiment.task.relevant]
    for found in slice_items(experiment, groups, N, samples=50):
        wanted = [[key for key in row if found.group.members[key]] for row in relevant]
        assert found.relevant == sum(map(len, wanted))
        assert found.queries == sum(map(bool, wanted))
        for stage, interval in zip(experiment.stages, found.survived, strict=True):
            kept = [share(row, stage.output.keys[q].tolist()) for q, row in enumerate(wanted)]
            assert interval.mean == pytest.approx(mean(kept))
        assert found.order is None


def test_a_relevant_item_outside_the_catalogue_is_in_no_slice_of_items(experiment):
    relevant = Ragged.of([[*row.tolist(), -1] for row in experiment.task.relevant])
    more = replace(experiment, task=replace(experiment.task, relevant=relevant))
    groups = groups_of_items(torch.arange(N))
    pairs = zip(slice_items(experiment, groups, N, 50), slice_items(more, groups, N, 50), strict=True)
    for one, other in pairs:
        assert (one.queries, one.relevant, one.survived) == (other.queries, other.relevant, other.survived)


def test_an_empty_group_has_no_interval(experiment):
    nobody = Group("requests", "nobody", "none", torch.zeros(Q, dtype=torch.bool))
    [found] = slice_queries(experiment, [nobody], "nDCG@10", samples=50)
    assert (found.queries, found.relevant, found.survived, found.order) == (0, 0, (None, None), None)
    nothing = Group("items", "nothing", "none", torch.zeros(N, dtype=torch.bool))
    assert slice_items(experiment, [nothing], N, samples=50)[0].survived == (None, None)


def test_members_of_another_size_are_refused(experiment):
    wrong = Group("items", "all", "all", torch.ones(N + 1, dtype=torch.bool))
    with pytest.raises(DataError, match="one for each of 25 items"):
        slice_items(experiment, [wrong], N)


def test_families_divide_everyone():
    draw = torch.Generator().manual_seed(2)
    past = torch.randint(0, 12, (200,), generator=draw)
    cold, warm, *thirds = groups_of_queries(past)
    assert torch.equal(cold.members, ~warm.members)
    assert torch.equal(sum(g.members.int() for g in thirds), warm.members.int())
    cold, warm, *thirds = groups_of_items(past)
    assert torch.equal(cold.members, ~warm.members)
    assert torch.equal(sum(g.members.int() for g in thirds), warm.members.int())
    sizes = [int(g.members.sum()) for g in thirds]
    assert sizes == sorted(sizes)


@pytest.mark.parametrize("past", [torch.zeros(4, dtype=torch.int64), torch.full((4,), 3)])
def test_ties_leave_fewer_slices(past):
    groups = groups_of_queries(past)
    assert all(bool(g.members.any()) for g in groups[2:])
    assert len(groups) == (2 if past[0] == 0 else 3)


def test_a_catalogue_without_training_is_all_cold():
    groups = groups_of_items(torch.zeros(5, dtype=torch.int64))
    assert [int(g.members.sum()) for g in groups] == [5, 0, 0, 0, 0]
