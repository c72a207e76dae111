"""MovieLens 1M, the funnel of a recipe over several seeds: where positives live and die, beside baselines.

Each seed is one `twotower run`, resumable in its own directory; what it reports is kept as a JSON file. The
table gives mean and standard deviation over the seeds, and for the ranker against the retriever's own order
the paired interval over queries, each query's values averaged over the seeds first.

    python -m benchmarks.ml1m_funnels movielens-1m --data <ml-1m> --seeds 1 2 3
    python -m benchmarks.ml1m_funnels movielens-1m --table
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from benchmarks.machine import RESULTS, machine, write_result
from twotower.metrics.significance import paired_bootstrap

RECIPES = Path(__file__).parent.parent / "recipes"


def run_seed(recipe: str, data: Path, runs: Path, seed: int) -> None:
    """One seed: train, evaluate, keep the report and the per-query values."""
    out = runs / f"{recipe}-{seed}"
    command = ["run", str(RECIPES / f"{recipe}.yaml"), "--data", str(data), "--seed", str(seed)]
    entry = "from twotower.cli.main import main; main()"
    subprocess.run([sys.executable, "-c", entry, *command, "--out", str(out)], check=True, stdout=sys.stderr)
    trained = {
        path.parent.name: {k: v for k, v in json.loads(path.read_text()).items() if k != "history"}
        for path in sorted(out.glob("models/*/result.json"))
    }
    report = json.loads((out / "results" / "report.json").read_text())
    (RESULTS / "ml1m").mkdir(parents=True, exist_ok=True)
    write_result(
        f"ml1m/{recipe}-{seed}",
        {"seed": seed, "report": report, "training": trained, "machine": machine()},
    )
    values = pl.read_parquet(out / "results" / "per_query.parquet")
    keep = [c for c in values.columns if c.endswith("nDCG@10") and c.startswith(("retrieve", "rank "))]
    values.select(pl.col(keep).cast(pl.Float32)).write_parquet(RESULTS / "ml1m" / f"{recipe}-{seed}.parquet")


def spread(values: list[float]) -> str:
    deviation = f" ± {statistics.stdev(values):.4f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.4f}{deviation}"


def table(recipe: str) -> str:
    """Markdown from the files that are there."""
    files = sorted((RESULTS / "ml1m").glob(f"{recipe}-[0-9]*.json"))
    cells: list[dict[str, Any]] = [json.loads(path.read_text()) for path in files]
    if not cells:
        return f"no results for {recipe} yet"
    measures = ["nDCG@10", "R@10", "R@100"]
    lines = [
        f"| system ({recipe}, {len(cells)} seeds) | {' | '.join(measures)} | alive |",
        f"| --- |{' --- |' * (len(measures) + 1)}",
    ]
    for number, stage in enumerate(cells[0]["report"]["stages"]):
        rows = [cell["report"]["stages"][number] for cell in cells]
        values = " | ".join(spread([row[m] for row in rows]) for m in measures)
        lines.append(
            f"| {stage['stage']}({stage['k']}) | {values} | {spread([row['alive'] for row in rows])} |"
        )
    for name, found in cells[0]["report"]["baselines"].items():
        lines.append(f"| {name} | {' | '.join(f'{found[m]:.4f}' for m in measures)} | |")
    frames = [pl.read_parquet(path.with_suffix(".parquet")) for path in files]
    mean = {c: np.mean([frame[c].to_numpy() for frame in frames], axis=0) for c in frames[0].columns}
    interval = paired_bootstrap(
        torch.from_numpy(mean["rank nDCG@10"]), torch.from_numpy(mean["retrieve nDCG@10"]), relative=True
    )
    lines += [
        "",
        f"Ranker against the retriever's own order, nDCG@10, relative: {interval.mean:+.2%}, "
        f"95% {interval.low:+.2%} .. {interval.high:+.2%} (paired over queries, mean of the seeds).",
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    both = ["movielens-1m", "movielens-1m-leave-last-out"]
    parser.add_argument("recipes", nargs="*", default=both)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("TWOTOWER_DATA", ".")) / "ml-1m")
    parser.add_argument("--seeds", type=int, nargs="*", default=[1, 2, 3])
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--table", action="store_true")
    options = parser.parse_args()
    for recipe in options.recipes:
        if not options.table:
            for seed in options.seeds:
                run_seed(recipe, options.data, options.runs, seed)
        print(table(recipe), end="\n\n")


if __name__ == "__main__":
    main()
