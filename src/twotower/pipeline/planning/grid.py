"""The depths a planner tries: geometric, as 10, 20, 50, 100 are, and never deeper than the stage before."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

from twotower.cascade.cascade import Cascade
from twotower.cascade.filter import Filter
from twotower.cascade.fuse import Fuse
from twotower.cascade.rank import Rank
from twotower.config import nearest
from twotower.errors import ConfigError

BEYOND = 4
"""How many times deeper than it is a stage is tried: models have learnt from lists not much longer."""


def depth_grid(
    cascade: Cascade, n_items: int, given: Mapping[str, Sequence[int]] | None = None
) -> list[dict[str, int]]:
    """Depths for every stage, the shallowest first; the cascade's own are among them.

    The last stage hands on what it does. The first and every scoring one before the last are planned: from
    what the last hands on, by 1-2-5 steps to `BEYOND` times their own depth. A filter passes all it is given
    on; other stages keep their depth. Of several sources each is tried alone at half and at twice its depth,
    and all together: with S sources that is 2 S + 3 times the plans of one, and no plan hands on more than
    its sources find. ``given`` replaces the steps of a stage or a source by name; those of sources are then
    tried in all combinations, and sources that are not named keep their depth.

    Raises
    ------
    ConfigError
        ``given`` names no planned stage or source, or leaves no plan.
    """
    *early, last = cascade.stages
    steps = given or {}
    sources = _source_depths(cascade, n_items, steps)
    planned = [s.name for number, s in enumerate(early) if number == 0 or isinstance(s, Rank)]
    for name in steps:
        if name not in (*planned, *sources[0]):
            raise ConfigError(
                f"no depth of a stage {name!r} is planned{nearest(name, [*planned, *sources[0]])}"
            )
    first, own = cascade.stages[0], sources_of(cascade)
    plans = [
        {**depths, **plan}
        for depths in sources
        for plan in _stage_depths(cascade, planned, n_items, steps)
        if not depths
        or plan[first.name] <= sum(depths.values())
        or (plan[first.name] == first.k and depths == own)
    ]
    if not plans:
        raise ConfigError(f"no plan: every depth of a stage is above those of the one before, in {given}")
    return [{**plan, last.name: last.k} for plan in plans]


def sources_of(cascade: Cascade) -> dict[str, int]:
    """The depths of the sources of the first stage, by name; nothing where it is its own source."""
    first = cascade.stages[0]
    return {source.name: source.k for source in first.sources} if isinstance(first, Fuse) else {}


def _source_depths(
    cascade: Cascade, n_items: int, given: Mapping[str, Sequence[int]]
) -> list[dict[str, int]]:
    """Depths for the sources, the cascade's own first; one without any where there are none."""
    own = sources_of(cascade)
    if own.keys() & given.keys():
        tried = [sorted({min(k, n_items) for k in given.get(name, (own[name],))}) for name in own]
        return [dict(zip(own, depths, strict=True)) for depths in itertools.product(*tried)]
    half = {name: max(1, k // 2) for name, k in own.items()}
    twice = {name: min(2 * k, max(k, n_items)) for name, k in own.items()}
    alone = [{**own, name: other[name]} for name in own for other in (half, twice)]
    found = [own, *alone, half, twice]
    return [depths for number, depths in enumerate(found) if depths not in found[:number]]


def _stage_depths(
    cascade: Cascade, planned: Sequence[str], n_items: int, given: Mapping[str, Sequence[int]]
) -> list[dict[str, int]]:
    """Depths for every stage but the last."""
    *early, last = cascade.stages
    plans: list[dict[str, int]] = [{}]
    for number, stage in enumerate(early):
        if stage.name in planned:
            steps = given.get(stage.name) or [*steps_between(last.k, BEYOND * stage.k), stage.k]
            steps = sorted({min(k, n_items) for k in steps})
        else:
            steps = [stage.k]
        passes = isinstance(stage, Filter)
        before = early[number - 1].name if number else ""
        plans = [
            {**plan, stage.name: plan[before] if passes else k}
            for plan in plans
            for k in steps
            if passes or stage.name not in planned or not number or k <= plan[before]
        ]
    return plans


def steps_between(least: int, most: int) -> list[int]:
    """The ends, and 1, 2 and 5 times the powers of ten between them.

    >>> steps_between(20, 800)
    [20, 50, 100, 200, 500, 800]
    """
    found = {least, max(least, most)}
    power = 1
    while power <= most:
        found |= {step * power for step in (1, 2, 5) if least < step * power < most}
        power *= 10
    return sorted(found)


def levels_of(grid: Sequence[Mapping[str, int]], count: int = 5) -> list[dict[str, int]]:
    """At most ``count`` plans that span the grid, to measure costs at: every stage as deep as it is tried.

    >>> grid = [{"retrieve": a, "rank": b, "rerank": 10} for a in (10, 100, 1000) for b in (10, 50)]
    >>> levels_of(grid, 3)
    [{'retrieve': 10, 'rank': 10, 'rerank': 10}, {'retrieve': 100, 'rank': 50, 'rerank': 10},
     {'retrieve': 1000, 'rank': 50, 'rerank': 10}]
    """
    tried = {name: sorted({plan[name] for plan in grid}) for name in grid[0]}
    depths = sorted({k for steps in tried.values() for k in steps})
    chosen = [depths[round(i * (len(depths) - 1) / max(1, count - 1))] for i in range(count)]
    found = [
        {name: min(max(k, steps[0]), steps[-1]) for name, steps in tried.items()}
        for k in dict.fromkeys(chosen)
    ]
    return [level for number, level in enumerate(found) if level not in found[:number]]
