"""Run a cascade over a task and keep what every stage handed on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from twotower.cascade.cascade import Cascade
from twotower.cascade.retrieve import Source
from twotower.cascade.stage import Request
from twotower.errors import DataError
from twotower.evaluate.task import Task
from twotower.metrics.funnel import Survival, survival
from twotower.types import Batch, Candidates


@dataclass(frozen=True)
class StageResult:
    """One stage's output for every query of a task, and what it is worth as it stands."""

    name: str
    k: int
    output: Candidates
    values: dict[str, Tensor]  # measure -> (Q,) per-query values of the stage's own order
    bytes_per_item: float
    adds: bool = False  # see `twotower.cascade.stage.Stage`


@dataclass(frozen=True)
class Experiment:
    """All stages' results on one task, stage by stage."""

    task: Task
    stages: tuple[StageResult, ...]

    @property
    def fate(self) -> Survival:
        """Where the relevant items live and die."""
        adding = [s.name for s in self.stages if s.adds]
        return survival([(s.name, s.output.keys) for s in self.stages], self.task.relevant, adding)


def request_of(task: Task) -> Request:
    """The task's queries as one request, each at its own time, asking for nothing that was seen."""
    return Request(task.query, history=task.history, exclude=task.seen, time=task.time)


def run_cascade(
    cascade: Cascade,
    task: Task,
    measures: Sequence[str],
    *,
    queries_at_once: int = 256,
    progress: Callable[[int, int], None] | None = None,
) -> Experiment:
    """Answer every query of the task. ``progress(done, total)`` is called after each chunk.

    Each stage is also measured at its own depth, ``R@k``, beside ``measures``.

    Raises
    ------
    DataError
        The task is empty: there is nothing to be right about.
    """
    if not len(task):
        raise DataError(f"nothing to evaluate: {task}", remedy="choose another split or positive rule")
    request, cascade = request_of(task), cascade.within(None)  # a budget is for single requests
    parts: list[list[Candidates]] = [[] for _ in cascade.stages]
    for start in range(0, len(task), queries_at_once):
        _, trace = cascade(request.rows(start, start + queries_at_once))
        for part, step in zip(parts, trace.steps, strict=True):
            part.append(step.output)
        if progress is not None:
            progress(min(start + queries_at_once, len(task)), len(task))
    stages = []
    for stage, part in zip(cascade.stages, parts, strict=True):
        output = joined(part)
        wanted = list(dict.fromkeys([*measures, f"R@{stage.k}"]))
        values = task.measure(output.keys, wanted)
        stages.append(StageResult(stage.name, stage.k, output, values, stage.bytes_per_item, stage.adds))
    return Experiment(task, tuple(stages))


def run_source(
    source: Source, task: Task, measures: Sequence[str], k: int, *, queries_at_once: int = 1024
) -> dict[str, Tensor]:
    """Per-query values of a baseline that retrieves from histories."""
    request = request_of(task)
    parts = []
    for start in range(0, len(task), queries_at_once):
        rows = request.rows(start, start + queries_at_once)
        assert rows.history is not None
        parts.append(source.search(rows.history, k, rows.exclude))
    return task.measure(joined(parts).keys, list(dict.fromkeys([*measures, f"R@{k}"])))


def joined(parts: Sequence[Candidates]) -> Candidates:
    """Chunks of queries one below the other; narrower chunks are filled up with empty slots."""
    width = max((part.keys.shape[1] for part in parts), default=0)

    def wide(tensor: Tensor, fill: float) -> Tensor:
        missing = width - tensor.shape[1]
        if missing == 0:
            return tensor
        return torch.cat([tensor, tensor.new_full((len(tensor), missing, *tensor.shape[2:]), fill)], 1)

    return Candidates(
        torch.cat([wide(part.keys, -1) for part in parts]),
        torch.cat([wide(part.scores, -torch.inf) for part in parts]),
        Batch((n, torch.cat([wide(part.pair[n], 0) for part in parts])) for n in parts[0].pair),
    )
