"""Training seen from a terminal: a bar that moves, or one line per epoch where nothing can move."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any, TextIO

from twotower.train.events import EpochEnded, Event, Started, Step, Stopped


class Progress:
    """A listener of training events that prints them; use it as a context manager, or just call it.

    On a terminal a bar shows step, loss, examples per second and the time left; elsewhere (files, pipes)
    only the start, one line per epoch and the end are printed.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as Bar

        self._console = Console(file=stream or sys.stderr, highlight=False, soft_wrap=True)
        text = TextColumn("{task.description}")
        self._bar = Bar(text, BarColumn(), TimeElapsedColumn(), console=self._console, transient=True)
        self._task: Any = None

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def __call__(self, event: Event) -> None:
        if isinstance(event, Started):
            resumed = f", resumed at step {event.resumed_at_step:,}" if event.resumed_at_step else ""
            size = f"{event.parameters:,} parameters"
            self._print(f"training on {event.device} ({event.reason}), {event.precision}, {size}{resumed}")
            if self._console.is_terminal:
                self._task = self._bar.add_task("", total=event.total_steps, completed=event.resumed_at_step)
                self._bar.start()
        elif isinstance(event, Step) and self._task is not None:
            left = "" if event.eta_s is None else f"  {_clock(event.eta_s)} left"
            speed = f"{event.examples_per_second:,.0f}/s"
            words = f"epoch {event.epoch}  step {event.step:,}  loss {event.loss:.4f}  {speed}{left}"
            self._bar.update(self._task, completed=event.step, description=words)
        elif isinstance(event, EpochEnded):
            self._print(f"epoch {event.epoch}  {_values(event.measured)}  {_clock(event.seconds)}")
        elif isinstance(event, Stopped):
            self._stop()
            best = (
                ""
                if event.best_value is None
                else f"; best {event.best_value:.4f} in epoch {event.best_epoch}"
            )
            speed = f"{event.examples_per_second:,.0f} examples/s"
            self._print(f"stopped: {event.because}{best}; {_clock(event.seconds)}, {speed}")

    def _stop(self) -> None:
        if self._task is not None:  # a bar that never moved would leave an empty line
            self._bar.stop()

    def _print(self, line: str) -> None:
        self._console.print(line, markup=False)


def _values(measured: Mapping[str, float]) -> str:
    return "  ".join(f"{name} {value:.4f}" for name, value in measured.items())


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
