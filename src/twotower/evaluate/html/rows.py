"""Charts with a row for each thing compared: times, slices, and a diagram of reliability."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from twotower.evaluate.html.frame import WIDTH, Frame, colour, line, path, picture, text
from twotower.evaluate.html.markup import Html, joined, tag
from twotower.evaluate.html.scale import Scale
from twotower.evaluate.html.words import between, ms, plural, share, short
from twotower.evaluate.latency import Latency
from twotower.evaluate.reliability import Bin
from twotower.evaluate.slices import Slice
from twotower.metrics.significance import Interval

_ROW = 34.0


def times(rows: Sequence[tuple[str, Latency, int | None]], label: str) -> Html:
    """A bar to the median, a line on to the 99th percentile; the colour is the stage's, None for all."""
    left, right = 130.0, WIDTH - 170.0
    x = Scale(0, max(1e-6, *(time.p99_ms for _, time, _ in rows)), left, right)
    marks = []
    for i, (name, time, stage) in enumerate(rows):
        y = 8 + i * _ROW
        kind = "whole" if stage is None else f"bar {colour(stage)}"
        end, tail = x(time.p50_ms), x(time.p99_ms)
        told = tag("title", f"{name}: median {ms(time.p50_ms)}, 99% within {ms(time.p99_ms)}")
        marks += [
            text(left - 10, y + 16, short(name, 14), "name", "end"),
            line(end, y + 11, tail, y + 11, "tail"),
            line(tail, y + 5, tail, y + 17, "tail"),
            tag("rect", told, x=left, y=y, width=max(1.5, end - left), height=22.0, rx=3, class_=kind),
            text(tail + 10, y + 15, f"{ms(time.p50_ms)}, p99 {ms(time.p99_ms)}", "quiet"),
        ]
    return picture(8 + len(rows) * _ROW, *marks, label=label)


def intervals(slices: Sequence[Slice], stages: Sequence[str], label: str) -> Html:
    """A row per slice: for each stage a dot at the share alive behind it, with its interval."""
    left, right = 128.0, WIDTH - 132.0
    x = Scale(0, 1, left, right)
    step = 11.0 * len(stages) + 12
    marks: list[Html] = []
    y = 0.0
    for family, members in groupby(slices, key=lambda s: s.group.family):
        marks.append(text(0, y + 14, family, "head"))
        y += 24
        block = list(members)
        marks += [line(x(v), y, x(v), y + step * len(block), "grid") for v in x.ticks(4)]
        for found in block:
            marks.append(_slice(found, stages, x, y, step))
            y += step
        y += 14
    marks += [text(x(v), y + 4, share(v), "quiet", "middle") for v in x.ticks(4)]
    name = "share of a request's relevant items still alive"
    marks.append(text((left + right) / 2, y + 23, name, "quiet", "middle"))
    return picture(y + 30, *marks, label=label)


def _slice(found: Slice, stages: Sequence[str], x: Scale, y: float, step: float) -> Html:
    middle = y + step / 2 + 4
    marks = [
        line(0, y + step, WIDTH, y + step, "grid"),
        text(x.start - 12, middle, found.group.name, "name", "end"),
        text(x.end + 12, middle, plural(found.relevant, "relevant item"), "quiet"),
    ]
    if found.relevant == 0:
        marks.append(text(x.start + 8, middle, "nothing relevant in this slice", "quiet"))
    for i, interval in enumerate(found.survived):
        if interval is not None:
            told = f"after {stages[i]}: {between(interval)}"
            marks.append(_dot(interval, x, y + 12 + 11 * i, i, told))
    return joined(marks)


def _dot(interval: Interval, x: Scale, y: float, stage: int, told: str) -> Html:
    kind = colour(stage)
    dot = tag("circle", tag("title", told), cx=x(interval.mean), cy=y, r=4.5, class_=f"dot {kind}")
    return joined([line(x(interval.low), y, x(interval.high), y, f"line {kind}"), dot])


@dataclass(frozen=True)
class Square:
    """The size of a diagram with equal axes."""

    size: float = 340.0
    left: float = 50.0
    bottom: float = 46.0


def diagram(bins: Sequence[Bin], label: str, square: Square = Square()) -> Html:
    """Seen over stated, with the interval of what was seen; on the dashed line both are the same."""
    highest = min(1.0, 1.08 * max(max(b.stated, b.high) for b in bins))
    x = Scale(0, highest, square.left, square.size - 12)
    y = Scale(0, highest, square.size - square.bottom, 10)
    marks = [
        Frame(x, y, "stated probability; upwards: the rate seen", share, share).grid(),
        path([(x(0), y(0)), (x(highest), y(highest))], "ideal"),
        path([(x(b.stated), y(b.seen)) for b in bins], "line thin c0"),
    ]
    for b in bins:
        told = f"stated {share(b.stated)}, seen {share(b.seen)} of {b.rows:,}"
        marks.append(line(x(b.stated), y(b.low), x(b.stated), y(b.high), "line thin c0"))
        marks.append(tag("circle", tag("title", told), cx=x(b.stated), cy=y(b.seen), r=4.0, class_="dot c0"))
    return picture(square.size, *marks, label=label, width=square.size)
