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
    degraded: str | None = None
    """Why the stage did not do its work: the output is then its fallback, or without some of its sources."""
    late: bool = False  # it took longer than it may, but could not be stopped

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
        """Of all stages; what was done before the first and after the last is not in it."""
        return sum(step.took_ms for step in self.steps)

    @property
    def degraded(self) -> tuple[str, ...]:
        """The stages that did not do their work, because time or their input was missing."""
        return tuple(step.stage for step in self.steps if step.degraded is not None)

    def dropped_by(self, row: int, key: int) -> str | None:
        """The stage that lost an item of query ``row``, the last one to; None when it was kept to the end."""
        lost = None
        for step in reversed(self.steps):
            if bool((step.output.keys[row] == key).any()):
                break
            lost = step.stage
        return lost

    def __str__(self) -> str:
        lines = []
        for step in self.steps:
            n_in = "catalogue" if step.n_in is None else f"{step.n_in:,}"
            line = f"{step.stage}: {n_in} -> {step.n_out:,} in {step.took_ms:.2f} ms"
            line += f", degraded: {step.degraded}" if step.degraded else ", late" if step.late else ""
            lines.append(line)
        return "\n".join(lines)
