"""What one way to learn is worth against another, on the same queries, with paired intervals."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl

from benchmarks.pre_ranking.markdown import markdown
from twotower.metrics.significance import paired_bootstrap

MEASURES = ("kept@100", "Overlap@20", "RCS@20@100")
PAIRS = (
    ("full-stage+distil", "exposures"),
    ("full-stage+distil", "pointwise"),
    ("full-stage+distil", "full-stage"),
    ("full-stage", "exposures"),
)


def differences(folder: Path) -> str:
    """A table of mean differences over seeds and queries; empty when no pair has its cells."""
    rows = []
    files = sorted(folder.glob("*-exposures-*.parquet"))
    for data in dict.fromkeys(path.name.partition("-exposures-")[0] for path in files):
        for better, worse in PAIRS:
            ours, theirs = _mean(folder, f"{data}-{better}-"), _mean(folder, f"{data}-{worse}-")
            if ours is None or theirs is None:
                continue
            found = [paired_bootstrap(ours[name], theirs[name], samples=5000) for name in MEASURES]
            figures = [f"{d.mean:+.3f} [{d.low:+.3f}, {d.high:+.3f}]" for d in found]
            rows.append([data, f"`{better}` - `{worse}`", *figures])
    if not rows:
        return ""
    text = "Differences, mean of queries and seeds, with 95 % intervals (paired bootstrap, 5,000 samples):"
    return f"{text}\n\n{markdown(['data', 'difference', *MEASURES], rows, left=2)}"


def _mean(folder: Path, prefix: str) -> dict[str, np.ndarray] | None:
    """Value of each query, mean over the seeds that are there."""
    files = sorted(folder.glob(f"{prefix}[0-9].parquet"))
    if not files:
        return None
    frames = [pl.read_parquet(file) for file in files]
    return {name: np.mean([frame[name].to_numpy() for frame in frames], axis=0) for name in MEASURES}
