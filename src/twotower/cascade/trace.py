"""What happened to a request: candidates in and out of every stage, and the time each took."""

from __future__ import annotations

from dataclasses import dataclass

from twotower.types import Candidates


@dataclass(frozen=True)
class Step:
    """One stage's part of a trace."""

    stage: str
    asked: int
    took_ms: float
    output: Candidates
    given: Candidates | None  # None for the stage that retrieves

    @property
    def n_in(self) -> int | None:
        """Candidates over all queries; None where the stage had the whole catalogue."""
        return None if self.given is None else int(self.given.counts.sum())

    @property
    def n_out(self) -> int:
        return int(self.output.counts.sum())


@dataclass(frozen=True)
class Trace:
    """The steps of one request, in order."""

    steps: tuple[Step, ...]

    @property
    def took_ms(self) -> float:
        return sum(step.took_ms for step in self.steps)

    def dropped_by(self, row: int, key: int) -> str | None:
        """The stage that lost an item of query ``row``; None when it was kept to the end."""
        for step in self.steps:
            if not bool((step.output.keys[row] == key).any()):
                return step.stage
        return None

    def __str__(self) -> str:
        lines = []
        for step in self.steps:
            n_in = "catalogue" if step.n_in is None else f"{step.n_in:,}"
            lines.append(f"{step.stage}: {n_in} -> {step.n_out:,} in {step.took_ms:.2f} ms")
        return "\n".join(lines)
