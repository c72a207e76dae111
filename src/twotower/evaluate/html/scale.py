"""From values to places on the paper, and the round numbers an axis names."""

from __future__ import annotations

import math
from dataclasses import dataclass

_STEPS = (1.0, 2.0, 2.5, 5.0)


@dataclass(frozen=True)
class Scale:
    """Values ``low..high`` to pixels ``start..end``; values outside are drawn at the edge.

    >>> across = Scale(0, 50, 100, 200)
    >>> across(25), across(70), across.ticks(5)
    (150.0, 200.0, [0.0, 10.0, 20.0, 30.0, 40.0, 50.0])
    >>> Scale(1, 1000, 0, 300, log=True)(10)
    100.0
    """

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        low, high, value = self.low, self.high, min(max(value, self.low), self.high)
        if self.log:
            low, high, value = math.log(low), math.log(high), math.log(value)
        part = (value - low) / (high - low) if high > low else 0.0
        return round(self.start + part * (self.end - self.start), 6)

    def ticks(self, about: int = 5) -> list[float]:
        """Round values within the scale: powers of ten where it is logarithmic, else ``about`` steps.

        >>> Scale(1, 1500, 0, 1, log=True).ticks()
        [1.0, 10.0, 100.0, 1000.0]
        """
        if self.log:
            first, last = math.ceil(math.log10(self.low) - 1e-9), math.floor(math.log10(self.high) + 1e-9)
            return [10.0**power for power in range(first, last + 1)]
        if self.high <= self.low:
            return [self.low]
        rough = (self.high - self.low) / about
        unit = 10 ** math.floor(math.log10(rough))
        step = next((s * unit for s in _STEPS if s * unit >= rough * (1 - 1e-9)), 10 * unit)
        first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
        return [round(n * step, 12) for n in range(first, last + 1)]


def spread(places: list[float], gap: float, low: float, high: float) -> list[float]:
    """Places of labels moved apart to at least ``gap``, as near as can be, in the order they were in.

    >>> spread([50, 52, 10], 14, 0, 100)
    [44.0, 58.0, 10.0]
    """
    order = sorted(range(len(places)), key=lambda i: places[i])
    groups: list[tuple[float, int]] = []  # center and size of labels that touch
    for i in order:
        center, size = float(places[i]), 1
        while groups and center - groups[-1][0] < gap * (size + groups[-1][1]) / 2:
            other, n = groups.pop()
            center, size = (center * size + other * n) / (size + n), size + n
        groups.append((center, size))
    moved = [center + gap * (j - (size - 1) / 2) for center, size in groups for j in range(size)]
    over = max(0.0, moved[-1] - high) if moved else 0.0
    moved = [max(low + gap * i, place - over) for i, place in enumerate(moved)]
    out = [0.0] * len(places)
    for place, i in zip(moved, order, strict=True):
        out[i] = place
    return out
