"""The benchmark of pre-ranking and ranking models, step by step; every step skips what is already there.

    python -m benchmarks.pre_ranking search [--models ...] [--jobs 2]
    python -m benchmarks.pre_ranking seeds --data ml-1m-hash [--models ...] [--jobs 2]

The data root is the folder that TWOTOWER_DATA names.
"""

from __future__ import annotations

import argparse
import os

from benchmarks.pre_ranking.jobs import Task, run_all

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch is loaded, here and in every job


def main() -> None:
    from benchmarks.pre_ranking.cells import SEEDS, cell_path, run_cell
    from benchmarks.pre_ranking.data import DATA
    from benchmarks.pre_ranking.models import MODELS
    from benchmarks.pre_ranking.search import SEARCH_DATA, TRIALS, search, trials_of

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    steps = parser.add_subparsers(dest="step", required=True)
    step = steps.add_parser("search", help="settings of each model, by validation log loss")
    step.add_argument("--data", default=SEARCH_DATA, choices=DATA)
    step.add_argument("--trials", type=int, default=TRIALS)
    _shared(step, [name for name, model in MODELS.items() if not model.tuned_as])
    step = steps.add_parser("seeds", help="the cells: each model with each seed")
    step.add_argument("--data", nargs="+", default=list(DATA), choices=DATA)
    step.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    step.add_argument("--untuned", action="store_true", help="the search's first settings, for a quick look")
    _shared(step, list(MODELS))
    options = parser.parse_args()

    tasks: list[Task]
    if options.step == "search":
        tasks = [
            (f"search {model}", search, (model, options.trials, options.data))
            for model in options.models
            if len(trials_of(model, options.data)) < options.trials
        ]
    else:
        tasks = [
            (f"{data} {model} seed {seed}", run_cell, (data, model, seed, not options.untuned))
            for data in options.data
            for seed in options.seeds
            for model in options.models
            if not cell_path(data, model, seed).exists()
        ]
    if run_all(tasks, options.jobs):
        raise SystemExit(1)


def _shared(step: argparse.ArgumentParser, models: list[str]) -> None:
    step.add_argument("--models", nargs="+", default=models, choices=models)
    step.add_argument("--jobs", type=int, default=1, help="processes at a time")


if __name__ == "__main__":
    main()
