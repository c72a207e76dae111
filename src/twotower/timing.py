"""Wall-clock measurements that quote medians and tails, never means of noisy runs."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Stopwatch:
    """Collects durations in milliseconds.

    >>> watch = Stopwatch()
    >>> watch.record(1.0); watch.record(3.0); watch.record(2.0)
    >>> watch.percentile(50)
    2.0
    """

    def __init__(self) -> None:
        self.durations_ms: list[float] = []

    def record(self, duration_ms: float) -> None:
        self.durations_ms.append(duration_ms)

    @contextmanager
    def measure(self) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.record((time.perf_counter() - start) * 1e3)

    def percentile(self, percent: float) -> float:
        """Nearest-rank percentile of what was recorded; NaN when nothing was."""
        if not self.durations_ms:
            return float("nan")
        ordered = sorted(self.durations_ms)
        rank = max(1, -(-len(ordered) * percent // 100))  # ceil without floats creeping in
        return ordered[int(rank) - 1]
