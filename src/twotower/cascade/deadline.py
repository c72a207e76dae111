"""How long a request, and each stage of it, may take; and what happens when it takes longer."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass

from pydantic import NonNegativeFloat

from twotower.config import Config

MARGIN = 0.02
"""Share of a request's time that no stage may use: it is for handing the answer over."""


class Late(Exception):
    """A stage ran out of time; the cascade catches it, and answers with the order it has."""


@dataclass(frozen=True)
class Deadline:
    """A moment of `time.perf_counter`; stages look at it between pieces of work."""

    at: float

    @classmethod
    def after_ms(cls, ms: float, start: float | None = None) -> Deadline:
        return cls((time.perf_counter() if start is None else start) + ms / 1e3)

    @property
    def left_ms(self) -> float:
        return (self.at - time.perf_counter()) * 1e3

    def sooner(self, share: float) -> Deadline:
        """When this share of the time that is left will have passed."""
        now = time.perf_counter()
        return Deadline(now + share * (self.at - now))

    def check(self) -> None:
        """Raise `Late` when the moment has passed."""
        if time.perf_counter() >= self.at:
            raise Late


class Budget(Config):
    """Milliseconds for a whole request, and for stages by name; one without its own may take what is left.

    The request begins when it arrives, where that is known (`Request.began`), else with its first stage.
    A stage of 0 ms is always left out.

    >>> budget = Budget(total_ms=8000, stages={"rank": 500})
    >>> budget.of("rank", start=0.0, now=1.0), budget.of("rerank", start=0.0, now=1.0)
    (Deadline(at=1.5), Deadline(at=7.84))
    """

    total_ms: NonNegativeFloat | None = None
    stages: Mapping[str, NonNegativeFloat] = {}

    def of(self, stage: str, start: float, now: float) -> Deadline | None:
        """The deadline of a stage that begins ``now`` in a request that began at ``start`` (both seconds).

        It lies strictly before the request's own, by `MARGIN` of the total; None when nothing limits it.
        """
        ends = []
        if self.total_ms is not None:
            ends.append(start + self.total_ms * (1 - MARGIN) / 1e3)
        if stage in self.stages:
            ends.append(now + self.stages[stage] / 1e3)
        return Deadline(min(ends)) if ends else None
