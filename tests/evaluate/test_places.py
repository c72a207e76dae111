"""Ranks of relevant items in every stage, against loops over lists."""

import pytest
import torch

from twotower.baselines.popularity import Popularity
from twotower.cascade.retrieve import RetrieveFrom
from twotower.cascade.stage import Stage, rank_pair
from twotower.evaluate.experiment import request_of, run_cascade
from twotower.evaluate.places import Places, find_places
from twotower.evaluate.task import make_task
from twotower.types import Batch, Candidates, Ragged

Q, N = 23, 40
MEASURES = ["nDCG@10", "R@10"]


class Shuffle(Stage):
    """Scores by a hash of query and item, with ties; drops every multiple of ``drops``."""

    bytes_per_item = 4.0

    def __init__(self, name, k, drops=None):
        super().__init__(name, k)
        self.drops = drops

    def run(self, request, candidates, k):
        scores = ((candidates.keys * 7 + request.query["user"][:, None] * 3) % 11).float()
        keys = candidates.keys
        if self.drops is not None:
            keys = keys.masked_fill(keys % self.drops == 0, -1)
        scores = scores.masked_fill(keys < 0, -torch.inf)
        return rank_pair(self.name, Candidates(keys, scores, candidates.pair).sorted().best(k))


def lists(seed, low, high):
    draw = torch.Generator().manual_seed(seed)
    lengths = torch.randint(low, high, (Q,), generator=draw).tolist()
    return Ragged.of([torch.randperm(N, generator=draw)[:n].tolist() for n in lengths])


@pytest.fixture(scope="module")
def task():
    keys = torch.arange(Q)
    return make_task(keys, Batch(user=keys), lists(1, 0, 5), lists(2, 0, 33), lists(3, 1, 6), N)


def popular(k):
    return RetrieveFrom(Popularity().fit(lists(4, 1, 9), N), k=k)


def found_by_hand(cascade, task):
    """The rank of every relevant item in every stage, stage after stage, query after query."""
    ranks = []
    for row in range(len(task)):
        request = request_of(task).rows(row, row + 1)
        given = None
        own = []
        for stage in cascade.stages:
            width = 3 * stage.k if given is None else given.keys.shape[1]
            order = stage.run(request, given, max(width, stage.k)).keys[0].tolist()
            given = stage.run(request, given, stage.k)
            own.append([order.index(key) + 1 if key in order else 0 for key in task.relevant[row].tolist()])
        ranks.append(own)
    return [[rank for row in ranks for rank in row[s]] for s in range(len(cascade.stages))]


@pytest.mark.parametrize("queries_at_once", [1, 5, 1000])
@pytest.mark.parametrize("drops", [None, 3])
def test_ranks_are_those_of_the_stages_asked_for_more(task, drops, queries_at_once):
    cascade = popular(12) >> Shuffle("prerank", 6, drops) >> Shuffle("rank", 3)
    experiment = run_cascade(cascade, task, MEASURES)
    places = find_places(cascade, experiment, reach=3, queries_at_once=queries_at_once)
    assert places.ranks.tolist() == found_by_hand(cascade, task)
    assert torch.equal(places.fate.alive, experiment.fate.alive)
    assert places.fate.losses() == experiment.fate.losses()


def test_recall_is_the_mean_over_queries_at_every_depth(task):
    cascade = popular(12) >> Shuffle("rank", 4)
    experiment = run_cascade(cascade, task, MEASURES)
    places = find_places(cascade, experiment, reach=2)
    row = task.relevant.row_of_value().tolist()
    for stage, result in enumerate(experiment.stages):
        recall = places.recall(stage).tolist()
        assert len(recall) == places.reached[stage] >= result.k
        for depth in range(1, len(recall) + 1):
            shares = [
                [
                    0 < rank <= depth
                    for rank, q in zip(places.ranks[stage].tolist(), row, strict=True)
                    if q == i
                ]
                for i in range(len(task))
            ]
            assert recall[depth - 1] == pytest.approx(sum(sum(s) / len(s) for s in shares) / len(task))
        assert recall[result.k - 1] == pytest.approx(float(result.values[f"R@{result.k}"].mean()))


def test_deaths_are_counted_by_hand(task):
    cascade = popular(12) >> Shuffle("prerank", 6, 3) >> Shuffle("rank", 3)
    places = find_places(cascade, run_cascade(cascade, task, MEASURES), reach=2)
    edges = [1.2, 1.5, 2.0]
    lost_at = places.fate.lost_at.tolist()
    for stage, cut in enumerate(places.cuts):
        expected = [0, 0, 0, 0]
        for rank, lost in zip(places.ranks[stage].tolist(), lost_at, strict=True):
            if lost == stage:
                ratio = rank / cut if rank else float("inf")
                expected[next((i for i, edge in enumerate(edges) if ratio <= edge), 3)] += 1
        assert places.deaths(stage, edges) == expected
    total = sum(sum(places.deaths(stage, edges)) for stage in range(3))
    assert total == len(task.relevant.values) - places.fate.losses()["kept"]
    assert (places.depths(0) > 1).all()


def test_a_place_that_a_rule_took_away_is_no_rank():
    class Swap(Stage):
        """Hands on the last of what it is given, though its order begins with the first."""

        bytes_per_item = 0.0

        def run(self, request, candidates, k):
            width = candidates.keys.shape[1]
            chosen = candidates.columns(width - k, width) if k < width else candidates
            return rank_pair(self.name, chosen)

    task = make_task(
        torch.tensor([0]),
        Batch(user=torch.tensor([0])),
        Ragged.of([[]]),
        Ragged.of([[]]),
        Ragged.of([[0, 3]]),
        4,
    )
    cascade = RetrieveFrom(Popularity().fit(Ragged.of([[0, 0, 1, 2]]), 4), k=4) >> Swap("swap", 1)
    experiment = run_cascade(cascade, task, MEASURES)
    places = find_places(cascade, experiment)
    kept = experiment.stages[1].output.keys.tolist()
    assert kept == [[3]]
    assert places.ranks[1].tolist() == [0, 1]
    assert places.reached == (4, 4)
    assert places.deaths(1, [2.0]) == [0, 1]


def test_progress_is_told_after_every_chunk(task):
    cascade, told = popular(5) >> Shuffle("rank", 2), []
    experiment = run_cascade(cascade, task, MEASURES)
    find_places(cascade, experiment, queries_at_once=10, progress=lambda *step: told.append(step))
    ends = [*range(10, len(task), 10), len(task)]
    assert told == [(name, end, len(task)) for name in ("retrieve", "rank") for end in ends]


def test_queries_without_a_relevant_item_do_not_count():
    places = Places(("rank",), (1,), (3,), Ragged.of([[4], [], [5]]), torch.tensor([[1, 3]]))
    assert places.recall(0).tolist() == [0.5, 0.5, 1.0]
