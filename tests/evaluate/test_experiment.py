"""A cascade over a task: chunks change nothing, and other people's tools read the same numbers."""

import math

import polars as pl
import pytest
import torch

from twotower.baselines.popularity import Popularity
from twotower.cascade.attributes import Attributes
from twotower.cascade.retrieve import RetrieveFrom
from twotower.cascade.rules import Rules
from twotower.cascade.ruleset import RuleSet
from twotower.cascade.stage import Stage, rank_pair
from twotower.data.catalogue import Catalogue
from twotower.errors import DataError
from twotower.evaluate.experiment import joined, request_of, run_cascade, run_source
from twotower.evaluate.task import make_task
from twotower.evaluate.trec import write_qrels, write_run
from twotower.metrics.funnel import KEPT
from twotower.types import Batch, Candidates, Ragged

Q, N = 23, 40
MEASURES = ["nDCG@10", "R@10", "RR@10", "Success@5", "AP"]


class Shuffle(Stage):
    """Scores by a hash of query and item, with ties."""

    bytes_per_item = 4.0

    def run(self, request, candidates, k):
        scores = ((candidates.keys * 7 + request.query["user"][:, None] * 3) % 11).float()
        scores = scores.masked_fill(~candidates.mask, -torch.inf)
        return rank_pair(self.name, Candidates(candidates.keys, scores, candidates.pair).sorted().best(k))


def lists(seed, low, high):
    draw = torch.Generator().manual_seed(seed)
    lengths = torch.randint(low, high, (Q,), generator=draw).tolist()
    return Ragged.of([torch.randperm(N, generator=draw)[:n].tolist() for n in lengths])


@pytest.fixture(scope="module")
def task():
    keys = torch.arange(Q)
    return make_task(keys, Batch(user=keys), lists(1, 0, 5), lists(2, 0, 33), lists(3, 1, 6), N)


@pytest.fixture(scope="module")
def cascade():
    popular = Popularity().fit(lists(4, 1, 9), N)
    return RetrieveFrom(popular, k=15) >> Shuffle("rank", 8)


@pytest.mark.parametrize("queries_at_once", [1, 7, 1000])
def test_chunks_change_nothing(cascade, task, queries_at_once):
    whole = run_cascade(cascade, task, MEASURES)
    parts = run_cascade(cascade, task, MEASURES, queries_at_once=queries_at_once)
    for one, other in zip(whole.stages, parts.stages, strict=True):
        assert torch.equal(one.output.keys, other.output.keys)
        assert torch.equal(one.output.scores, other.output.scores)
        for name, values in one.values.items():
            assert torch.equal(values, other.values[name]), name


def test_each_stage_is_measured_by_the_names_asked_and_at_its_own_depth(cascade, task):
    first, last = run_cascade(cascade, task, MEASURES).stages
    assert list(first.values) == [*MEASURES, "R@15"]
    assert list(last.values) == [*MEASURES, "R@8"]
    assert (first.k, last.k, first.bytes_per_item, last.bytes_per_item) == (15, 8, 0, 4.0)


def test_progress_counts_queries(cascade, task):
    told = []
    run_cascade(cascade, task, MEASURES, queries_at_once=10, progress=lambda *at: told.append(at))
    assert told == [(10, 17), (17, 17)]


def test_nothing_seen_is_found(cascade, task):
    for stage in run_cascade(cascade, task, MEASURES).stages:
        for row in range(len(task)):
            assert not set(stage.output.keys[row].tolist()) & set(task.seen[row].tolist())


def test_measures_are_those_of_ir_measures_on_the_files(cascade, task, tmp_path):
    ir_measures = pytest.importorskip("ir_measures")
    items = Catalogue(pl.Series("item", [f"i{key:02}" for key in range(N)]))
    ids = pl.Series("query", [f"q{key}" for key in task.query_keys.tolist()])
    write_qrels(tmp_path / "qrels", ids, task.relevant, items)
    wanted = [ir_measures.parse_measure(name) for name in MEASURES]
    for stage in run_cascade(cascade, task, MEASURES).stages:
        write_run(tmp_path / "run", ids, stage.output, items)
        found = {
            (str(m.measure), m.query_id): m.value
            for m in ir_measures.iter_calc(
                wanted,
                ir_measures.read_trec_qrels(str(tmp_path / "qrels")),
                ir_measures.read_trec_run(str(tmp_path / "run")),
            )
        }
        for name in MEASURES:
            for query, value in zip(ids, stage.values[name].tolist(), strict=True):
                assert found[name, query] == pytest.approx(value, abs=1e-9), (name, query)


def test_survival_is_recall_at_the_depth(cascade, task):
    experiment = run_cascade(cascade, task, MEASURES)
    for number, stage in enumerate(experiment.stages):
        torch.testing.assert_close(experiment.fate.share_alive[number], stage.values[f"R@{stage.k}"])
    assert sum(experiment.fate.losses().values()) == len(task.relevant.values)


def test_a_pin_that_inserts_what_nobody_retrieved_is_measured(cascade, task):
    lost = run_cascade(cascade, task, MEASURES).fate.lost_at != KEPT
    wanted = int(task.relevant.values[lost][0])
    pin = RuleSet.parse({"rules": [{"kind": "pin", "places": {1: wanted}, "insert": True}]})
    items = Attributes(pl.DataFrame({"item": range(N)}), item="item")
    experiment = run_cascade(cascade >> Rules(pin, items, k=8), task, MEASURES)
    before, last = (stage.output.keys for stage in experiment.stages[1:])
    mine = experiment.task.relevant.values == wanted
    row = task.relevant.row_of_value()[mine]
    assert (last[row, 0] == wanted).all()
    assert not (before[row] == wanted).any(1).all()  # else nothing was inserted
    assert (experiment.fate.lost_at[mine] == KEPT).all()
    torch.testing.assert_close(experiment.fate.share_alive[-1], experiment.stages[-1].values["R@8"])


def test_a_source_alone_is_measured_like_the_stage_made_of_it(cascade, task):
    stage = cascade.stages[0]
    alone = run_source(stage.source, task, MEASURES, 15, queries_at_once=9)
    first = run_cascade(cascade, task, MEASURES).stages[0]
    for name, values in first.values.items():
        assert torch.equal(values, alone[name])


def test_an_empty_task_is_an_error_that_says_why(cascade, task):
    nothing = task.take(torch.empty(0, dtype=torch.int64))
    with pytest.raises(DataError, match="nothing to evaluate: 0 queries"):
        run_cascade(cascade, nothing, MEASURES)


def test_the_request_masks_what_was_seen(task):
    request = request_of(task)
    assert request.exclude is task.seen
    assert request.history is task.history


def test_joined_fills_narrower_chunks_with_empty_slots():
    def part(keys, width):
        scores = torch.arange(width, 0, -1.0).expand(len(keys), width)
        return Candidates(
            torch.tensor(keys), scores, Batch(score=scores, two=torch.ones(len(keys), width, 2))
        )

    out = joined([part([[1, 2]], 2), part([[3, 4, 5], [6, 7, 8]], 3)])
    assert out.keys.tolist() == [[1, 2, -1], [3, 4, 5], [6, 7, 8]]
    assert out.scores[0].tolist() == [2.0, 1.0, -math.inf]
    assert out.pair["score"][0].tolist() == [2.0, 1.0, 0.0]
    assert out.pair["two"].shape == (3, 3, 2)
