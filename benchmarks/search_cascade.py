"""What does each stage of a search cascade add, what does it cost, and what does the planner make of it?

    python -m benchmarks.search_cascade                      # SciFact and NFCorpus, seed 0
    python -m benchmarks.search_cascade nfcorpus --seeds 1 2
    python -m benchmarks.search_cascade nfcorpus --late 1 2  # other seeds of late interaction alone

The recipes ``recipes/search-<collection>.yaml`` as they stand: BM25 and a bi-encoder, late interaction, a
cross-encoder. Test queries are answered by each source alone and by the first one, two and three stages;
single requests take turns, CPU time of one thread. Then the planner is given shares of the time that the
recipe's own depths take, on validation queries, and its plans answer the test queries too.

``--late`` trains the late interaction alone with other seeds, behind the first stage of seed 0.

Data are read below ``TWOTOWER_DATA``; trained models stay in ``runs/search_cascade``, and an interrupted
training goes on. A cell that is there is not made again.
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.machine import RESULTS, machine, write_result
from benchmarks.text.collection import data_root
from twotower.cascade.cascade import Cascade
from twotower.cascade.fuse import Fuse
from twotower.cascade.rank import Rank
from twotower.evaluate.experiment import joined, request_of
from twotower.evaluate.latency import one_thread
from twotower.evaluate.task import Task
from twotower.memory import keep_heap
from twotower.metrics.significance import paired_bootstrap
from twotower.pipeline.learning import train_model
from twotower.pipeline.pipeline import Pipeline
from twotower.pipeline.planning.choice import Limits
from twotower.pipeline.planning.planner import planned_cascade, survey_run
from twotower.pipeline.recipe import Recipe

RECIPES = Path(__file__).parent.parent / "recipes"
RUNS = Path("runs") / "search_cascade"
COLLECTIONS = ("scifact", "nfcorpus")
MEASURE = "nDCG@10"
LATE = "tokens"
TIMED = 30
SHARES = (0.1, 0.3, 1.0)
"""Of the time of the recipe's own depths, what a plan may take."""


def cell(name: str, seed: int) -> dict[str, Any]:
    """Train, answer, plan."""
    pipeline, cascade, task = _trained(name, seed)
    systems = prefixes(cascade)
    values = {label: answered(system, task) for label, system in systems.items()}
    took = times(systems, task, seed)
    labels = list(systems)
    stages = labels[-len(cascade.stages) :]
    return {
        "collection": name,
        "seed": seed,
        "documents": pipeline.prepared.n_items,
        "queries": len(task),
        "systems": {
            label: {MEASURE: round(float(values[label].mean()), 4), **took[label]} for label in labels
        },
        "added": {
            after: _difference(values[after], values[before]) for before, after in itertools.pairwise(stages)
        },
        "plans": plans(pipeline, cascade, task, values[stages[-1]], seed),
        "machine": machine(),
    }


def late(name: str, seed: int) -> dict[str, Any]:
    """Late interaction with another seed, behind the first stage of seed 0."""
    pipeline, cascade, task = _trained(name, 0)
    recipe = pipeline.recipe
    first, about = cascade.stages[0], recipe.cascade[1]
    prepared = replace(pipeline.prepared, recipe=recipe.model_copy(update={"seed": seed}))
    model, result = train_model(prepared, LATE, before=Cascade(first))
    stage = Rank(model, pipeline.assembly.encode_all(LATE, model), about.k, about.name)
    values = [answered(Cascade(*stages), task) for stages in ((first,), (first, stage))]
    return {
        "collection": name,
        "seed": seed,
        "valid": result.best_value,
        MEASURE: round(float(values[1].mean()), 4),
        "added": _difference(values[1], values[0]),
        "machine": machine(),
    }


def _trained(name: str, seed: int) -> tuple[Pipeline, Cascade, Task]:
    """The recipe's run with this seed, its cascade and the test queries; what is trained stays."""
    recipe = Recipe.load(RECIPES / f"search-{name}.yaml").model_copy(update={"seed": seed})
    pipeline = Pipeline(recipe, RUNS / f"{name}-{seed}", data=data_root() / name, say=_say)
    pipeline.prepare()
    pipeline.train()
    cascade = pipeline.cascade()
    assert cascade is not None
    return pipeline, cascade, pipeline.prepared.task("test")


