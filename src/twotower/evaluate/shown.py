"""Single requests to be looked at: which ones, and what a person wants to know of each."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from twotower.metrics.funnel import KEPT, Survival


@dataclass(frozen=True)
class Place:
    """Where a stage put an item; the score is None where the stage dropped it."""

    rank: int  # from 1
    score: float | None


@dataclass(frozen=True)
class ShownItem:
    """An item of one request and its way through the stages."""

    id: str
    text: str
    relevant: bool
    places: tuple[Place | None, ...]  # per stage; None where it never came, or got no rank
    dropped_by: str | None


@dataclass(frozen=True)
class ShownStep:
    """What a stage did in the request, answered on its own."""

    stage: str
    n_in: int | None  # None: the whole catalogue
    n_out: int
    took_ms: float
    degraded: str | None
    late: bool


@dataclass(frozen=True)
class ShownRequest:
    """One query, what was delivered, and what should have been and was not."""

    who: str
    about: tuple[tuple[str, str], ...]  # the query's own fields
    past: tuple[str, ...]  # texts of its last items, latest first
    relevant: int
    found: int  # of these, delivered
    delivered: tuple[ShownItem, ...]  # best first
    missed: tuple[ShownItem, ...]  # relevant, and not delivered
    steps: tuple[ShownStep, ...]


def choose_requests(fate: Survival, n: int, generator: torch.Generator) -> Tensor:
    """(at most n,) rows of queries, chosen so that every fate is there.

    In turn a request of which an item was kept, lost by each stage from the last to the first, and again;
    within a fate by chance, no request twice.
    """
    row, lost = fate.relevant.row_of_value().cpu(), fate.lost_at
    shuffled = torch.randperm(len(fate.relevant), generator=generator)
    queues = []
    for outcome in (KEPT, *reversed(range(len(fate.stages)))):
        has = torch.zeros(len(fate.relevant), dtype=torch.bool)
        has[row[lost == outcome]] = True
        queues.append(iter(shuffled[has[shuffled]].tolist()))
    chosen: dict[int, None] = {}
    while queues and len(chosen) < n:
        queue = queues.pop(0)
        fresh = next((q for q in queue if q not in chosen), None)
        if fresh is not None:
            chosen[fresh] = None
            queues.append(queue)
    return torch.tensor(list(chosen), dtype=torch.int64)
