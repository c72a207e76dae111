"""What training and encoding tell the world, as values; whoever listens is a function of one event."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from twotower.errors import StorageError


@dataclass(frozen=True)
class Event:
    """Base of all events. Epochs count from 1, steps are those taken so far."""

    @property
    def kind(self) -> str:
        return type(self).__name__.lower()


@dataclass(frozen=True)
class Started(Event):
    device: str
    reason: str  # why this device
    precision: str
    parameters: int
    sparse_parameters: int  # of these: in tables updated row by row
    epochs: int
    steps_per_epoch: int | None
    total_steps: int | None
    resumed_at_step: int  # 0 for a fresh run


@dataclass(frozen=True)
class Step(Event):
    epoch: int
    step: int
    total_steps: int | None
    losses: Mapping[str, float]  # mean since the last report
    gradient_norm: float  # of this step, before clipping
    learning_rate: float
    examples_per_second: float  # since the last report
    eta_s: float | None

    @property
    def loss(self) -> float:
        return sum(self.losses.values())


@dataclass(frozen=True)
class EpochEnded(Event):
    epoch: int
    step: int
    seconds: float  # of the run so far
    measured: Mapping[str, float]  # mean losses as loss/<name>, and metrics when they were due


@dataclass(frozen=True)
class Validated(Event):
    epoch: int
    step: int
    metrics: Mapping[str, float]
    metric: str  # the one that selects
    best_value: float
    improved: bool
    misses: int  # validations since the best one


@dataclass(frozen=True)
class Saved(Event):
    step: int
    path: str


@dataclass(frozen=True)
class Stopped(Event):
    epoch: int
    step: int
    because: str
    best_value: float | None
    best_epoch: int | None
    seconds: float
    examples_per_second: float


@dataclass(frozen=True)
class Encoding(Event):
    """How far a long encoding of items is; the last one has ``done == total``."""

    what: str  # such as "items of minilm"
    done: int
    total: int
    resumed_at: int  # items that an earlier, interrupted build had encoded
    seconds: float  # since this build began
    per_second: float  # items, since this build began
    eta_s: float | None


Listener = Callable[[Event], None]


def silent(_event: Event) -> None:
    """Listens to nothing."""


class JsonLines:
    """Appends every event as one line of JSON: ``{"time": ..., "event": "step", "step": 20, ...}``."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __call__(self, event: Event) -> None:
        line = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "event": event.kind}
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with open(self.path, "a", encoding="utf-8") as file:
                file.write(json.dumps({**line, **asdict(event)}) + "\n")
        except OSError as error:
            raise StorageError(f"{self.path}: could not be written ({error})") from error


def all_of(*listeners: Listener) -> Listener:
    """One listener that tells several."""

    def tell(event: Event) -> None:
        for listener in listeners:
            listener(event)

    return tell