def prefixes(cascade: Cascade) -> dict[str, Cascade]:
    """Each source alone, then the first stage, the first two, and so on."""
    first = cascade.stages[0]
    sources = first.sources if isinstance(first, Fuse) else ()
    alone = {f"{source.name} alone": Cascade(source) for source in sources}
    ends = range(1, len(cascade.stages) + 1)
    return alone | {
        " > ".join(s.name for s in cascade.stages[:end]): Cascade(*cascade.stages[:end]) for end in ends
    }


def answered(cascade: Cascade, task: Task, queries_at_once: int = 32) -> Tensor:
    """The measure of every query."""
    request, starts = request_of(task), range(0, len(task), queries_at_once)
    found = joined([cascade(request.rows(s, min(s + queries_at_once, len(task))))[0] for s in starts])
    return task.measure(found.keys, [MEASURE])[MEASURE]


def times(systems: Mapping[str, Cascade], task: Task, seed: int) -> dict[str, dict[str, float]]:
    """Median CPU milliseconds of single requests; all systems answer each in a new order."""
    request, draw = request_of(task), torch.Generator().manual_seed(seed)
    took: dict[str, list[float]] = {label: [] for label in systems}
    with one_thread():
        for number, row in enumerate(torch.randperm(len(task), generator=draw)[: TIMED + 3].tolist()):
            for turn in torch.randperm(len(systems), generator=draw).tolist():
                label = list(systems)[turn]
                start = time.thread_time()
                systems[label](request.rows(row, row + 1))
                if number >= 3:  # the first ones wake the machine
                    took[label].append((time.thread_time() - start) * 1e3)
    return {label: {"cpu_ms": round(statistics.median(ms), 2)} for label, ms in took.items()}


def plans(pipeline: Pipeline, cascade: Cascade, task: Task, own: Tensor, seed: int) -> list[dict[str, Any]]:
    """What the planner chooses for shares of the recipe's own time, and its worth on test queries."""
    survey = survey_run(pipeline.space.directory, clock="cpu", rounds=15, seed=seed, say=_say)
    found = []
    for share in SHARES:
        limit = max(share * survey.now.ms, min(point.ms for point in survey.points))
        plan = survey.plan(Limits(ms=limit))
        planned = planned_cascade(pipeline, plan.depths, plan.stores)
        values = answered(planned, task)
        ms = times({"recipe": cascade, "plan": planned}, task, seed)
        found.append(
            {
                "limit_ms": round(limit, 2),
                "depths": dict(plan.depths),
                "stores": dict(plan.stores),
                "reason": plan.choice.reason,
                "predicted_ms": round(plan.choice.point.ms, 2),
                "cpu_ms": ms["plan"]["cpu_ms"],
                "recipe_cpu_ms": ms["recipe"]["cpu_ms"],
                "valid": {MEASURE: round(plan.choice.point.quality, 4), "queries": plan.queries},
                MEASURE: round(float(values.mean()), 4),
                "over the recipe's depths": _difference(values, own),
            }
        )
    return found


def _difference(a: Tensor, b: Tensor) -> dict[str, float]:
    interval = asdict(paired_bootstrap(a, b))
    return {name: round(interval[name], 4) for name in ("mean", "low", "high")}


def _say(line: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {line}", file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("collections", nargs="*", metavar="collection", help=", ".join(COLLECTIONS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--late", type=int, nargs="+", default=[], metavar="SEED")
    options = parser.parse_args()
    unknown = sorted({*options.collections} - {*COLLECTIONS})
    if unknown:
        parser.error(f"no collection {', '.join(unknown)}; known: {', '.join(COLLECTIONS)}")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    keep_heap()
    for name in options.collections or COLLECTIONS:
        for seed in options.late:
            path = RESULTS / "search_cascade" / f"late-{name}-{seed}.json"
            if not path.exists():
                content = late(name, seed)
                write_result(f"search_cascade/late-{name}-{seed}", content)
                print(content, flush=True)
        for seed in () if options.late else options.seeds:
            path = RESULTS / "search_cascade" / f"{name}-{seed}.json"
            if not path.exists():
                content = cell(name, seed)
                write_result(f"search_cascade/{name}-{seed}", content)
                print(content["systems"], content["plans"], sep="\n", flush=True)


if __name__ == "__main__":
    main()
