"""Counts of a cascade that did not keep its time."""

import time

import pytest
import torch

from twotower.baselines.popularity import Popularity
from twotower.cascade.deadline import Budget
from twotower.cascade.retrieve import RetrieveFrom
from twotower.cascade.stage import Request, Stage, rank_pair
from twotower.errors import ConfigError
from twotower.evaluate.watched import Watched
from twotower.types import Batch, Ragged


class Slow(Stage):
    bytes_per_item = 0.0

    def run(self, request, candidates, k):
        time.sleep(0.002)
        request.check_time()
        return rank_pair(self.name, candidates.best(k))


@pytest.fixture
def cascade():
    return RetrieveFrom(Popularity().fit(Ragged.of([[0, 1, 1]]), 3), k=3) >> Slow("rank", 2)


@pytest.fixture
def request_of_two():
    return Request(Batch(user=torch.tensor([0, 1])), history=Ragged.of([[], []]))


def test_all_in_time_is_counted_as_asked(cascade, request_of_two):
    watched = Watched(cascade)
    answer, trace = watched(request_of_two)
    assert answer.keys.tolist() == cascade(request_of_two)[0].keys.tolist()
    assert [step.stage for step in trace.steps] == ["retrieve", "rank"]
    assert (watched.asked, watched.degraded.total(), watched.late.total()) == (2, 0, 0)


def test_late_and_degraded_requests_are_counted(cascade, request_of_two):
    tight = cascade.within(Budget(stages={"retrieve": 1e-6, "rank": 0.5}))
    watched = Watched(tight)
    for _ in range(3):
        watched(request_of_two)
    assert watched.asked == 6
    assert watched.late == {"retrieve": 6, "rank": 0}
    assert watched.degraded == {"rank": 6}
    assert tight.degraded.total() == 0


def test_what_the_cascade_refuses_is_not_asked(cascade, request_of_two):
    watched = Watched(cascade)
    with pytest.raises(ConfigError):
        watched(Request(request_of_two.query, request_of_two.history, depths={"rerank": 3}))
    assert watched.asked == 0
