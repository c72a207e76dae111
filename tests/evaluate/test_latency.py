"""Time per request: which requests are timed, and what is left behind."""

import pytest
import torch

from twotower.cascade.cascade import Cascade
from twotower.cascade.deadline import Budget
from twotower.cascade.stage import Stage
from twotower.evaluate.latency import Latency, measure_latency, one_thread
from twotower.evaluate.task import make_task
from twotower.timing import Stopwatch
from twotower.types import Batch, Candidates, Ragged


class Watched(Stage):
    bytes_per_item = 0.0

    def __init__(self, name="first"):
        super().__init__(name, 2)
        self.asked, self.threads = [], set()

    def run(self, request, candidates, k):
        self.asked.append(request.query["user"].tolist())
        self.threads.add(torch.get_num_threads())
        return Candidates(torch.arange(k).expand(1, k), torch.zeros(1, k))


def task(queries):
    none = Ragged.of([[]] * queries)
    return make_task(
        torch.arange(queries), Batch(user=torch.arange(queries)), none, none, Ragged.of([[3]] * queries), 5
    )


def test_every_request_is_one_query_on_one_thread():
    stage, before = Watched(), torch.get_num_threads()
    measured = measure_latency(Cascade(stage, Watched("second")), task(50), requests=20, warm_up=5)
    assert set(measured) == {"first", "second", "total"}
    assert all(latency.requests == 20 for latency in measured.values())
    assert len(stage.asked) == 25
    assert all(len(users) == 1 for users in stage.asked)
    assert stage.threads == {1}
    assert torch.get_num_threads() == before


def test_the_cascade_counts_what_is_timed_and_no_warm_up():
    cascade = Cascade(Watched(), Watched("second"), budget=Budget(stages={"second": 0}))
    measure_latency(cascade, task(9), requests=6, warm_up=4)
    assert (cascade.asked, cascade.degraded) == (6, {"second": 6})


def test_no_query_is_timed_twice_while_there_are_enough():
    stage = Watched()
    measure_latency(Cascade(stage), task(20), requests=20, warm_up=3)
    assert stage.asked[:3] == stage.asked[3:6]
    assert sorted(stage.asked[3:]) == [[user] for user in range(20)]


def test_a_small_task_is_asked_again():
    stage = Watched()
    assert measure_latency(Cascade(stage), task(3), requests=10, warm_up=0)["total"].requests == 10
    assert len(stage.asked) == 10


def test_the_seed_chooses_the_requests():
    def asked(seed):
        stage = Watched()
        measure_latency(Cascade(stage), task(50), requests=10, seed=seed, warm_up=0)
        return stage.asked

    assert asked(1) == asked(1) != asked(2)


def test_median_and_tail():
    watch = Stopwatch()
    for duration in range(1, 101):
        watch.record(float(duration))
    assert Latency.of(watch) == Latency(50.0, 99.0, 100)


def test_threads_come_back_after_an_error():
    before = torch.get_num_threads()
    with pytest.raises(ZeroDivisionError), one_thread():
        _ = 1 / 0
    assert torch.get_num_threads() == before
