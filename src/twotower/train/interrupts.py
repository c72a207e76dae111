"""Ctrl-C and a polite kill, turned into a question the loop asks between two steps."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any, Self


class Interrupted(KeyboardInterrupt):
    """Training was stopped from outside at a safe place; the message says how to go on.

    Not an `Exception`, as `KeyboardInterrupt` is not: nothing that repairs errors should swallow it.
    """

    def __init__(self, message: str, received: signal.Signals) -> None:
        super().__init__(message)
        self.received = received
        self.exit_code = 128 + received


class Interrupts:
    """Inside, the first SIGINT or SIGTERM is only remembered; a second one interrupts at once.

    Outside the main thread, where Python allows no handlers, it does nothing.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._remember)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _remember(self, number: int, _frame: FrameType | None) -> None:
        if self.received is not None:
            raise Interrupted("interrupted twice: stopped at once, nothing saved since", self.received)
        self.received = signal.Signals(number)
