"""Finished cells: one JSON each, with the measures of every test query, so that any two can be paired."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.machine import RESULTS, machine
from benchmarks.pre_ranking.files import read_json, write_json
from twotower.metrics.significance import Interval, paired_bootstrap

CELLS = RESULTS / "text_towers"
CACHE = Path("runs") / "text_towers"


def cell(name: str, make: Callable[[], dict[str, Any]], directory: Path = CELLS) -> dict[str, Any]:
    """The content of ``<name>.json``; made, written and reported where it is not there yet."""
    path = directory / f"{name}.json"
    if path.is_file():
        return read_json(path)
    content = {"cell": name, **make(), "machine": machine()}
    write_json(path, content)
    print(f"{name}: {figures(content)}", flush=True)
    return content


def kept_in(steps: int | None) -> Path:
    """Where cells lie; those of trials, that stop after so many steps, are no results."""
    return CELLS if steps is None else CACHE / "tried"


def figures(content: dict[str, Any]) -> str:
    """The means of a cell in one line."""
    return ", ".join(f"{name} {value:.4f}" for name, value in content["means"].items())


def judged(per_query: dict[str, list[float]]) -> dict[str, Any]:
    """Means, and the values they are of."""
    means = {name: float(np.mean(values)) for name, values in per_query.items()}
    return {"queries": len(next(iter(per_query.values()))), "means": means, "per_query": per_query}


def difference(
    ours: Sequence[dict[str, Any]], theirs: Sequence[dict[str, Any]], measure: str = "nDCG@10"
) -> Interval:
    """Of two systems, each the mean of its seeds' cells, over the same queries."""
    a, b = (np.mean([c["per_query"][measure] for c in cells], axis=0) for cells in (ours, theirs))
    return paired_bootstrap(a, b)


def plain(interval: Interval) -> dict[str, float]:
    return {name: round(getattr(interval, name), 5) for name in ("mean", "low", "high")}
