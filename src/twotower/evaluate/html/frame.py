"""The paper under a chart: its size, its axes and the words along them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from twotower.evaluate.html.markup import Html, joined, tag
from twotower.evaluate.html.scale import Scale

WIDTH = 720
"""All charts are as wide; the browser scales them to the page."""
COLOURS = 6
"""Stages have colours of their own; the seventh has the first one's again."""


def colour(stage: int) -> str:
    """The class that gives a mark the colour of the stage."""
    return f"c{stage % COLOURS}"


def picture(height: float, *marks: str, label: str, width: float = WIDTH) -> Html:
    """The chart as a whole; ``label`` says in words what it shows, for those who do not see it."""
    return tag(
        "svg", *marks, viewBox=f"0 0 {width:g} {height:g}", role="img", aria_label=label, class_="chart"
    )


def text(x: float, y: float, words: str, kind: str = "", anchor: str | None = None) -> Html:
    return tag("text", words, x=x, y=y, class_=kind or None, text_anchor=anchor)


def line(x1: float, y1: float, x2: float, y2: float, kind: str) -> Html:
    return tag("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=kind)


def path(points: Sequence[tuple[float, float]], kind: str) -> Html:
    """A line through points."""
    steps = " ".join(f"{x:.1f} {y:.1f}" for x, y in points)
    return tag("path", d=f"M{steps}", class_=kind)


@dataclass(frozen=True)
class Frame:
    """Two axes; y grows upwards. ``shown`` writes the values beside the grid."""

    x: Scale
    y: Scale
    x_name: str
    x_shown: Callable[[float], str]
    y_shown: Callable[[float], str]

    def grid(self) -> Html:
        """Faint lines with their values on the left, values and the name of x below."""
        left, right, bottom = self.x.start, self.x.end, self.y.start
        rows = [
            joined([line(left, self.y(v), right, self.y(v), "grid"), self._left(self.y(v), self.y_shown(v))])
            for v in self.y.ticks(4)
        ]
        columns = [text(self.x(v), bottom + 17, self.x_shown(v), "quiet", "middle") for v in self.x.ticks(5)]
        name = text((left + right) / 2, bottom + 36, self.x_name, "quiet", "middle")
        return joined([*rows, *columns, name])

    def _left(self, y: float, words: str) -> Html:
        return text(self.x.start - 8, y + 4, words, "quiet", "end")
