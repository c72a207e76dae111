"""The cells of a setting as Markdown: means over seeds, intervals paired over queries."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from twotower.metrics.significance import paired_bootstrap

FULL = "whole catalogue"


def table(cells: Path, name: str) -> str:
    files = sorted(cells.glob(f"{name}-[0-9]*.json"))
    if not files:
        return f"no results for {name} yet"
    found: list[dict[str, Any]] = [json.loads(path.read_text(encoding="utf-8")) for path in files]
    frames = [pl.read_parquet(path.with_suffix(".parquet")) for path in files]
    values = {c: np.mean([frame[c].to_numpy() for frame in frames], axis=0) for c in frames[0].columns}
    count = f"{len(files)} seed{'s' * (len(files) > 1)}"
    lines = [
        f"| {name}, {found[0]['items']:,} items, {found[0]['queries']:,} queries, {count} | depths | nDCG@10 "
        "| against the full ranking | Overlap@10 | CPU ms | of its time |",
        "| :-- | :-- | --: | --: | --: | --: | --: |",
    ]
    for system in found[0]["systems"]:
        mean = statistics.mean(cell["systems"][system]["nDCG@10"] for cell in found)
        row = [system, _depths(found, system), f"{mean:.4f}", "", "", "", ""]
        if system != FULL:
            d = paired_bootstrap(values[system], values[FULL], relative=True)
            row[3] = f"{d.mean:+.2%} [{d.low:+.2%}, {d.high:+.2%}]"
            row[4] = f"{_mean(found, 'against the full ranking', system, 'overlap'):.3f}"
        if system in found[0]["time"]:
            row[5] = f"{_mean(found, 'time', system, 'cpu_ms'):.2f}"
            share = _mean(found, "time", system, "cpu_share")
            row[6] = "" if system == FULL else f"1/{1 / share:.1f}"
        lines.append(f"| {' | '.join(row)} |")
    over = paired_bootstrap(values[FULL], values["one stage"], relative=True)
    lines += [
        "",
        f"Full ranking against the retriever alone: {over.mean:+.2%} [{over.low:+.2%}, {over.high:+.2%}].",
    ]
    return "\n".join(lines)


def _depths(cells: list[dict[str, Any]], system: str) -> str:
    plans = [cell["plans"].get(system) for cell in cells]
    return "; ".join(dict.fromkeys(" > ".join(map(str, plan["chosen"]["depths"])) for plan in plans if plan))


def _mean(cells: list[dict[str, Any]], *path: str) -> float:
    found: list[float] = []
    for cell in cells:
        value: Any = cell
        for key in path:
            value = value[key]
        found.append(value)
    return statistics.mean(found)
