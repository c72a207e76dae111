"""Is a planned cascade as good as the best plan there was, and does it take the time that was predicted?

    python -m benchmarks.planner                       # the demo, results/planner.json; minutes
    python -m benchmarks.planner --seeds --run runs/x  # a trained run, under its directory's name

The demo's four stages (two-tower, COLD, DCN-v2, MMR), with more people in its world, are trained in a
temporary directory from each seed. The planner sees validation queries that taught no ranker, and its own
coarse grid. Then:

quality   The test queries are answered at all depths of a grid about twice as fine, the exhaustive one, the
          planner's depths among them. For each limit of time, ``gap`` compares the chosen plan's nDCG@10
          with the best plan of that grid under the same limit, chosen by the test queries themselves. It is
          never above zero, nor is it zero for a perfect planner: the best of many is partly the luckiest.
          ``gap_by_halves`` takes that luck out: the best is chosen on one half of the test queries, both are
          compared on the other half, and the two ways round are averaged.
time      Plans spread over the grid, at drawn storage depths, answer single test requests in turns. For each
          pair of plans the ratio of predicted times is held against the ratio of measured medians.

All times are CPU time of one thread, so that a busy machine does not decide; wall times stand beside them.
Each run is a cell of the result file, and leaves the others there.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.machine import RESULTS, machine, write_result
from twotower.config import load_yaml
from twotower.errors import ConfigError
from twotower.evaluate.experiment import request_of
from twotower.evaluate.latency import one_thread
from twotower.metrics.significance import paired_bootstrap
from twotower.pipeline.pipeline import Pipeline
from twotower.pipeline.planning.choice import Limits, Point, points_of
from twotower.pipeline.planning.costs import CLOCKS
from twotower.pipeline.planning.grid import depth_grid
from twotower.pipeline.planning.plan import Survey
from twotower.pipeline.planning.planner import planned_cascade, survey_run
from twotower.pipeline.planning.quality import quality_by_depths
from twotower.pipeline.recipe import Recipe

DEMO = Path(__file__).parent.parent / "recipes" / "demo.yaml"
GAP, RATIO = 0.01, 0.15
"""What a planned cascade may lose, and by how much a predicted ratio of times may be wrong."""
SHARES = (0.1, 0.3, 0.6, 1.0)
"""Limits of time, as places between the cheapest and the dearest plan."""
LEARN = 0.5
"""Of the validation queries, what teaches the rankers: the rest is there to plan by."""


def recipe(seed: int, people: int) -> Recipe:
    """The demo with more people and longer held-out parts: queries to plan by, and to judge by."""
    plain = load_yaml(DEMO)
    for name in ("ranker", "preranker"):
        plain["models"][name]["objective"]["share"] = LEARN
    changes = {
        "data": {"reader": "synthetic", "n_queries": people},
        "split": {"kind": "time", "fractions": [0.6, 0.2, 0.2]},
        "baselines": [],
        "seed": seed,
    }
    return Recipe.parse({**plain, **changes})


def judged(directory: Path, seed: int, rounds: int) -> dict[str, Any]:
    """One trained run: planned, and held against everything else that could have been chosen."""
    start = time.process_time()
    survey = survey_run(directory, clock="cpu", seed=seed, say=_say)
    planning = time.process_time() - start
    print(survey.plan())
    pipeline = Pipeline.open(directory)
    cascade, task = pipeline.cascade(), pipeline.prepared.task("test")
    assert cascade is not None
    coarse = depth_grid(cascade, pipeline.prepared.n_items)
    steps = {name: sorted({depths[name] for depths in coarse}) for name in list(coarse[0])[:-1]}
    fine = depth_grid(cascade, pipeline.prepared.n_items, {name: _between(k) for name, k in steps.items()})
    values = quality_by_depths(cascade, task, fine, survey.measure)
    every = points_of(survey.costs, fine, values)
    about = {
        "cascade": str(cascade),
        "items": pipeline.prepared.n_items,
        "planned_by": survey.values.shape[1],
        "judged_by": len(task),
        "planned_grid": len(coarse),
        "exhaustive_grid": len(fine),
        "planning_cpu_s": round(planning, 1),
        "test_quality": {
            "recipe": round(float(values[_row(survey.now, fine)].mean()), 4),
            "best": round(float(values.mean(1).max()), 4),
            "worst": round(float(values.mean(1).min()), 4),
        },
    }
    return about | {
        "quality": quality(survey, every, fine, values, seed),
        "time": times(pipeline, survey, seed, rounds),
    }


def quality(
    survey: Survey, every: list[Point], fine: list[dict[str, int]], values: Tensor, seed: int
) -> list[dict[str, Any]]:
    """The chosen plan of each rule and limit against the best plan of the exhaustive grid."""
    ms = [point.ms for point in survey.points]
    halves = torch.randperm(values.shape[1], generator=torch.Generator().manual_seed(seed)).chunk(2)
    found = []
    for share, rule in itertools.product(SHARES, ("safe", "best", "equal")):
        limit = min(ms) + share * (max(ms) - min(ms))
        try:
            plan = survey.plan(Limits(ms=limit, rule=rule))
        except ConfigError as error:  # the limit is the cheapest plan's own time, but for rounding
            raise SystemExit(str(error)) from error
        row = _row(plan.choice.point, fine)
        rows = sorted({point.row for point in every if point.ms <= limit} | {row})
        best = max(rows, key=lambda r: float(values[r].mean()))
        gap = paired_bootstrap(values[row], values[best], relative=True)
        other = []
        for choosing, judging in (halves, halves[::-1]):
            rival = max(rows, key=lambda r: float(values[r, choosing].mean()))
            other.append(float(values[row, judging].mean() / values[rival, judging].mean()) - 1)
        found.append(
            {
                "limit_ms": round(limit, 3),
                "rule": rule,
                "chosen": dict(plan.depths),
                "stores": dict(plan.stores),
                "chosen_ms": round(plan.choice.point.ms, 3),
                "best": fine[best],
                "nDCG@10": round(float(values[row].mean()), 4),
                "best_nDCG@10": round(float(values[best].mean()), 4),
                "gap": round(gap.mean, 4),
                "gap_95": [round(gap.low, 4), round(gap.high, 4)],
                "gap_by_halves": round(statistics.mean(other), 4),
            }
        )
        _say(f"{found[-1]}")
    return found


def times(pipeline: Pipeline, survey: Survey, seed: int, rounds: int, plans: int = 10) -> dict[str, Any]:
    """Predicted and measured ratios of times between plans of the grid."""
    ordered = sorted(survey.points, key=lambda point: point.ms)
    draw = np.random.default_rng(seed)
    # one of each stretch of predicted times, so that ratios are small and large
    chosen = [stretch[draw.integers(len(stretch))] for stretch in _stretches(ordered, plans)]
    cascades = [planned_cascade(pipeline, point.depths, point.stores) for point in chosen]
    request = request_of(pipeline.prepared.task("test"))
    took: dict[str, list[list[float]]] = {clock: [[] for _ in chosen] for clock in CLOCKS}
    with one_thread():
        for number in range(5 + rounds):
            one = request.rows(number % len(request), number % len(request) + 1)
            for turn in draw.permutation(len(chosen)):
                before = {clock: now() for clock, now in CLOCKS.items()}
                cascades[turn](one)
                for clock, now in CLOCKS.items():
                    if number >= 5:
                        took[clock][turn].append((now() - before[clock]) * 1e3)
    medians = {clock: [statistics.median(ms) for ms in of_plans] for clock, of_plans in took.items()}
    about: dict[str, Any] = {
        "plans": [
            {
                "depths": dict(point.depths),
                "stores": dict(point.stores),
                "predicted_ms": round(point.ms, 3),
                **{f"{clock}_ms": round(medians[clock][n], 3) for clock in CLOCKS},
            }
            for n, point in enumerate(chosen)
        ],
        "rounds": rounds,
    }
    for clock in CLOCKS:
        errors = [
            abs((chosen[a].ms / chosen[b].ms) / (medians[clock][a] / medians[clock][b]) - 1)
            for a, b in itertools.permutations(range(len(chosen)), 2)
        ]
        about[f"ratio_error_{clock}"] = {
            "median": round(statistics.median(errors), 4),
            "max": round(max(errors), 4),
            "within_15%": round(sum(error <= RATIO for error in errors) / len(errors), 4),
        }
        _say(f"{clock}: {about[f'ratio_error_{clock}']}")
    return about


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="*", default=[1, 2, 3])
    parser.add_argument("--people", type=int, default=8000)
    parser.add_argument(
        "--run", type=Path, action="append", default=[], help="a trained run to judge as well"
    )
    parser.add_argument("--rounds", type=int, default=100)
    args = parser.parse_args()
    torch.set_num_threads(1)
    result = dict[str, Any]()
    for seed in args.seeds:
        with tempfile.TemporaryDirectory(prefix="twotower-planner-") as directory:
            pipeline = Pipeline(recipe(seed, args.people), directory, say=_say)
            pipeline.prepare()
            pipeline.train()
            name = f"demo, {args.people:,} people, seed {seed}"
            result[name] = kept(name, judged(Path(directory), seed, args.rounds))
    for run in args.run:
        name = run.resolve().name
        result[name] = kept(name, judged(run, 0, args.rounds))
    safe = [one for found in result.values() for one in found["quality"] if one["rule"] == "safe"]
    summary = {
        "gap_worst": min(one["gap"] for one in safe),
        "gap_by_halves_worst": min(one["gap_by_halves"] for one in safe),
        "gaps_within_1%": f"{sum(one['gap'] >= -GAP for one in safe)} of {len(safe)}",
        "ratio_error_worst": max(found["time"]["ratio_error_cpu"]["max"] for found in result.values()),
    }
    print(summary)
    if summary["gap_worst"] < -GAP or summary["ratio_error_worst"] > RATIO:
        raise SystemExit("not within 1% of the best plan, or not within 15% of the measured ratios")


def kept(name: str, found: dict[str, Any]) -> dict[str, Any]:
    """Write one cell into the result file, and leave the others there."""
    written = RESULTS / "planner.json"
    older = json.loads(written.read_text(encoding="utf-8")) if written.exists() else {}
    cell = found | {"machine": machine()}
    write_result("planner", dict(sorted((older | {name: cell}).items())))
    return cell


def _between(steps: list[int]) -> list[int]:
    """The steps and, between each two, their geometric mean."""
    middle = [round((a * b) ** 0.5) for a, b in itertools.pairwise(steps)]
    return sorted({*steps, *middle})


def _stretches(points: list[Point], count: int) -> list[list[Point]]:
    """Points by predicted time, in stretches of equal ratio; those without a point are left out."""
    low, high = points[0].ms, points[-1].ms
    place = [min(count - 1, int(count * np.log(p.ms / low) / np.log(high / low))) for p in points]
    groups = [[p for p, n in zip(points, place, strict=True) if n == number] for number in range(count)]
    return [group for group in groups if group]


def _row(point: Point, grid: list[dict[str, int]]) -> int:
    return grid.index(dict(point.depths))


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
