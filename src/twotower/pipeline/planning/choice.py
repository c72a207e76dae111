"""Choose depths and storage from what they cost and what they are worth."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from pydantic import Field as Option
from pydantic import PositiveFloat
from torch import Tensor

from twotower.config import Config
from twotower.errors import ConfigError
from twotower.metrics.significance import Interval, paired_bootstrap
from twotower.pipeline.planning.costs import Costs
from twotower.pipeline.planning.quality import Depths
from twotower.pipeline.planning.storage import AS_IT_IS

SAMPLES = 2000
"""Bootstrap samples behind an interval; a choice needs its ends only."""


class Limits(Config):
    """What a plan may cost, and by which rule it is chosen among those that may.

    The best on validation queries is partly the luckiest. ``safe``, the default, is the cheapest plan of
    which these queries show that it loses no more than ``margin`` against the best: the whole 95% interval of
    the paired relative difference lies above ``-margin``. With few queries nothing can be shown, and it is
    the best itself. ``best`` takes the best in any case. ``equal`` takes the cheapest that is not shown to be
    worse (the interval reaches zero): the boldest, as with few queries much worse plans are not shown to be.
    """

    ms: PositiveFloat | None = Option(None, description="predicted median milliseconds of a request, at most")
    bytes_per_item: PositiveFloat | None = Option(None, description="of all stages together, at most")
    floor: float | None = Option(
        None, description="quality at least; the cheapest plan with it is chosen, and rule does not matter"
    )
    rule: Literal["safe", "best", "equal"] = "safe"
    margin: float = Option(0.005, ge=0, lt=1, description="safe: share of the best quality that may be lost")


@dataclass(frozen=True)
class Point:
    """A plan: what every stage hands on and how deep it stores, what that costs, and what it is worth."""

    depths: Mapping[str, int]
    stores: Mapping[str, str]  # of the stages that offer several
    ms: float
    bytes_per_item: float
    quality: float  # mean over the queries
    row: int  # of the quality matrix: plans that differ in storage share it

    @property
    def cost(self) -> tuple[float, float, tuple[int, ...]]:
        """Cheaper first: in time, then in memory, then in depth."""
        return self.ms, self.bytes_per_item, tuple(self.depths.values())


@dataclass(frozen=True)
class Choice:
    """The chosen plan, and why."""

    point: Point
    best: Point  # of highest quality within the limits
    interval: Interval | None  # of the relative difference between both; None where they are one
    reason: str


def points_of(costs: Costs, grid: Sequence[Depths], values: Tensor) -> list[Point]:
    """Every depth of the grid at every storage depth; ``values`` (plans, Q) are those of the grid."""
    offered = {name: list(lines) for name, lines in costs.lines.items() if list(lines) != [AS_IT_IS]}
    stores = [dict(zip(offered, choice, strict=True)) for choice in itertools.product(*offered.values())]
    return [
        Point(depths, store, costs.ms(depths, store), costs.bytes(store), quality, row)
        for row, (depths, quality) in enumerate(zip(grid, values.mean(1).tolist(), strict=True))
        for store in stores
    ]


def front_of(points: Iterable[Point]) -> list[Point]:
    """The points that no cheaper one equals, cheapest first."""
    front: list[Point] = []
    for point in sorted(points, key=lambda point: (point.ms, -point.quality, point.cost)):
        if not front or point.quality > front[-1].quality:
            front.append(point)
    return front


def choose(points: Sequence[Point], values: Tensor, limits: Limits) -> Choice:
    """The plan that ``limits`` asks for; of equal ones the cheapest.

    Raises
    ------
    ConfigError
        No plan is within the limits; says what the nearest one costs or reaches.
    """
    allowed = _within(points, limits)
    best = min(allowed, key=lambda point: (-point.quality, point.cost))
    if limits.floor is not None:
        enough = [point for point in allowed if point.quality >= limits.floor]
        if not enough:
            raise ConfigError(
                f"no plan within the limits reaches {limits.floor:g}; the best has {best.quality:.4f} "
                f"and takes {best.ms:.3g} ms"
            )
        chosen = min(enough, key=lambda point: point.cost)
        interval = _difference(chosen, best, values)
        return Choice(chosen, best, interval, f"the cheapest of at least {limits.floor:g}")
    if limits.rule == "best":
        return Choice(best, best, None, "the best within the limits; of equals the cheapest")
    for point in sorted(allowed, key=lambda point: point.cost):
        if point.row == best.row:
            break
        if limits.rule == "safe" and point.quality < best.quality * (1 - limits.margin):
            continue  # its interval holds its mean
        interval = _difference(point, best, values)
        assert interval is not None
        if limits.rule == "safe" and interval.low > -limits.margin:
            return Choice(
                point,
                best,
                interval,
                f"the cheapest that is shown to lose at most {limits.margin:.1%} of the best",
            )
        if limits.rule == "equal" and interval.high >= 0:
            return Choice(point, best, interval, "the cheapest that is not shown to be worse than the best")
    return Choice(best, best, None, "the best; no cheaper plan is shown to be as good")


def _within(points: Sequence[Point], limits: Limits) -> list[Point]:
    small = [p for p in points if limits.bytes_per_item is None or p.bytes_per_item <= limits.bytes_per_item]
    if not small:
        least = min(points, key=lambda point: point.bytes_per_item)
        raise ConfigError(
            f"no plan keeps at most {limits.bytes_per_item:g} bytes per item; "
            f"the smallest keeps {least.bytes_per_item:g}"
        )
    fast = [p for p in small if limits.ms is None or p.ms <= limits.ms]
    if not fast:
        least = min(small, key=lambda point: point.cost)
        raise ConfigError(
            f"no plan takes at most {limits.ms:g} ms; the fastest takes {least.ms:.3g} "
            f"({', '.join(f'{name} {k}' for name, k in least.depths.items())})"
        )
    return fast


def _difference(point: Point, best: Point, values: Tensor) -> Interval | None:
    """How much better than the best, as a share of it; None where both answer the same."""
    if point.row == best.row:
        return None
    return paired_bootstrap(values[point.row], values[best.row], relative=True, samples=SAMPLES)
