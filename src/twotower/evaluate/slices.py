"""The funnel for some of the queries, or some of the items, beside the rest.

Shape letters: S stages, Q queries, N relevant (query, item) pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from twotower.errors import DataError
from twotower.evaluate.experiment import Experiment
from twotower.metrics.significance import Interval, bootstrap_mean
from twotower.types import NO_ITEM

_THIRDS = (1 / 3, 2 / 3)


@dataclass(frozen=True)
class Group:
    """Some of a population, under a name; ``rule`` says in words who belongs to it."""

    family: str
    name: str
    rule: str
    members: Tensor  # bool, (Q,) or (n_items,)


@dataclass(frozen=True)
class Slice:
    """What the funnel does for one group. Intervals are over queries; None where there is nothing in it."""

    group: Group
    queries: int  # with something relevant in the slice
    relevant: int
    survived: tuple[Interval | None, ...]  # per stage: share of a query's relevant items still alive
    order: Interval | None  # the main measure of the last stage; None for slices of items


def groups_of_queries(past: Tensor) -> tuple[Group, ...]:
    """By what is known of them: ``past`` (Q,) is the length of each query's history.

    Cold queries have none. The others are cut into thirds of rising activity, as far as ties allow.

    >>> [(g.name, g.rule, g.members.tolist()) for g in groups_of_queries(torch.tensor([0, 2, 9, 4]))][2:]
    [('quiet', 'history of 2 to 2', [False, True, False, False]),
     ('medium', 'history of 4 to 4', [False, False, False, True]),
     ('active', 'history of 9 to 9', [False, False, True, False])]
    """
    warm = past > 0
    groups = [
        Group("requests by history", "cold", "no history before the cut", ~warm),
        Group("requests by history", "warm", "some history", warm),
    ]
    if not bool(warm.any()):
        return tuple(groups)
    low, high = torch.quantile(past[warm].double(), torch.tensor(_THIRDS, dtype=torch.float64)).tolist()
    for name, members in (
        ("quiet", warm & (past <= low)),
        ("medium", (past > low) & (past <= high)),
        ("active", past > max(high, 0)),
    ):
        if bool(members.any()):
            own = past[members]
            rule = f"history of {int(own.min()):,} to {int(own.max()):,}"
            groups.append(Group("requests by activity", name, rule, members))
    return tuple(groups)


def groups_of_items(training: Tensor) -> tuple[Group, ...]:
    """By popularity: ``training`` (n_items,) counts each item's positive training events.

    Cold items have none. Head, torso and tail are the items, most popular first, that hold the first,
    second and last third of the events; equal counts by rising key.

    >>> [(g.name, g.members.nonzero()[:, 0].tolist()) for g in groups_of_items(torch.tensor([1, 6, 3, 0, 2]))]
    [('cold', [3]), ('warm', [0, 1, 2, 4]), ('head', [1]), ('torso', [2]), ('tail', [0, 4])]
    """
    order = training.argsort(descending=True, stable=True)
    counts = training[order].double()
    share = (counts.cumsum(0) - counts) / counts.sum().clamp(min=1)  # of the events, before each item
    before = torch.empty_like(share).index_copy(0, order, share)
    warm = training > 0
    bands = (
        ("head", "first", warm & (before < _THIRDS[0])),
        ("torso", "second", warm & (before >= _THIRDS[0]) & (before < _THIRDS[1])),
        ("tail", "last", warm & (before >= _THIRDS[1])),
    )
    return (
        Group("items by training", "cold", "no positive in training", ~warm),
        Group("items by training", "warm", "some positive in training", warm),
        *(
            Group(
                "items by popularity", name, f"{int(m.sum()):,} items with the {place} third of positives", m
            )
            for name, place, m in bands
        ),
    )


def slice_queries(
    experiment: Experiment, groups: Sequence[Group], measure: str, samples: int = 2000
) -> tuple[Slice, ...]:
    """The funnel for the queries of each group; ``measure`` is one the experiment holds."""
    alive = experiment.fate.share_alive
    order = experiment.stages[-1].values[measure]
    lengths = experiment.task.relevant.lengths
    found = []
    for group in groups:
        _check(group, len(experiment.task), "queries")
        n = int(group.members.sum())
        survived = tuple(_interval(share[group.members], samples) for share in alive)
        interval = _interval(order[group.members], samples)
        found.append(Slice(group, n, int(lengths[group.members].sum()), survived, interval))
    return tuple(found)


def slice_items(
    experiment: Experiment, groups: Sequence[Group], n_items: int, samples: int = 2000
) -> tuple[Slice, ...]:
    """What becomes of the relevant items that are in each group, as if they alone were relevant.

    A relevant item outside the catalogue, -1, is in no group.
    """
    fate, relevant = experiment.fate, experiment.task.relevant
    row, Q, known = relevant.row_of_value(), len(relevant), relevant.values != NO_ITEM
    found = []
    for group in groups:
        _check(group, n_items, "items")
        inside = group.members[relevant.values.clamp(min=0)] & known
        wanted = torch.bincount(row[inside], minlength=Q).double()
        survived = tuple(
            _interval(torch.bincount(row[inside & alive], minlength=Q) / wanted, samples)
            for alive in fate.alive
        )
        found.append(Slice(group, int((wanted > 0).sum()), int(inside.sum()), survived, None))
    return tuple(found)


def _interval(values: Tensor, samples: int) -> Interval | None:
    return None if bool(values.isnan().all()) else bootstrap_mean(values, samples=samples)


def _check(group: Group, n: int, what: str) -> None:
    if group.members.shape != (n,) or group.members.dtype != torch.bool:
        raise DataError(
            f"group {group.name!r} has members {group.members.dtype} {tuple(group.members.shape)}; "
            f"expected bool, one for each of {n} {what}"
        )
