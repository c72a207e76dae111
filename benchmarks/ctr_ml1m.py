"""Rating prediction on MovieLens 1M, hash split: do the two-tower model and DCN-V2 reach what they should?

A small search for each model on the validation part (every trial is kept), then three seeds of the best
one, measured once each on the test part. Each cell is a JSON file, so the run resumes where it stopped.

    python -m benchmarks.ctr_ml1m --data <ml-1m>            # everything, about half an hour on one core
    python -m benchmarks.ctr_ml1m --data <ml-1m> --table    # only print what is there
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.machine import machine
from twotower.pipeline.learning import train_model
from twotower.pipeline.prepared import Prepared
from twotower.pipeline.recipe import Recipe
from twotower.pipeline.validation import LabelledEvents

RESULTS = Path(__file__).parent / "results" / "ctr_ml1m"
RECIPE = Path(__file__).parent.parent / "recipes" / "movielens-1m-ctr.yaml"
SEARCH_SEED, SEEDS = 0, (1, 2, 3)  # the seed that chose takes no part in the result
GRID: dict[str, list[float]] = {
    "embedding_weight_decay": [1e-5, 3e-5, 1e-4],
    "dropout": [0.2, 0.4],
    "embedding": [16],
}


def trials(model: str) -> list[dict[str, Any]]:
    """The same grid for both models."""
    return [dict(zip(GRID, values, strict=True)) for values in itertools.product(*GRID.values())]


def recipe_of(model: str, trial: dict[str, Any], seed: int) -> Recipe:
    plain = Recipe.load(RECIPE).plain()
    about = plain["models"][model]
    about["config"] |= {"dropout": trial["dropout"], "embedding": trial["embedding"]}
    about["train"] |= {"embedding_weight_decay": trial["embedding_weight_decay"]}
    return Recipe.parse(plain | {"models": {model: about}, "seed": seed})


def run_cell(
    path: Path, data: Path, model: str, trial: dict[str, Any], seed: int, test: bool
) -> dict[str, Any]:
    """Train one model; measure it on valid, and on test only when the search is over."""
    if path.exists():
        return dict(json.loads(path.read_text()))
    recipe = recipe_of(model, trial, seed)
    prepared = prepared_once(recipe, data)
    started = time.perf_counter()
    trained, result = train_model(prepared, model)
    split = prepared.split
    cell = {
        "model": model,
        "trial": trial,
        "seed": seed,
        "valid": LabelledEvents(prepared, split.valid, split.history("valid")).measure(trained),
        "test": LabelledEvents(prepared, split.test, split.history("test")).measure(trained)
        if test
        else None,
        "best_epoch": result.best_epoch,
        "seconds": round(time.perf_counter() - started, 1),
        "parameters": sum(p.numel() for p in trained.parameters()),
        "machine": machine(),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".part")
    draft.write_text(json.dumps(cell, indent=2))
    os.replace(draft, path)
    print(path.name, cell["valid"], cell["test"] or "", flush=True)
    return cell


_PREPARED: dict[str, Prepared] = {}


def prepared_once(recipe: Recipe, data: Path) -> Prepared:
    """The data depends on neither model nor seed: read it once."""
    if "data" not in _PREPARED:
        _PREPARED["data"] = Prepared.make(recipe, data, "raise")
    made = _PREPARED["data"]
    return Prepared(recipe, made.dataset, made.split, made.features)


def name_of(model: str, trial: dict[str, Any]) -> str:
    return f"{model}-" + "-".join(f"{value:g}" for value in trial.values())


def table() -> str:
    """Chosen trial, and mean and spread over the seeds, from the files that are there."""
    lines = [
        "| model | chosen on validation | test AUC | test log loss | seeds |",
        "| --- | --- | --- | --- | --- |",
    ]
    for model in ("two-tower", "dcn-v2"):
        cells = [json.loads(p.read_text()) for p in sorted((RESULTS / "seeds").glob(f"{model}-*.json"))]
        if not cells:
            continue
        auc, loss = ([c["test"][m] for c in cells] for m in ("AUC", "log loss"))
        trial = ", ".join(f"{k} {v:g}" for k, v in cells[0]["trial"].items())
        spread = [statistics.stdev(x) if len(x) > 1 else float("nan") for x in (auc, loss)]
        lines.append(
            f"| {model} | {trial} | {statistics.mean(auc):.4f} ± {spread[0]:.4f} | "
            f"{statistics.mean(loss):.4f} ± {spread[1]:.4f} | {len(cells)} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("TWOTOWER_DATA", ".")) / "ml-1m")
    parser.add_argument("--models", nargs="*", default=["two-tower", "dcn-v2"])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--table", action="store_true")
    options = parser.parse_args()
    if options.table:
        print(table())
        return
    torch.set_num_threads(options.threads)
    for model in options.models:
        searched = [
            run_cell(
                RESULTS / "search" / f"{name_of(model, trial)}.json",
                options.data,
                model,
                trial,
                SEARCH_SEED,
                test=False,
            )
            for trial in trials(model)
        ]
        best = min(searched, key=lambda cell: cell["valid"]["log loss"])["trial"]
        for seed in SEEDS:
            run_cell(RESULTS / "seeds" / f"{model}-{seed}.json", options.data, model, best, seed, test=True)
    print(table())


if __name__ == "__main__":
    main()
