"""Stages in a row: ``retrieve(500) >> rank(50)``."""

from __future__ import annotations

import time

from twotower.cascade.stage import Request, Stage
from twotower.cascade.trace import Step, Trace
from twotower.errors import ConfigError
from twotower.types import Candidates


class Cascade:
    """A value made of stages; calling it answers a request and says what each stage did."""

    def __init__(self, *stages: Stage) -> None:
        names = [stage.name for stage in stages]
        twice = sorted({name for name in names if names.count(name) > 1})
        if not stages or twice:
            raise ConfigError(
                f"stages need distinct names, these occur twice: {twice}" if twice else "no stages"
            )
        self.stages = stages

    def __rshift__(self, other: Stage | Cascade) -> Cascade:
        return Cascade(*self.stages, *(other.stages if isinstance(other, Cascade) else (other,)))

    def __call__(self, request: Request) -> tuple[Candidates, Trace]:
        """The last stage's candidates, best first, and the trace of all stages.

        Raises
        ------
        ConfigError
            The request overrides the depth of a stage that does not exist, or with a negative one.
        """
        unknown = set(request.depths) - {stage.name for stage in self.stages}
        if unknown:
            raise ConfigError(f"no stage is called {sorted(unknown)}; stages: {self}")
        if any(k < 0 for k in request.depths.values()):
            raise ConfigError(f"a depth must not be negative, found {dict(request.depths)}")
        candidates: Candidates | None = None
        steps: list[Step] = []
        for stage in self.stages:
            start = time.perf_counter()
            k = stage.depth(request)
            output = stage.run(request, candidates, k)
            steps.append(Step(stage.name, k, (time.perf_counter() - start) * 1e3, output, candidates))
            candidates = output
        return steps[-1].output, Trace(tuple(steps))

    def __repr__(self) -> str:
        return " >> ".join(map(repr, self.stages))
