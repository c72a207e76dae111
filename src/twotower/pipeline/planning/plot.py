"""A plan as a picture: what plans cost and are worth, which of them pay, and which one is chosen."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from twotower.data.atomic import replacing
from twotower.optional import require
from twotower.pipeline.planning.choice import Point
from twotower.pipeline.planning.plan import Plan

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CLOUD, FRONT, CHOSEN, QUIET = "#c9d3db", "#1b6ca8", "#c8553d", "#5f6b73"
STYLE = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": QUIET,
    "xtick.color": QUIET,
    "ytick.color": QUIET,
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "twotower",  # the same plan gives the same file
}


def draw_plan(plan: Plan, path: str | Path) -> None:
    """Write an SVG file.

    Raises
    ------
    MissingExtra
        matplotlib is not installed.
    StorageError
        The file cannot be written.
    """
    mpl = require("matplotlib", extra="bench")
    figures = require("matplotlib.figure", extra="bench")
    with mpl.rc_context(STYLE):
        figure = figures.Figure(figsize=(7.2, 4.4), layout="constrained")
        _draw(plan, figure.subplots())
        with replacing(Path(path)) as draft:
            figure.savefig(draft, format="svg", metadata={"Date": None})


def _draw(plan: Plan, axes: Axes) -> None:
    chosen = plan.choice.point
    axes.scatter(
        *_places(plan.survey.points),
        s=7,
        color=CLOUD,
        linewidths=0,
        label=f"{len(plan.survey.points):,} plans",
    )
    axes.plot(*_places(plan.front), color=FRONT, lw=1.2, drawstyle="steps-post", zorder=2)
    axes.scatter(*_places(plan.front), s=16, color=FRONT, zorder=3, label="no cheaper one is as good")
    axes.scatter(
        *_places([plan.survey.now]),
        s=44,
        facecolors="white",
        edgecolors=QUIET,
        zorder=4,
        label="the recipe's",
    )
    axes.scatter(*_places([chosen]), s=60, color=CHOSEN, zorder=5, label=f"chosen: {_name(chosen)}")
    if plan.limits.ms is not None:
        axes.axvline(plan.limits.ms, color=CHOSEN, lw=1, ls="--", label=f"at most {plan.limits.ms:g} ms")
    if plan.limits.floor is not None:
        axes.axhline(plan.limits.floor, color=CHOSEN, lw=1, ls=":", label=f"at least {plan.limits.floor:g}")
    axes.set_xlabel("predicted milliseconds of a request")
    axes.set_ylabel(f"{plan.survey.measure}, {plan.queries:,} validation queries")
    axes.legend(frameon=False, loc="lower right", fontsize=8)
    axes.grid(axis="y", color="#eceff1", lw=0.8)
    axes.set_axisbelow(True)


def _places(points: Sequence[Point]) -> tuple[list[float], list[float]]:
    return [point.ms for point in points], [point.quality for point in points]


def _name(point: Point) -> str:
    return " > ".join(f"{name} {k}" for name, k in point.depths.items())
