"""What one way to learn is worth against another, on the same queries, with paired intervals."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl

from benchmarks.pre_ranking.intervals import Difference, with_seeds
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
            ours, theirs = _by_seed(folder, f"{data}-{better}-"), _by_seed(folder, f"{data}-{worse}-")
            seeds = sorted(ours.keys() & theirs.keys())
            if not seeds:
                continue
            found = [
                difference_of([ours[seed][name] for seed in seeds], [theirs[seed][name] for seed in seeds])
                for name in MEASURES
            ]
            figures = [f"{d.mean:+.3f} [{d.low:+.3f}, {d.high:+.3f}]" for d in found]
            rows.append([data, f"`{better}` - `{worse}`", *figures])
    if not rows:
        return ""
    text = (
        "Differences, mean of queries and seeds, with 95 % intervals (paired bootstrap over queries, 5,000 "
        "samples, widened by the choice of seeds):"
    )
    return f"{text}\n\n{markdown(['data', 'difference', *MEASURES], rows, left=2)}"


def difference_of(ours: Sequence[np.ndarray], theirs: Sequence[np.ndarray]) -> Difference:
    """Of (n,) values of the same queries, an array per seed: over other queries and other seeds.

    NaN where there is nothing to compare.
    """
    gain = paired_bootstrap(np.mean(ours, axis=0), np.mean(theirs, axis=0), samples=5000)
    by_seed = [float(np.nanmean(a - b)) for a, b in zip(ours, theirs, strict=True)]
    return Difference(gain.mean, *with_seeds(gain.low, gain.high, by_seed))


def _by_seed(folder: Path, prefix: str) -> dict[str, dict[str, np.ndarray]]:
    """Seed -> measure -> value of each query."""
    frames = {
        file.stem.removeprefix(prefix): pl.read_parquet(file)
        for file in folder.glob(f"{prefix}[0-9].parquet")
    }
    return {seed: {name: frame[name].to_numpy() for name in MEASURES} for seed, frame in frames.items()}
