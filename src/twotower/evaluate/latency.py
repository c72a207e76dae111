"""Time of the stages: one query at a time, on one thread, each a request whose features are ready.

What a server does before (history, features) and after (the items' fields) is not in it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from twotower.cascade.cascade import Cascade
from twotower.evaluate.experiment import request_of
from twotower.evaluate.task import Task
from twotower.timing import Stopwatch


@dataclass(frozen=True)
class Latency:
    """Milliseconds of one request: the median and the tail of one stage, or of all together."""

    p50_ms: float
    p99_ms: float
    requests: int

    @classmethod
    def of(cls, watch: Stopwatch) -> Latency:
        return cls(watch.percentile(50), watch.percentile(99), len(watch.durations_ms))


def measure_latency(
    cascade: Cascade, task: Task, *, requests: int = 200, seed: int = 0, warm_up: int = 10
) -> dict[str, Latency]:
    """Latency of each stage by name, and of all of them together under ``total``.

    Requests are drawn from the task without replacement (with, when it has fewer); the first ``warm_up``
    are answered twice and counted once, by the cascade too (`Cascade.asked`). Torch's thread
    count is one while this runs.
    """
    draw = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(len(task), generator=draw)
    if len(task) < requests:
        chosen = torch.randint(len(task), (requests,), generator=draw)
    request = request_of(task)
    watches = {stage.name: Stopwatch() for stage in cascade.stages} | {"total": Stopwatch()}
    with one_thread():
        warming = cascade.within(cascade.budget)  # with counts of its own
        for row in chosen[:warm_up].tolist():
            warming(request.rows(row, row + 1))
        for row in chosen[:requests].tolist():
            _, trace = cascade(request.rows(row, row + 1))
            for step in trace.steps:
                watches[step.stage].record(step.took_ms)
            watches["total"].record(trace.took_ms)
    return {name: Latency.of(watch) for name, watch in watches.items()}


@contextmanager
def one_thread() -> Iterator[None]:
    """Torch on one thread, and back to what it was."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
