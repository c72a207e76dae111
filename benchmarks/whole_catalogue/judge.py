"""One cell: plan the funnels of a setting on validation queries, judge and time them on test queries."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.whole_catalogue.full import vectors_of
from benchmarks.whole_catalogue.planning import Planned, plan
from benchmarks.whole_catalogue.ranked import answers, ranked
from benchmarks.whole_catalogue.settings import Setting
from benchmarks.whole_catalogue.stages import Stages, cut
from twotower.cascade.cascade import Cascade
from twotower.cascade.rank import Rank
from twotower.evaluate.experiment import request_of
from twotower.evaluate.latency import one_thread
from twotower.evaluate.task import Task
from twotower.metrics.funnel import overlap
from twotower.metrics.ranking import average, evaluate
from twotower.metrics.significance import paired_bootstrap
from twotower.pipeline.untaught import validation_task
from twotower.types import Candidates

MEASURES = ["nDCG@10", "R@10"]
STAGES = {1: "one stage", 2: "two stages", 3: "three stages", 4: "four stages"}
FULL = "whole catalogue"


def judged(stages: Stages, setting: Setting, lists: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The cell, and nDCG@10 of every test query by system; ``lists`` is where full rankings are kept."""
    prepared, seed = stages.prepared, stages.pipeline.recipe.seed
    warm(stages)
    task, notes = validation_task(prepared, "fresh", setting.planned_by, seed)
    few = task.take(torch.arange(min(len(task), setting.compared_by)))
    reference = ranked(stages.full, few, 20, lists).keys[:, :10]
    budget = setting.time_share * full_ms(stages, few)
    planned = {
        count: plan(funnel, task, reference, prepared.n_items, setting, seed, lists, budget)
        for count, funnel in _funnels(stages).items()
    }
    for count, found in planned.items():
        stages.say(f"{STAGES[count]}: {found.depths}, {found.about['chosen']}, {found.about['reason']}")
    funnels = {STAGES[1]: cut(stages.cascade, {"retrieve": 10})}
    funnels |= {STAGES[count]: cut(stages.cascade, found.depths) for count, found in planned.items()}
    test = _drawn(prepared.task("test"), setting.judged_by, seed=0)
    cell, values = quality(stages, funnels, planned[4], test, lists)
    valid_full = evaluate(reference, few.relevant, MEASURES)["nDCG@10"]
    about = {
        "items": prepared.n_items,
        "queries": len(test),
        "of_queries": len(prepared.task("test")),
        "relevant": len(test.relevant.values),
        "planning": notes,
        "plans": {STAGES[count]: found.about for count, found in planned.items()},
        "valid": {FULL: average(valid_full).value, "queries": len(few)},
        **cell,
        "time": times({**funnels, FULL: Cascade(stages.full)}, test, setting.timed, seed),
    }
    return about, values


