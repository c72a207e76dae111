"""Stages in a row: ``retrieve(500) >> rank(50)``."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import reduce
from threading import Lock

from twotower.cascade.deadline import Budget, Late
from twotower.cascade.filter import both_allow
from twotower.cascade.stage import Request, Stage
from twotower.cascade.trace import Step, Trace
from twotower.errors import ConfigError
from twotower.types import Candidates


class Cascade:
    """A value made of stages; calling it answers a request and says what each stage did.

    With a ``budget`` a stage that misses its deadline is *degraded*: the order it was given goes on, cut to
    its depth and without what the stage keeps from being shown (`Stage.fallback`); the trace says so, and
    `degraded` counts it. A later stage that reads what a degraded one would have said of a pair is degraded
    too: there is nothing to read. The first stage has no order before it: it runs to its end, is marked late,
    and `overran` counts it. One of several sources leaves out those that it had no time to begin; then it is
    degraded too, and says which.

    What a later stage would drop whatever the request (`Stage.allow`: a filter's mask, blocked items) is not
    even retrieved, so that the list stays as long as was asked for.
    """

    def __init__(self, *stages: Stage, budget: Budget | None = None) -> None:
        names = [name for stage in stages for name in stage.names]
        twice = sorted({name for name in names if names.count(name) > 1})
        if not stages or twice:
            raise ConfigError(
                f"stages need distinct names, these occur twice: {twice}" if twice else "no stages"
            )
        self.stages = stages
        self.budget = budget or Budget()
        self._allow = reduce(both_allow, (stage.allow for stage in stages))
        self._check_names("the budget", self.budget.stages)
        self._lock = Lock()  # requests may be answered by several threads
        self.asked = 0
        """Requests that were answered."""
        self.degraded: Counter[str] = Counter()
        """Requests, by stage, that it did not order, or not with all its sources."""
        self.overran: Counter[str] = Counter()
        """Requests, by stage, that took longer than they may and could not be stopped."""

    def __rshift__(self, other: Stage | Cascade) -> Cascade:
        stages = other.stages if isinstance(other, Cascade) else (other,)
        return Cascade(*self.stages, *stages, budget=self.budget)

    def within(self, budget: Budget | None) -> Cascade:
        """The same stages under another budget, with counts of its own."""
        return Cascade(*self.stages, budget=budget)

    def __call__(self, request: Request) -> tuple[Candidates, Trace]:
        """The last stage's candidates, best first, and the trace of all stages.

        Raises
        ------
        ConfigError
            The request overrides the depth or time of a stage that does not exist, or a depth is negative.
        """
        self._check_names("a depth", request.depths, inner=True)
        if any(k < 0 for k in request.depths.values()):
            raise ConfigError(f"a depth must not be negative, found {dict(request.depths)}")
        budget = request.budget or self.budget
        self._check_names("the budget", budget.stages)
        request = replace(self.narrowed(request), _encoded={})  # asked again, it takes as long again
        began = time.perf_counter() if request.began is None else request.began
        steps = list[Step]()
        for stage in self.stages:
            given = steps[-1].output if steps else None
            steps.append(self._step(stage, request, given, budget, began, steps))
        self._count(len(request), steps)
        return steps[-1].output, Trace(tuple(steps))

    def narrowed(self, request: Request) -> Request:
        """The request, allowing only what every stage lets through; for who asks stages one by one."""
        if self._allow is None:
            return request
        return replace(request, allow=both_allow(request.allow, self._allow))

    def _step(
        self,
        stage: Stage,
        request: Request,
        given: Candidates | None,
        budget: Budget,
        began: float,
        before: Sequence[Step],
    ) -> Step:
        """One stage's work, or the order it was given where it cannot do it in time."""
        start, k = time.perf_counter(), stage.depth(request)
        deadline = budget.of(stage.name, began, start)
        if given is None:
            output, left_out = stage.retrieve(replace(request, deadline=deadline), k)
            late = deadline is not None and deadline.left_ms <= 0
            reason = f"no time was left for {', '.join(left_out)}" if left_out else None
            return Step(stage.name, k, _ms_since(start), output, None, reason, late)
        missing = [name for name in stage.reads if name not in given.pair]
        reason = f"needs {', '.join(missing)}" if missing and any(s.degraded for s in before) else None
        if reason is None:
            try:
                timed = replace(request, deadline=deadline)
                timed.check_time()
                output = stage.run(timed, given, k)
                timed.check_time()
            except Late:
                assert deadline is not None
                given_ms = (deadline.at - start) * 1e3
                reason = f"{given_ms:.1f} ms were not enough" if given_ms > 0 else "no time was left"
        if reason is not None:
            output = stage.fallback(replace(request, deadline=None), given, k)
        return Step(stage.name, k, _ms_since(start), output, given, reason)

    def _count(self, queries: int, steps: Sequence[Step]) -> None:
        with self._lock:
            self.asked += queries
            self.degraded.update({step.stage: queries for step in steps if step.degraded is not None})
            self.overran.update({step.stage: queries for step in steps if step.late})

    def _check_names(self, what: str, names: Iterable[str], *, inner: bool = False) -> None:
        known = (stage.names if inner else (stage.name,) for stage in self.stages)
        unknown = set(names).difference(*known)
        if unknown:
            raise ConfigError(f"{what} is for {sorted(unknown)}, and no stage is called so; stages: {self}")

    def __repr__(self) -> str:
        return " >> ".join(map(repr, self.stages))


def _ms_since(start: float) -> float:
    return (time.perf_counter() - start) * 1e3
