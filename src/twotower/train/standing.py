"""Where a training run stands: all that decides how it goes on, besides tensors."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Self


@dataclass
class Tally:
    """Sums over some steps.

    >>> tally = Tally()
    >>> tally.count({"bce": 0.5}, examples=8); tally.count({"bce": 0.25}, examples=8)
    >>> tally.mean_losses(), tally.examples
    ({'bce': 0.375}, 16)
    """

    steps: int = 0
    examples: int = 0
    losses: dict[str, float] = field(default_factory=dict)

    def count(self, losses: dict[str, float], examples: int) -> None:
        self.steps += 1
        self.examples += examples
        for name, value in losses.items():
            self.losses[name] = self.losses.get(name, 0.0) + value

    def mean_losses(self) -> dict[str, float]:
        return {name: total / self.steps for name, total in self.losses.items()}


@dataclass
class Standing:
    """Counters of one run, the best so far, and what was measured. Plain values: saved as JSON."""

    epoch: int = 0  # finished ones; what people read counts from 1, see `shown_epoch`
    step_in_epoch: int = 0
    step: int = 0
    examples: int = 0
    seconds: float = 0.0  # wall clock, over all sessions of the run
    train_seconds: float = 0.0  # of these: batches and steps, without validation and saving
    best_value: float | None = None
    best_epoch: int | None = None
    best_step: int | None = None
    misses: int = 0  # validations since the best one
    validated_step: int | None = None
    tally: Tally = field(default_factory=Tally)  # since the last row of the history
    history: list[dict[str, float]] = field(default_factory=list)
    stopped_because: str = ""

    @classmethod
    def of(cls, plain: dict[str, Any]) -> Self:
        """From what ``asdict`` gave."""
        return cls(**{**plain, "tally": Tally(**plain["tally"])})

    @property
    def shown_epoch(self) -> int:
        """The epoch of the latest step, counted from 1."""
        return self.epoch + (self.step_in_epoch > 0 or self.epoch == 0)

    def count(self, losses: dict[str, float], examples: int) -> None:
        """One more step was taken."""
        self.step += 1
        self.step_in_epoch += 1
        self.examples += examples
        self.tally.count(losses, examples)

    def note(self, metrics: dict[str, float]) -> None:
        """Add a row to the history: mean losses since the last row, and what was measured now."""
        means = {f"loss/{name}": mean for name, mean in self.tally.mean_losses().items()}
        self.history.append({"epoch": self.shown_epoch, "step": self.step, **means, **metrics})
        self.tally = Tally()

    def judge(self, value: float, minimise: bool) -> bool:
        """Whether ``value`` beats the best so far; remembers it, or counts a miss. A tie is a miss."""
        self.validated_step = self.step
        better = self.best_value is None or (value < self.best_value if minimise else value > self.best_value)
        if better:
            self.best_value, self.best_epoch, self.best_step = value, self.shown_epoch, self.step
        self.misses = 0 if better else self.misses + 1
        return better
