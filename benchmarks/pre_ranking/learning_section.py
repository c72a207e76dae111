"""The part of the page on learning to pre-rank."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from typing import Any

from benchmarks.pre_ranking.data import DATA
from benchmarks.pre_ranking.markdown import markdown
from benchmarks.pre_ranking.results import Cell, spread

ORDERS = ("retriever's order", "ranker itself")
WAYS = ("pointwise", "exposures", "full-stage", "full-stage+distil")
"""The systems of the section on learning, as they stand in its tables."""
LEARNING = (
    "One retriever serves 500 candidates, one ranker orders them; between them the same two-tower model"
    " keeps 100, taught in four ways: `pointwise` by all training exposures, `exposures` by those of "
    "replayed requests, `full-stage` by these and by what was ranked, pre-ranked, retrieved or never "
    "retrieved, `full-stage+distil` by the ranker's scores besides. What counts is not AUC on exposures"
    " but which of the served candidates it keeps: the share of held-out positives (kept), the overlap "
    "of its first 20 with the ranker's, the share of the ranker's 20 that its 100 hold (RCS). The two "
    "first rows of a table are the orders of the stages around it. On MovieLens the ranker hardly "
    "leaves the retriever's order, so that agreeing with it is agreeing with the retriever."
)


def learning(cells: list[Cell]) -> str:
    """Ways to learn, the orders of the stages around them first; a table per data set."""
    if not cells:
        return ""
    parts = ["## Learning to pre-rank", LEARNING]
    for data in dict.fromkeys(cell["data"] for cell in cells):
        own = [cell for cell in cells if cell["data"] == data]
        names = list(dict.fromkeys(name for cell in own for name in cell["metrics"]))
        rows = []
        for system in in_order((cell["system"] for cell in own), (*ORDERS, *WAYS)):
            group = [cell for cell in own if cell["system"] == system]
            figures = [[cell["metrics"][name] for cell in group if name in cell["metrics"]] for name in names]
            rows.append([f"`{system}`", *map(_figure, figures), str(len(group))])
        about = f"### {DATA[data].title if data in DATA else data}"
        parts += [about, markdown(["system", *names, "seeds"], rows), _below_the_retriever(own)]
    return "\n\n".join(part for part in parts if part)


def in_order(names: Iterable[str], first: Sequence[str]) -> list[str]:
    """The different names: those of ``first`` as they stand there, then the others as they come.

    >>> in_order(["c", "a", "b", "a"], ["b", "d", "a"])
    ['b', 'a', 'c']
    """
    there = dict.fromkeys(names)
    return list(dict.fromkeys([*(name for name in first if name in there), *there]))


def _below_the_retriever(cells: list[Cell]) -> str:
    """Says so where no pre-ranker keeps as many positives as the retriever's own first ones."""
    figure = "kept@100"
    kept: dict[str, list[float]] = {}
    for cell in cells:
        if figure in cell["metrics"]:
            kept.setdefault(cell["system"], []).append(float(cell["metrics"][figure]))
    means = {name: statistics.mean(found) for name, found in kept.items()}
    own = means.get(ORDERS[0])
    taught = {name: value for name, value in means.items() if name not in ORDERS}
    if own is None or not taught or max(taught.values()) >= own:
        return ""
    best = max(taught, key=lambda name: taught[name])
    return (
        f"No pre-ranker here keeps as many positives as the retriever's own first 100: {own:.4f}, against "
        f"{taught[best]:.4f} of `{best}`, the best of them. On these data a stage between the two saves the "
        "ranker time, and costs positives; to leave it out and cut the retriever's list would cost fewer."
    )


def _figure(found: list[Any]) -> str:
    """Mean ± spread of numbers; of a figure with an interval, each seed's own."""
    numbers = [value for value in found if isinstance(value, int | float)]
    if numbers:
        return spread([float(value) for value in numbers])
    texts = [
        f"{v['mean']:.4f} [{v['low']:.4f}, {v['high']:.4f}]" if isinstance(v, dict) else str(v) for v in found
    ]
    return "; ".join(texts) or "-"
