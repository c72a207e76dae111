"""A second try, by search, for lists that one pass filled badly."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from twotower.cascade.arrange import arrange
from twotower.cascade.placing import Lists, broken
from twotower.cascade.tally import EMPTY


def repair(lists: Lists, order: Tensor, steps: int, stop: Callable[[], bool]) -> Tensor:
    """``order`` (Q, L), where it breaks something replaced by what `arrange` finds in ``steps`` steps.

    First a list that breaks nothing; failing that, where a quota is broken, one that breaks no quota, as they
    stand above spacing; failing that the list stays. Once ``stop()`` is true, all that are left stay.
    """
    quotas = [n for n, limit in enumerate(lists.limits) if not limit.spacing]
    bits = broken(lists, order)
    a_quota = sum(1 << lists.limits[n].number for n in quotas)
    order = order.clone()
    for row in torch.nonzero(bits.any(1)).flatten().tolist():
        if stop():
            break
        found = _search(lists, range(len(lists.limits)), row, steps, stop)
        if found is None and (bits[row] & a_quota).any():
            found = _search(lists, quotas, row, steps, stop)
        if found is not None:
            order[row, : len(found)] = torch.tensor(found)
    return order


def _search(
    lists: Lists, limits: range | list[int], row: int, steps: int, stop: Callable[[], bool]
) -> list[int] | None:
    columns = torch.nonzero(lists.available[row]).flatten().tolist()
    codes = [lists.codes[n][row].tolist() for n in limits]
    groups = {c: tuple(frozenset(own[c]) - {EMPTY} for own in codes) for c in columns}
    fixed = {p: c for p, c in enumerate(lists.pinned[row].tolist()) if c != EMPTY}
    others = [(c, groups[c]) for c in columns if c not in fixed.values()]
    pinned = {p: (c, groups[c]) for p, c in fixed.items()}
    return arrange([lists.limits[n] for n in limits], others, pinned, int(lists.lengths[row]), steps, stop)
