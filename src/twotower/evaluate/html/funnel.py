"""The funnel drawn to scale, and what came of the relevant items."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from twotower.evaluate.html.frame import WIDTH, colour, line, picture, text
from twotower.evaluate.html.markup import Html, joined, tag
from twotower.evaluate.html.scale import Scale
from twotower.evaluate.html.words import count, share, short

_CENTER, _HALF, _BAR, _SLOPE, _TOP = 226.0, 214.0, 34.0, 30.0, 30.0


@dataclass(frozen=True)
class Level:
    """One width of the funnel: so many items, a name, and what to say beside it."""

    name: str
    items: float
    beside: str
    colour: int | None  # the number of a stage; None for the catalogue


def funnel(levels: Sequence[Level], label: str) -> Html:
    """Bars as wide as the logarithm of their number of items, 1 at the middle, joined by slopes."""
    widest = max(2.0, *(level.items for level in levels))
    half = Scale(1, widest, 0, _HALF, log=True)
    height = _TOP + len(levels) * (_BAR + _SLOPE) - _SLOPE + 12
    marks = [_guide(_CENTER + side * half(v), v, height) for v in half.ticks()[1:] for side in (-1, 1)]
    marks.append(_guide(_CENTER, 1.0, height))
    before: float | None = None
    for number, level in enumerate(levels):
        top = _TOP + number * (_BAR + _SLOPE)
        own = max(2.5, half(max(1.0, level.items)))
        if before is not None:
            slope = [(-before, -_SLOPE), (before, -_SLOPE), (own, 0.0), (-own, 0.0)]
            points = " ".join(f"{_CENTER + x:.1f},{top + y:.1f}" for x, y in slope)
            marks.append(tag("polygon", points=points, class_="slope"))
        kind = "whole" if level.colour is None else f"bar {colour(level.colour)}"
        told = tag("title", f"{level.name}: {count(level.items)} items")
        marks.append(tag("rect", told, x=_CENTER - own, y=top, width=2 * own, height=_BAR, rx=3, class_=kind))
        words = f"{short(level.name, 22)}: {count(level.items)}"
        marks.append(text(_CENTER + _HALF + 26, top + 14, words, "name"))
        marks.append(text(_CENTER + _HALF + 26, top + 30, level.beside, "quiet"))
        before = own
    return picture(height, *marks, label=label)


def _guide(x: float, value: float, height: float) -> Html:
    return joined(
        [line(x, _TOP - 8, x, height - 6, "grid"), text(x, _TOP - 13, count(value), "quiet", "middle")]
    )


@dataclass(frozen=True)
class Part:
    """A share of a whole under its name; ``colour`` is the number of the stage it is laid to, or None."""

    name: str
    n: int
    colour: int | None


def has_room(part: Part, total: int) -> bool:
    """Whether the part's name fits below it; else it must be told elsewhere."""
    return WIDTH * part.n / max(1, total) > 8 * max(len(part.name), 12)


def outcome(parts: Sequence[Part], label: str) -> Html:
    """One bar cut into parts, each named below as far as there is room."""
    total, height, left = max(1, sum(part.n for part in parts)), 76.0, 0.0
    marks: list[Html] = []
    for part in parts:
        width = WIDTH * part.n / total
        kind = "kept" if part.colour is None else f"bar {colour(part.colour)}"
        told = tag("title", f"{part.name}: {part.n:,} ({share(part.n / total)})")
        marks.append(
            tag("rect", told, x=left, y=0.0, width=max(0.0, width - 2), height=36.0, rx=3, class_=kind)
        )
        if has_room(part, total):
            marks.append(text(left + 1, 53, part.name, "name"))
            marks.append(text(left + 1, 69, f"{part.n:,} ({share(part.n / total)})", "quiet"))
        left += width
    return picture(height, *marks, label=label)


def histogram(bands: Sequence[str], counts: Sequence[int], stage: int, label: str, columns: int) -> Html:
    """Bars side by side, each with its number on it; as wide as if there were ``columns`` of them."""
    height, top, bottom = 128.0, 22.0, 100.0
    highest = max(1, *counts)
    step = WIDTH / max(columns, len(counts))
    marks = [line(0, bottom, WIDTH, bottom, "axis")]
    for i, (band, n) in enumerate(zip(bands, counts, strict=True)):
        tall = (bottom - top) * n / highest
        x = i * step + step * 0.1
        if n:
            marks.append(
                tag(
                    "rect",
                    tag("title", f"{band}: {n:,}"),
                    x=x,
                    y=bottom - max(1.5, tall),
                    width=step * 0.8,
                    height=max(1.5, tall),
                    rx=3,
                    class_=f"bar {colour(stage)}",
                )
            )
        marks.append(text(x + step * 0.4, bottom - max(1.5, tall) - 6, f"{n:,}", "", "middle"))
        marks.append(text(x + step * 0.4, bottom + 18, band, "quiet", "middle"))
    return picture(height, *marks, label=label)
