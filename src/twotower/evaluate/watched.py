"""A cascade that remembers how often its stages kept their time."""

from __future__ import annotations

from collections import Counter

from twotower.cascade.cascade import Cascade
from twotower.cascade.stage import Request
from twotower.cascade.trace import Trace
from twotower.types import Candidates


class Watched(Cascade):
    """The same stages under the same budget; counts requests, and beside `degraded` the late ones.

    A stage is late when it took longer than it may and could not be stopped, as retrievers are.
    """

    def __init__(self, cascade: Cascade) -> None:
        super().__init__(*cascade.stages, budget=cascade.budget)
        self.asked = 0
        self.late: Counter[str] = Counter()

    def __call__(self, request: Request) -> tuple[Candidates, Trace]:
        answer = super().__call__(request)
        self.asked += len(request)
        for step in answer[1].steps:
            self.late[step.stage] += len(request) if step.late else 0
        return answer
