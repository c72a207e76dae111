"""The benchmark of pre-ranking and ranking models, step by step; every step skips what is already there.

    python -m benchmarks.pre_ranking                         # all of it, one step after the other: days
    python -m benchmarks.pre_ranking search [--models ...] [--jobs 2]
    python -m benchmarks.pre_ranking seeds --data ml-1m-hash [--models ...] [--jobs 2]
    python -m benchmarks.pre_ranking groups                  # those that COLD keeps, for the row cold-chosen
    python -m benchmarks.pre_ranking patience                # what more of it would bring
    python -m benchmarks.pre_ranking cost                    # on a quiet machine: it takes times
    python -m benchmarks.pre_ranking tsne
    python -m benchmarks.pre_ranking page                    # docs/benchmarks, from the files that are there

A cell whose settings the search has changed since is made again. The data root is the folder that
TWOTOWER_DATA names. The other parts of the page are commands of their own:
`benchmarks.pre_ranking.replication`, `.learning`, `.sequences`, and `.time_leak`: whether times tell labels.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from importlib.util import find_spec

from benchmarks.pre_ranking.jobs import Task, run_all

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch is loaded, here and in every job


HERE = "benchmarks.pre_ranking"
STEPS: tuple[tuple[str, ...], ...] = (  # of a whole run; the search comes before all that uses its settings
    (HERE, "search"),
    (HERE, "groups"),
    (HERE, "seeds"),
    (HERE, "patience"),
    (HERE, "tsne"),
    (f"{HERE}.replication",),
    (f"{HERE}.learning",),
    (f"{HERE}.sequences",),
    (f"{HERE}.time_leak",),
    (HERE, "cost"),  # last of the measurements: nothing runs beside it
    (HERE, "page"),
)


def main() -> None:
    options = _options()
    match options.step:
        case None:
            _run_all_steps()
        case "cost":
            from benchmarks.pre_ranking.cost import measure_costs

            measure_costs(options.models, again=options.again)
        case "groups":
            from benchmarks.pre_ranking.groups import choose_groups

            for data in options.data:
                choose_groups(data)
        case "tsne":
            from benchmarks.pre_ranking.tsne import draw

            draw(options.models, options.data)
        case "page":
            from benchmarks.pre_ranking.page import write

            write()
        case _:
            if run_all(_tasks(options), options.jobs):
                raise SystemExit(1)


def _run_all_steps() -> None:
    """Each step in a process of its own; one that fails does not stop the others."""
    failed = []
    for module, *arguments in STEPS:
        if find_spec(module) is None:
            continue
        done = subprocess.run([sys.executable, "-m", module, *arguments], check=False)
        failed += [" ".join([module, *arguments])] * bool(done.returncode)
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


def _tasks(options: argparse.Namespace) -> list[Task]:
    """What is missing of the search, of the cells, or of the runs with more patience."""
    from benchmarks.pre_ranking import patience
    from benchmarks.pre_ranking.cells import cell_path, is_made, run_cell
    from benchmarks.pre_ranking.data import DATA
    from benchmarks.pre_ranking.models import MODELS
    from benchmarks.pre_ranking.search import search, trials_of
    from benchmarks.pre_ranking.truth import TRUTH, has_truth, run_truth

    if options.step == "search":
        return [
            (f"search {model}", search, (model, options.trials, options.data))
            for model in options.models
            if len(trials_of(model, options.data)) < options.trials
        ]
    if options.step == "patience":
        missing = [m for m in options.models if not (patience.FOLDER / f"{m}.json").exists()]
        return [(f"patience {model}", patience.run, (model,)) for model in missing]
    truths: list[Task] = [
        (f"{data} {TRUTH}", run_truth, (data,))
        for data in options.data
        if has_truth(data) and not cell_path(data, TRUTH, 0).exists()
    ]
    named = options.models != list(MODELS)  # asked for by name, a variant runs on any data
    return truths + [
        (f"{data} {model} seed {seed}", run_cell, (data, model, seed, not options.untuned))
        for data in options.data
        for seed in options.seeds
        for model in options.models
        if (MODELS[model].is_asked(data, DATA[data]) or (named and MODELS[model].fits(DATA[data])))
        and not is_made(data, model, seed, not options.untuned)
    ]


def _options() -> argparse.Namespace:
    from benchmarks.pre_ranking.cells import SEEDS
    from benchmarks.pre_ranking.data import DATA
    from benchmarks.pre_ranking.models import BOTH, MODELS
    from benchmarks.pre_ranking.search import SEARCH_DATA, TRIALS

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    steps = parser.add_subparsers(dest="step")
    own = [name for name, model in MODELS.items() if model.searched and not model.tuned_as]
    step = steps.add_parser("search", help="settings of each model, by validation log loss")
    step.add_argument("--data", default=SEARCH_DATA, choices=DATA)
    step.add_argument("--trials", type=int, default=TRIALS)
    step.add_argument("--models", nargs="+", default=own, choices=own)
    step.add_argument("--jobs", type=int, default=1, help="processes at a time")
    step = steps.add_parser("seeds", help="the cells: each model with each seed")
    step.add_argument("--data", nargs="+", default=list(DATA), choices=DATA)
    step.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    step.add_argument("--untuned", action="store_true", help="the search's first settings, for a quick look")
    step.add_argument("--models", nargs="+", default=list(MODELS), choices=MODELS)
    step.add_argument("--jobs", type=int, default=1, help="processes at a time")
    step = steps.add_parser("groups", help="COLD's own choice of its feature groups")
    step.add_argument("--data", nargs="+", default=[*BOTH], choices=DATA)
    step = steps.add_parser("patience", help="what stopping later would bring")
    step.add_argument("--models", nargs="+", default=own, choices=MODELS)
    step.add_argument("--jobs", type=int, default=1, help="processes at a time")
    step = steps.add_parser("cost", help="microseconds per candidate, all models taking turns")
    step.add_argument("--models", nargs="+", default=list(MODELS), choices=MODELS)
    step.add_argument("--again", action="store_true", help="also where a result is there")
    step = steps.add_parser("tsne", help="a picture of users, liked and disliked items, and a linear probe")
    step.add_argument("--models", nargs="+", default=["two-tower", "int-tower"], choices=MODELS)
    step.add_argument("--data", default=SEARCH_DATA, choices=DATA)
    steps.add_parser("page", help="docs/benchmarks/pre-ranking.md and its plots")
    return parser.parse_args()


if __name__ == "__main__":
    main()
