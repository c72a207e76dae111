"""Training and encoding seen from a terminal: a bar that moves, or a line now and then where nothing can."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any, TextIO

from twotower.train.events import Encoding, EpochEnded, Event, Started, Step, Stopped

LINE_EVERY_S = 10.0
"""Where nothing can move, the encoding of items is told of this often."""


class Progress:
    """A listener that prints events; use it as a context manager, or just call it.

    On a terminal a bar shows step, loss, examples per second and the time left, another one how many items
    are encoded; elsewhere (files, pipes) only the start, one line per epoch and the end are printed, and a
    line every ten seconds of a long encoding.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as Bar

        self._console = Console(file=stream or sys.stderr, highlight=False, soft_wrap=True)
        text = TextColumn("{task.description}")
        self._bar = Bar(text, BarColumn(), TimeElapsedColumn(), console=self._console, transient=True)
        self._training: Any = None  # the bar's tasks, while there is something to show
        self._encoding: Any = None
        self._next_line_s = 0.0

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        if self._training is not None or self._encoding is not None:
            self._bar.stop()  # or the terminal would stay without a cursor

    def __call__(self, event: Event) -> None:
        if isinstance(event, Started):
            resumed = f", resumed at step {event.resumed_at_step:,}" if event.resumed_at_step else ""
            size = f"{event.parameters:,} parameters"
            self._print(f"training on {event.device} ({event.reason}), {event.precision}, {size}{resumed}")
            if self._console.is_terminal:
                self._training = self._shown(event.total_steps, event.resumed_at_step)
        elif isinstance(event, Step) and self._training is not None:
            speed = f"{event.examples_per_second:,.0f}/s{_left(event.eta_s)}"
            words = f"epoch {event.epoch}  step {event.step:,}  loss {event.loss:.4f}  {speed}"
            self._bar.update(self._training, completed=event.step, description=words)
        elif isinstance(event, EpochEnded):
            self._print(f"epoch {event.epoch}  {_values(event.measured)}  {_clock(event.seconds)}")
        elif isinstance(event, Stopped):
            self._hide(self._training)
            self._training = None
            best = (
                ""
                if event.best_value is None
                else f"; best {event.best_value:.4f} in epoch {event.best_epoch}"
            )
            speed = f"{event.examples_per_second:,.0f} examples/s"
            self._print(f"stopped: {event.because}{best}; {_clock(event.seconds)}, {speed}")
        elif isinstance(event, Encoding):
            self._encoded(event)

    def _encoded(self, event: Encoding) -> None:
        ended = event.done == event.total
        resumed = f", {event.resumed_at:,} of them before" if event.resumed_at else ""
        speed = f"{event.per_second:,.0f}/s" if event.per_second >= 10 else f"{event.per_second:.2g}/s"
        if ended:
            self._hide(self._encoding)
            self._encoding, self._next_line_s = None, 0.0
            words = f"{event.total:,} {event.what} encoded{resumed}"
            self._print(f"{words}; {_clock(event.seconds)}, {speed}")
            return
        words = (
            f"encoding {event.what}  {event.done:,} of {event.total:,}{resumed}  {speed}{_left(event.eta_s)}"
        )
        if self._console.is_terminal:
            if self._encoding is None:
                self._encoding = self._shown(event.total, event.resumed_at)
            self._bar.update(self._encoding, completed=event.done, description=words)
        elif event.seconds >= self._next_line_s:
            self._next_line_s = event.seconds + LINE_EVERY_S
            self._print(words)

    def _shown(self, total: int | None, completed: int) -> Any:
        """A new task of the bar, which runs from now on."""
        task = self._bar.add_task("", total=total, completed=completed)
        self._bar.start()
        return task

    def _hide(self, task: Any) -> None:
        """The task is over; the bar goes when it was the last one."""
        if task is None:  # a bar that never moved would leave an empty line
            return
        if len(self._bar.tasks) == 1:
            self._bar.stop()
        self._bar.remove_task(task)

    def _print(self, line: str) -> None:
        self._console.print(line, markup=False)


def _values(measured: Mapping[str, float]) -> str:
    return "  ".join(f"{name} {value:.4f}" for name, value in measured.items())


def _left(seconds: float | None) -> str:
    return "" if seconds is None else f"  {_clock(seconds)} left"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
