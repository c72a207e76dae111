"""The pictures of the page, as SVG."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.transforms import Bbox

from benchmarks.pre_ranking.claims import Verdict

DECOUPLED, JOINT, FRONT, GREY = "#1b6ca8", "#c8553d", "#8a8a8a", "#b8b8b8"
VERDICTS = {
    "confirmed": "#2f7d4f",
    "refuted": "#c8553d",
    "not told apart": "#8a8a8a",
    "too few seeds": "#c9c9c9",
}
plt.rcParams.update(
    {
        "font.size": 9,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "svg.hashsalt": "twotower",  # the same results give the same file
        "figure.facecolor": "white",
    }
)
SHOWN = 0.012
"""How far below the best AUC a plot reaches; what lies lower is named at its edge."""


@dataclass(frozen=True)
class Point:
    """One model at one storage depth."""

    name: str
    decoupled: bool
    cost: float
    auc: float


def pareto(panels: dict[str, list[Point]], path: Path) -> None:
    """AUC against cost, one panel for each kind of cost: its axis label -> the points."""
    figure, axes = plt.subplots(
        1, len(panels), figsize=(6.6 * len(panels), 6.4), sharey=True, layout="constrained", squeeze=False
    )
    for axis, (label, points) in zip(axes[0], panels.items(), strict=True):
        best = max(point.auc for point in points)
        shown = [point for point in points if point.auc > best - SHOWN]
        axis.set_xscale("log")
        low, high = min(p.cost for p in shown), max(p.cost for p in shown)
        axis.set_xlim(low / 3, high * 3)
        bottom = min(point.auc for point in shown)
        axis.set_ylim(bottom - 0.1 * (best - bottom + 1e-4), best + 0.1 * (best - bottom + 1e-4))
        axis.set_xlabel(label)
        axis.grid(color="#eeeeee", zorder=0)
        edge = front(shown)
        axis.step([p.cost for p in edge], [p.auc for p in edge], where="post", color=FRONT, lw=1, zorder=1)
        for decoupled, colour, marker in ((True, DECOUPLED, "o"), (False, JOINT, "s")):
            kind = [p for p in shown if p.decoupled == decoupled]
            axis.scatter(
                [p.cost for p in kind],
                [p.auc for p in kind],
                color=colour,
                marker=marker,
                s=26,
                zorder=3,
                label="two towers" if decoupled else "query and item mixed",
            )
        _label(axis, shown, {p.name for p in edge})
        low_ones = sorted(set(points) - set(shown), key=lambda p: -p.auc)
        if low_ones:
            text = "below: " + ", ".join(f"{p.name} {p.auc:.3f}" for p in low_ones)
            axis.text(0.99, 0.015, text, transform=axis.transAxes, ha="right", color=FRONT, fontsize=8)
    axes[0][0].set_ylabel("test AUC")
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, frameon=False, loc="outside upper center", ncols=2)
    _save(figure, path)


def front(points: Sequence[Point]) -> list[Point]:
    """The points that none beats in both cost and AUC, by rising cost.

    >>> points = [Point("a", True, 1, 0.8), Point("b", True, 2, 0.7), Point("c", True, 3, 0.9)]
    >>> [point.name for point in front(points)]
    ['a', 'c']
    """
    kept: list[Point] = []
    for point in sorted(points, key=lambda p: (p.cost, -p.auc)):
        if not kept or point.auc > kept[-1].auc:
            kept.append(point)
    return kept


def forest(verdicts: list[Verdict], path: Path) -> None:
    """Each claim's difference in AUC with its interval."""
    figure, axis = plt.subplots(figsize=(8, 0.34 * len(verdicts) + 1), layout="constrained")
    for place, verdict in enumerate(reversed(verdicts)):
        colour = VERDICTS[verdict.word]
        axis.plot([verdict.auc.low, verdict.auc.high], [place, place], color=colour, lw=2.2, alpha=0.55)
        axis.plot(verdict.auc.mean, place, "o", color=colour, ms=5)
    axis.axvline(0, color="#444444", lw=0.8)
    axis.set_yticks(range(len(verdicts)), [v.claim.text for v in reversed(verdicts)])
    axis.tick_params(axis="y", length=0)
    axis.grid(axis="x", color="#eeeeee")
    axis.set_xlabel("difference in test AUC, 95 % interval over users")
    for word, colour in VERDICTS.items():
        axis.plot([], [], "o-", color=colour, label=word)
    figure.legend(frameon=False, fontsize=8, loc="outside upper right", ncols=4)
    _save(figure, path)


def clouds(panels: dict[str, dict[str, Any]], path: Path) -> None:
    """Panel title -> name of a cloud -> (n, 2) places; all panels have the clouds of the first."""
    colours = dict(zip(next(iter(panels.values())), (GREY, DECOUPLED, JOINT), strict=False))
    figure, axes = plt.subplots(
        1, len(panels), figsize=(5.2 * len(panels), 5), layout="constrained", squeeze=False
    )
    for axis, (title, parts) in zip(axes[0], panels.items(), strict=True):
        for name, places in parts.items():
            axis.scatter(places[:, 0], places[:, 1], s=5, alpha=0.6, lw=0, color=colours[name], label=name)
        axis.set_title(title, fontsize=10)
        axis.set_xticks([])
        axis.set_yticks([])
        axis.spines[:].set_visible(False)
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, frameon=False, markerscale=3, loc="outside upper center", ncols=3)
    _save(figure, path)


_PLACES = [  # of a label around its point, in points: what is tried in turn
    (6, 3, "left"),
    (-6, 3, "right"),
    (6, -9, "left"),
    (-6, -9, "right"),
    (0, 8, "center"),
    (0, -14, "center"),
    (14, 12, "left"),
    (14, -18, "left"),
    (-14, 12, "right"),
    (-14, -18, "right"),
    (22, 22, "left"),
    (-22, 22, "right"),
    (22, -28, "left"),
    (-22, -28, "right"),
    (34, 34, "left"),
    (34, -40, "left"),
    (-34, 34, "right"),
    (-34, -40, "right"),
    (46, 50, "left"),
    (46, -60, "left"),
    (-46, 50, "right"),
    (-46, -60, "right"),
    (0, 70, "center"),
    (0, -80, "center"),
]


def _label(axis: Axes, points: list[Point], bold: set[str]) -> None:
    """Name the points, each where its name covers neither another name nor a point."""
    figure = axis.figure
    figure.canvas.draw()
    at = {p.name: axis.transData.transform((p.cost, p.auc)) for p in points}
    taken = [Bbox.from_bounds(x - 5, y - 5, 10, 10) for x, y in at.values()]
    inside = axis.get_window_extent()
    for point in sorted(points, key=lambda p: (p.name not in bold, -p.auc)):
        own = Bbox.from_bounds(*(at[point.name] - 5), 10, 10)
        for x, y, side in _PLACES:
            text = axis.annotate(
                point.name,
                (point.cost, point.auc),
                (x, y),
                textcoords="offset points",
                ha=side,
                fontsize=8,
                fontweight="bold" if point.name in bold else "normal",
                arrowprops={"arrowstyle": "-", "color": GREY, "lw": 0.6, "shrinkB": 3}
                if abs(y) > 10
                else None,
                zorder=4,
            )
            box = text.get_window_extent()
            free = not any(box.overlaps(other) for other in taken if other.bounds != own.bounds)
            if free and inside.x0 <= box.x0 and box.x1 <= inside.x1 and inside.y0 <= box.y0:
                break
            text.remove()
        else:
            continue  # too crowded: the table names it
        taken.append(box)


def _save(figure: Any, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None, dpi=150)
    plt.close(figure)
