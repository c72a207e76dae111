"""Lines over a depth, each named where it ends."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from twotower.evaluate.html.frame import WIDTH, Frame, colour, line, path, picture, text
from twotower.evaluate.html.markup import Html, joined, tag
from twotower.evaluate.html.scale import Scale, spread
from twotower.evaluate.html.words import count, share, short

_POINTS = 160
"""A line is drawn through so many of its points at most: more than a screen shows."""

_LABEL = 34.0
"""Height of a curve's name and value."""


@dataclass(frozen=True)
class Curve:
    """A share at every depth from 1, with a dot at depth ``mark``; ``colour`` is the number of a stage."""

    name: str
    values: Sequence[float]
    mark: int
    colour: int
    dashed: bool = False  # behind the mark: what could be, not what is

    @property
    def at_mark(self) -> float:
        return self.values[self.mark - 1]


def curves(lines: Sequence[Curve], x_name: str, label: str) -> Html:
    """Shares over depth, the depth in powers of ten; every curve is named on the right."""
    deepest = max(2, *(len(curve.values) for curve in lines))
    highest = max(0.01, *(max(curve.values) for curve in lines))
    height, left, right = max(320.0, 80.0 + _LABEL * len(lines)), 48.0, WIDTH - 190.0
    x = Scale(1, deepest, left, right, log=True)
    y = Scale(0, min(1.0, highest * 1.08), height - 46, 14)
    frame = Frame(x, y, x_name, count, share)
    places = spread([y(curve.at_mark) for curve in lines], _LABEL, y.end + 12, y.start - 16)
    marks = [_curve(curve, x, y, place) for curve, place in zip(lines, places, strict=True)]
    return picture(height, frame.grid(), *marks, label=label)


def _curve(curve: Curve, x: Scale, y: Scale, place: float) -> Html:
    kind = colour(curve.colour)
    depths = thinned(len(curve.values), curve.mark)
    points = [(x(d), y(curve.values[d - 1])) for d in depths]
    solid = depths.index(curve.mark) + 1 if curve.dashed else len(depths)
    at = (x(curve.mark), y(curve.at_mark))
    worth = f"{share(curve.at_mark)} at {curve.mark:,}"
    dot = tag(
        "circle", tag("title", f"{curve.name}: {worth}"), cx=at[0], cy=at[1], r=4.5, class_=f"dot {kind}"
    )
    return joined(
        [
            *([path(points[solid - 1 :], f"beyond {kind}")] if solid < len(points) else []),
            path(points[:solid], f"line {kind}"),
            path([at, (x.end + 8, place - 4)], "leader"),
            line(at[0], at[1] + 6, at[0], y.start, f"drop {kind}"),
            dot,
            text(x.end + 12, place - 2, short(curve.name, 22), f"name coloured {kind}"),
            text(x.end + 12, place + 13, worth, "quiet"),
        ]
    )


def thinned(n: int, mark: int) -> list[int]:
    """Depths 1 to n to draw: evenly in their logarithm, with the first, the last and the mark among them.

    >>> thinned(5, 3)
    [1, 2, 3, 4, 5]
    """
    even = {round(n ** (i / _POINTS)) for i in range(_POINTS + 1)}
    return sorted({1, n, mark} | even)