def quality(
    stages: Stages, funnels: Mapping[str, Cascade], four: Planned, task: Task, lists: Path
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What each funnel finds, and how near it comes to the full ranking; per-query nDCG@10 beside it."""
    everything = ranked(stages.full, task, 20, lists)
    found = {name: answers(funnel, task).keys for name, funnel in funnels.items()}
    before = cut(stages.cascade, {n: k for n, k in four.depths.items() if n != stages.last.name})
    handed = answers(before, task).keys
    depth = four.depths["rank"]
    behind = _behind(stages, everything.best(depth), task).keys
    found |= {FULL: everything.keys[:, :10], f"{FULL}, then the fourth stage": behind}
    measured = {name: evaluate(keys, task.relevant, MEASURES) for name, keys in found.items()}
    values = {name: measure["nDCG@10"] for name, measure in measured.items()}
    first_ten = everything.keys[:, :10]
    against = {
        name: {
            "nDCG@10": _difference(values[name], values[FULL]),
            "overlap": float(overlap(keys, first_ten, 10).mean()),
        }
        for name, keys in found.items()
        if name != FULL
    }
    against[STAGES[4]] |= {
        "overlap before the fourth stage": float(overlap(handed, first_ten, 10).mean()),
        "overlap with the full ranking and the fourth stage": float(
            overlap(found[STAGES[4]], behind, 10).mean()
        ),
        "nDCG@10 against both with the fourth stage": _difference(
            values[STAGES[4]], values[f"{FULL}, then the fourth stage"]
        ),
    }
    reached = answers(cut(stages.cascade, {"retrieve": four.depths["retrieve"]}), task).keys
    cell = {
        "systems": {
            name: {m: average(v).value for m, v in found.items()} for name, found in measured.items()
        },
        "against the full ranking": against,
        "full ranking over the retriever": _difference(values[FULL], values[STAGES[1]]),
        "share of the full ranking's ten that is retrieved": _contained(first_ten, reached),
    }
    return cell, values


def full_ms(stages: Stages, task: Task, requests: int = 5) -> float:
    """CPU milliseconds of ranking the whole catalogue for one request; the median of a few."""
    request, took = request_of(task), []
    with one_thread():
        for row in range(requests + 1):
            start = time.thread_time()
            stages.full.run(request.rows(row, row + 1), None, 10)
            took.append((time.thread_time() - start) * 1e3)
    return statistics.median(took[1:])


def times(funnels: Mapping[str, Cascade], task: Task, requests: int, seed: int) -> dict[str, Any]:
    """Milliseconds of single requests on one thread; all systems answer each in a new order."""
    request, draw = request_of(task), torch.Generator().manual_seed(seed)
    rows = torch.randperm(len(task), generator=draw)[: requests + 3].tolist()
    names = list(funnels)
    clocks: dict[str, Callable[[], float]] = {"cpu": time.thread_time, "wall": time.perf_counter}
    took: dict[str, dict[str, list[float]]] = {n: {clock: [] for clock in clocks} for n in names}
    with one_thread():
        for number, row in enumerate(rows):
            one = request.rows(row, row + 1)
            for turn in torch.randperm(len(names), generator=draw).tolist():
                before = {clock: now() for clock, now in clocks.items()}
                funnels[names[turn]](one)
                if number >= 3:  # the first ones wake the machine
                    for clock, now in clocks.items():
                        took[names[turn]][clock].append((now() - before[clock]) * 1e3)
    found: dict[str, Any] = {"requests": len(rows) - 3}
    for name in names:
        found[name] = {f"{clock}_ms": round(statistics.median(ms), 3) for clock, ms in took[name].items()}
        for clock, ms in took[name].items():
            pairs = zip(ms, took[FULL][clock], strict=True)
            found[name][f"{clock}_share"] = statistics.median(own / full for own, full in pairs)
    return found


def warm(stages: Stages) -> None:
    """Touch every page of what is mapped from disk: a server has answered before."""
    tables = [stage.table for stage in stages.cascade.stages if isinstance(stage, Rank)]
    tensors = [tensor for table in tables for tensor in table.slice(0, table.rows).values()]
    for tensor in (*tensors, vectors_of(stages.retrieve)):
        tensor.flatten()[:: 4096 // tensor.itemsize].double().sum()


def off_distribution(stages: Stages, lists: Path) -> dict[str, Any]:
    """A ranker taught by served candidates alone: behind its retriever, and over the whole catalogue."""
    rank = stages.served_only()
    task = stages.prepared.task("test")
    full = ranked(stages.over_all(rank, 10), task, 10, lists).keys
    funnel = Cascade(cut(stages.cascade, {"retrieve": 500}).stages[0], rank)
    behind = answers(funnel, task).keys
    values = {
        n: evaluate(k, task.relevant, MEASURES)["nDCG@10"]
        for n, k in {"full": full, "behind": behind}.items()
    }
    return {
        "nDCG@10 behind retrieve(500)": average(values["behind"]).value,
        "nDCG@10 over the whole catalogue": average(values["full"]).value,
        "full over behind": _difference(values["full"], values["behind"]),
        "overlap": float(overlap(behind, full, 10).mean()),
        "of the full ranking's ten retrieved at 500": _contained(
            full, answers(Cascade(funnel.stages[0]), task).keys
        ),
    }


def _funnels(stages: Stages) -> dict[int, Cascade]:
    four = stages.cascade
    own = {stage.name: stage.k for stage in four.stages}
    ranks = {"retrieve": own["retrieve"], "rank": 10}
    return {2: cut(four, ranks), 3: cut(four, {"prerank": own["prerank"], **ranks}), 4: four}


def _behind(stages: Stages, given: Candidates, task: Task) -> Candidates:
    """The fourth stage, given the full ranking's first items."""
    return stages.last.run(request_of(task), given, 10)


def _contained(keys: Tensor, within: Tensor) -> float:
    """The share of ``keys`` (Q, K) that stand anywhere in ``within`` (Q, K')."""
    rows = range(0, len(keys), 256)
    parts = [(keys[s : s + 256, :, None] == within[s : s + 256, None, :]).any(2) for s in rows]
    return float(torch.cat(parts).double().mean())


def _difference(a: Tensor, b: Tensor) -> dict[str, float]:
    interval = asdict(paired_bootstrap(a, b, relative=True))
    return {name: round(interval[name], 5) for name in ("mean", "low", "high")}


def _drawn(task: Task, at_most: int, seed: int) -> Task:
    """Fewer queries are the first of more, so that their full rankings serve both."""
    if len(task) <= at_most:
        return task
    return task.take(torch.randperm(len(task), generator=torch.Generator().manual_seed(seed))[:at_most])
