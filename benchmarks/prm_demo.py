"""PRM behind the synthetic world's ranker: does a look at the whole list bring anything there?

Each seed trains the retriever and the ranker of ``recipes/synthetic.yaml`` (the demo's when the script was
written), then one re-ranker after the other on the fifty candidates that the ranker hands on, and compares
with the ranker's own order of them: nDCG@10 over the test queries, the paired interval over queries with each
query's values averaged over the seeds first. Twice: the ranker learns from half of the validation queries, or
from 80%, and leaves the rest to the re-ranker.

    python -m benchmarks.prm_demo
"""

from __future__ import annotations

import argparse
import copy
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.machine import machine, write_result
from twotower.config import load_yaml
from twotower.metrics.significance import paired_bootstrap
from twotower.pipeline.pipeline import Pipeline
from twotower.pipeline.recipe import Recipe

WORLD = Path(__file__).parent.parent / "recipes" / "synthetic.yaml"
TRAIN = {
    "epochs": 20,
    "batch_size": 16,
    "learning_rate": 0.001,
    "embedding_weight_decay": 1e-4,
    "patience": 3,
    "clip_norm": 1.0,
}
COMMON = {"embedding": 16, "dropout": 0.5, "history": {"kind": "mean"}, "pair": ["rank_score"]}
LISTS = {"kind": "lists", "share": 0.8}
RERANKERS: dict[str, dict[str, Any]] = {
    "prm": {"model": "prm", "config": COMMON, "objective": LISTS},
    "prm, blind to places": {
        "model": "prm",
        "config": {**COMMON, "position": None},
        "objective": LISTS,
    },
    "prm, the ranker's queries too": {
        "model": "prm",
        "config": COMMON,
        "objective": {**LISTS, "queries": "all"},
    },
    "dcn-v2": {
        "model": "dcn-v2",
        "config": {**COMMON, "crosses": 1, "layers": [64, 32]},
        "objective": LISTS,
    },
}
"""The last one looks at one candidate at a time: what a second ranker brings, without a list."""


def recipe(reranker: dict[str, Any], seed: int, ranker_share: float) -> Recipe:
    plain = copy.deepcopy(load_yaml(WORLD))
    features = plain["models"]["ranker"]["features"]
    plain["models"]["ranker"]["objective"]["share"] = ranker_share
    plain["models"]["reranker"] = {**reranker, "features": features, "train": TRAIN}
    plain["cascade"][1]["k"] = 50
    plain["cascade"].append({"stage": "rerank", "model": "reranker", "k": 50})
    return Recipe.parse({**plain, "baselines": [], "evaluate": {"requests_timed": 1}, "seed": seed})


def measured(seed: int, share: float, directory: Path) -> dict[str, Tensor]:
    """Every system's nDCG@10 of each test query; the stages before the re-ranker are trained once."""
    found = {}
    for name, reranker in RERANKERS.items():
        start = time.perf_counter()
        report = Pipeline(recipe(reranker, seed, share), directory).run()
        assert report.experiment is not None
        _, rank, rerank = report.experiment.stages
        found["ranker"], found[name] = rank.values["nDCG@10"], rerank.values["nDCG@10"]
        seconds = time.perf_counter() - start
        print(f"seed {seed}, ranker's share {share}, {name}: {seconds:.0f} s", flush=True)
    return found


def summary(seeds: Sequence[dict[str, Tensor]]) -> dict[str, Any]:
    """System -> mean and spread over the seeds, and its paired difference from the ranker's order."""
    table: dict[str, Any] = {}
    for name in seeds[0]:
        means = [float(values[name].nanmean()) for values in seeds]
        about: dict[str, Any] = {
            "seeds": means,
            "mean": statistics.mean(means),
            "deviation": statistics.stdev(means) if len(means) > 1 else None,
        }
        if name != "ranker":
            both = (torch.stack([values[n] for values in seeds]).mean(0) for n in (name, "ranker"))
            interval = paired_bootstrap(*both)
            about["over_ranker"] = {
                "mean": interval.mean,
                "low": interval.low,
                "high": interval.high,
                "queries": interval.counted,
            }
        table[name] = about
    return table


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="*", default=[1, 2, 3])
    parser.add_argument("--shares", type=float, nargs="*", default=[0.5, 0.8])
    options = parser.parse_args()
    about = machine()
    result = {}
    with tempfile.TemporaryDirectory() as runs:
        for share in options.shares:
            cells = [measured(seed, share, Path(runs) / f"{share}-{seed}") for seed in options.seeds]
            result[f"ranker's share {share}"] = summary(cells)
    path = write_result("prm_demo", {"nDCG@10": result, "seeds": options.seeds, "machine": about})
    print(path.read_text())


if __name__ == "__main__":
    main()
