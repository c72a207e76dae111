"""Plan the cascade of a run: measure what its stages cost, what depths are worth, and choose."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from torch import Tensor

from twotower.cascade.cascade import Cascade
from twotower.cascade.rank import Rank
from twotower.errors import ConfigError
from twotower.evaluate.experiment import request_of
from twotower.evaluate.task import Task
from twotower.index.item_table import Encode
from twotower.metrics.ranking import Measure
from twotower.metrics.significance import paired_bootstrap
from twotower.models.base import Model
from twotower.pipeline.assembly import at_depths
from twotower.pipeline.pipeline import Pipeline
from twotower.pipeline.planning.choice import SAMPLES, Point, points_of
from twotower.pipeline.planning.costs import Clock, Costs, measure_costs
from twotower.pipeline.planning.grid import depth_grid, levels_of, sources_of
from twotower.pipeline.planning.plan import Survey
from twotower.pipeline.planning.quality import quality_by_depths, steady_stages
from twotower.pipeline.planning.storage import at_store, store_of, variants_of
from twotower.pipeline.prepared import Prepared
from twotower.pipeline.untaught import validation_task

Say = Callable[[str], None]
TOLD = 10
"""After so many rounds one hears of them."""


def survey_run(
    directory: str | Path,
    *,
    depths: Mapping[str, Sequence[int]] | None = None,
    measure: str = "nDCG@10",
    queries: Literal["fresh", "all"] = "fresh",
    at_most: int = 2000,
    rounds: int = 40,
    clock: Clock = "wall",
    seed: int = 0,
    say: Say = lambda line: None,
) -> Survey:
    """Measure a trained run on this machine and on validation queries; nothing is written.

    ``survey_run("runs/demo").plan(Limits(ms=2))`` is a plan.

    Parameters
    ----------
    depths
        The depths to try of a stage or a source, by its name, instead of those of `planning.grid.depth_grid`.
    queries
        ``fresh`` leaves out the validation queries that a ranker of the cascade learnt lists from: there it
        finds what it was taught, the better the deeper it is asked to look.
    at_most
        Queries drawn from those, where there are more.
    rounds, clock
        How costs are measured, see `twotower.pipeline.planning.costs.measure_costs`.

    Raises
    ------
    ConfigError
        The run has no cascade, or none of the depths asked for can be.
    """
    measure, pipeline = str(Measure.parse(measure)), Pipeline.open(directory)
    cascade, prepared = pipeline.cascade(), pipeline.prepared
    if cascade is None:
        raise ConfigError(f"{directory}: the recipe has no cascade to plan")
    task, notes = validation_task(prepared, queries, at_most, seed)
    grid = depth_grid(cascade, prepared.n_items, depths)
    steady = steady_stages(cascade)
    again = ", ".join(stage.name for stage in cascade.stages[steady:])
    say(f"{len(grid)} depths of {cascade}, on {len(task):,} queries")
    values = quality_by_depths(
        cascade, task, grid, measure, progress=lambda done, total: say(f"  {done:,} of {total:,} queries")
    )
    say(f"costs of {sum(len(stage.names) for stage in cascade.stages)} stages, {rounds} rounds")
    with tempfile.TemporaryDirectory(prefix="twotower-plan-") as scratch:
        variants = variants_of(cascade, encoder(prepared), Path(scratch))
        costs = measure_costs(
            variants,
            request_of(task),
            levels_of(grid),
            rounds=rounds,
            clock=clock,
            seed=seed,
            progress=lambda done, total: say(f"  {done} of {total} rounds") if done % TOLD == 0 else None,
        )
    points = points_of(costs, grid, values)
    time = "time of one thread" if clock == "cpu" else "wall time on one thread"
    notes += [
        f"{measure} on {len(task):,} validation queries at {len(grid)} depths, "
        + (f"{again} run again for each" if again else "all from one pass of the deepest"),
        f"ms: medians of {rounds} single requests, {time}; misfit is of the line, at its worst depth",
        *costs.doubts,
    ]
    now = _of_recipe(points, cascade)
    shorter = _shorter(cascade, task, measure, costs, now, values[now.row])
    return Survey(tuple(points), values, now, costs, measure, tuple(notes), tuple(shorter))


def planned_cascade(
    pipeline: Pipeline, depths: Mapping[str, int], stores: Mapping[str, str] | None = None
) -> Cascade:
    """The run's cascade with other depths and storage depths, as a plan names them; nothing is trained.

    Tables at another storage depth are built in memory.

    Raises
    ------
    ConfigError
        The run has no cascade, or a stage that is named does not exist or does not store so.
    """
    cascade = pipeline.cascade()
    if cascade is None:
        raise ConfigError(f"{pipeline.space.directory}: the recipe has no cascade")
    stages = {stage.name: stage for stage in cascade.stages}
    for name in {*(depths.keys() - sources_of(cascade).keys()), *(stores or {})} - stages.keys():
        raise ConfigError(f"the plan is of another cascade: it has a stage {name!r}, here are {cascade}")
    for name, store in (stores or {}).items():
        stage = stages[name]
        if not isinstance(stage, Rank):
            raise ConfigError(f"stage {name!r} has no storage depth to choose; found {store!r}")
        if store_of(stage) != store:
            stages[name] = at_store(stage, store, encoder(pipeline.prepared), None)
    for stage in stages.values():
        at_depths(stage, depths)
    return Cascade(*stages.values(), budget=cascade.budget)


def encoder(prepared: Prepared) -> Callable[[Model], Encode]:
    """What builds an item table of any model of the run."""
    items = prepared.items
    return lambda model: lambda keys: model.encode_item(items.take(keys))


def _shorter(
    cascade: Cascade, task: Task, measure: str, costs: Costs, now: Point, values: Tensor
) -> list[str]:
    """What the recipe's plan is worth without its last scoring stages: depths say nothing of that.

    ``values`` (Q,) are those of the whole plan.
    """
    notes, last = [], cascade.stages[-1]
    for end in range(len(cascade.stages) - 1, 0, -1):
        if not isinstance(cascade.stages[end], Rank):
            break  # rules and the like are there for other reasons
        kept, gone = cascade.stages[:end], " and ".join(stage.name for stage in cascade.stages[end:])
        names = {*sources_of(cascade), *(stage.name for stage in kept)}
        depths = {name: k for name, k in now.depths.items() if name in names} | {kept[-1].name: last.k}
        shorter = replace(costs, lines={name: own for name, own in costs.lines.items() if name in names})
        own = quality_by_depths(Cascade(*kept), task, [depths], measure)[0]
        gain = paired_bootstrap(own, values, samples=SAMPLES)
        notes.append(
            f"without {gone}: {measure} {own.mean():.4f} ({gain.mean:+.4f} [{gain.low:+.4f}, "
            f"{gain.high:+.4f}] against the recipe's plan) in {shorter.ms(depths, now.stores):.3g} of its "
            f"{now.ms:.3g} ms"
        )
    return notes


def _of_recipe(points: Sequence[Point], cascade: Cascade) -> Point:
    """The plan that the cascade has as it stands, or the nearest that was tried."""
    own = {stage.name: stage.k for stage in cascade.stages} | sources_of(cascade)
    stores = {stage.name: store_of(stage) for stage in cascade.stages}

    def distance(point: Point) -> tuple[int, int]:
        off = sum(abs(k - own[name]) for name, k in point.depths.items())
        return off, sum(stores[name] != store for name, store in point.stores.items())

    return min(points, key=distance)
