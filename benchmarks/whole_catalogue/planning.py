"""Choose the depths of a funnel on validation queries: cheap, good, and of the full ranking's opinion."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.whole_catalogue.ranked import as_lists
from benchmarks.whole_catalogue.settings import Setting
from twotower.cascade.cascade import Cascade
from twotower.cascade.rank import Rank
from twotower.cascade.retrieve import Retrieve
from twotower.evaluate.experiment import request_of
from twotower.evaluate.task import Task
from twotower.pipeline.planning.choice import Limits, Point, choose, points_of
from twotower.pipeline.planning.costs import measure_costs
from twotower.pipeline.planning.grid import depth_grid, levels_of
from twotower.pipeline.planning.quality import quality_by_depths
from twotower.pipeline.planning.storage import AS_IT_IS
from twotower.pipeline.workspace import fingerprint, write_text


@dataclass(frozen=True)
class Planned:
    """The depths that were chosen, and why."""

    depths: dict[str, int]
    about: dict[str, Any]


def plan(
    cascade: Cascade,
    task: Task,
    reference: Tensor,
    n_items: int,
    setting: Setting,
    seed: int,
    kept: Path,
    budget_ms: float,
) -> Planned:
    """The planner's choice (`Limits`: safe, within ``budget_ms``) among the depths that agree with the full
    ranking; where none is so fast, the fastest.

    ``reference`` (q, 10) is the full ranking of the task's first q queries. Overlap@10 with it is R@10 where
    its ten are what is to be found. Items are stored as deep as each model can; where no plan agrees, the one
    that agrees most is taken, and ``agreed`` says so. A plan that lies in ``kept`` is not made again.
    """
    rounds = setting.rounds
    makers = [s.model.digest() for s in cascade.stages if isinstance(s, Rank | Retrieve)]
    limits = [setting.floor, setting.time_share]
    mark = fingerprint(str(cascade), makers, setting.depths, limits, task.query_keys.tolist(), rounds)
    path = kept / f"plan-{mark}.json"
    if path.exists():
        about = json.loads(path.read_text(encoding="utf-8"))
        return Planned(about["depths"], about)
    given = {n: k for n, k in setting.depths.items() if n in [s.name for s in cascade.stages[:-1]]}
    grid = depth_grid(cascade, n_items, given)
    values = quality_by_depths(cascade, task, grid)
    wanted = replace(task.take(torch.arange(len(reference))), relevant=as_lists(reference))
    agrees = quality_by_depths(cascade, wanted, grid, "R@10").mean(1).tolist()
    variants = {stage.name: {AS_IT_IS: stage} for stage in cascade.stages}
    costs = measure_costs(variants, request_of(task), levels_of(grid), rounds=rounds, clock="cpu", seed=seed)
    points = points_of(costs, grid, values)
    bar = min(setting.floor, max(agrees))
    agreeing = [point for point in points if agrees[point.row] >= bar]
    within = max(budget_ms, min(point.ms for point in agreeing))
    choice = choose(agreeing, values, Limits(ms=within))
    about: dict[str, Any] = {
        "depths": dict(choice.point.depths),
        "chosen": _plain(choice.point, agrees),
        "best": _plain(choice.best, agrees),
        "reason": choice.reason,
        "agreed": max(agrees) >= setting.floor,
        "floor": setting.floor,
        "budget_ms": round(budget_ms, 3),
        "plans": len(points),
        "planned_by": len(task),
        "compared_by": len(reference),
        "grid": [_plain(point, agrees) for point in sorted(points, key=lambda point: point.ms)],
    }
    write_text(path, json.dumps(about, indent=1))
    return Planned(about["depths"], about)


def _plain(point: Point, agrees: Sequence[float]) -> dict[str, Any]:
    return {
        "depths": list(point.depths.values()),
        "predicted_ms": round(point.ms, 3),
        "nDCG@10": round(point.quality, 5),
        "overlap": round(agrees[point.row], 4),
    }
