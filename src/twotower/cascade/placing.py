"""Filling the places of a list under quotas and spacing, many lists at a time.

Letters: Q lists, K candidates of each, best first, L places.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from twotower.cascade.tally import EMPTY, Limit, Tally


def place(
    limits: Sequence[Limit], codes: Sequence[Tensor], available: Tensor, pinned: Tensor, lengths: Tensor
) -> Tensor:
    """Columns of candidates in the order of places (Q, L); EMPTY after the end of a list.

    From the first place on, each takes the best candidate that breaks the fewest quotas and, among those, the
    fewest spacings: the list is always full. A minimum counts as broken as soon as the free places before its
    end could not hold what is missing. One pass, no second thoughts: `twotower.cascade.arrange` says what
    that can miss.

    Parameters
    ----------
    codes
        For each limit (Q, K, V): the groups of each candidate, see `Tally`.
    available
        (Q, K) bool: the candidates there are.
    pinned
        (Q, L): the column that stands fixed at a place, or EMPTY.
    lengths
        (Q,) how many places to fill; no more than there are candidates.
    """
    (Q, K), L = available.shape, pinned.shape[1]
    if not K:
        return torch.full_like(pinned, EMPTY)
    column, row = torch.arange(K), torch.arange(Q)
    to_fill = (pinned == EMPTY) & (torch.arange(L) < lengths[:, None])
    left = available.clone()
    fixed = pinned >= 0
    left[row[:, None].expand(Q, L)[fixed], pinned[fixed]] = False
    out = pinned.clone()
    tallies = [Tally(own.masked_fill(~available[..., None], EMPTY)) for own in codes]
    for limit, tally in zip(limits, tallies, strict=True):
        for p in range(min(L, limit.within - limit.spacing)):
            tally.add(pinned[:, p])  # what stands fixed further down counts from the start
    for p in range(L):
        quotas, spacings = _room_lost(limits, tallies, to_fill, p), torch.zeros_like(left, dtype=torch.int64)
        for limit, tally in zip(limits, tallies, strict=True):
            if limit.spacing:
                _slide(tally, limit.within, pinned, out, p)
                spacings += (tally.of(tally.counts) > 0).any(2)
            elif limit.at_most is not None and p < limit.within:
                full = torch.cat([tally.counts >= limit.at_most, torch.tensor([False])])
                quotas = quotas + full[tally.cells].any(2)
        cost = (quotas * (len(limits) + 1) + spacings) * K + column
        chosen = cost.masked_fill(~left, torch.iinfo(torch.int64).max).argmin(1)
        chosen = chosen.where(to_fill[:, p], EMPTY)
        taken = chosen >= 0
        out[taken, p] = chosen[taken]
        left[row[taken], chosen[taken]] = False
        for limit, tally in zip(limits, tallies, strict=True):
            if limit.spacing or p < limit.within:
                tally.add(chosen)
    return out


def _slide(tally: Tally, width: int, pinned: Tensor, out: Tensor, p: int) -> None:
    """Move a spacing's window on to place p: whatever stands closer than ``width`` on either side."""
    if p + width <= pinned.shape[1]:
        tally.add(pinned[:, p + width - 1])
    if p >= width:
        tally.add(out[:, p - width], by=-1)


def _room_lost(limits: Sequence[Limit], tallies: Sequence[Tally], to_fill: Tensor, p: int) -> Tensor:
    """How many needed items would be left without a place if the candidate took place p.

    (Q, K), or (Q, 1) where that is the same for all.
    """
    Q = len(to_fill)
    lost = torch.zeros(Q, 1, dtype=torch.int64)
    minima = [(limit, tally) for limit, tally in zip(limits, tallies, strict=True) if limit.at_least]
    for end in {limit.within for limit, _ in minima if p < limit.within}:
        missing, served = torch.zeros_like(lost), torch.zeros_like(lost)
        for limit, tally in minima:
            if limit.within <= end:
                needs = tally.needs(limit.at_least)
                missing += tally.per_list(needs, Q)[:, None]
                served = served + tally.of(needs.clamp(max=1)).sum(2)
        free = to_fill[:, p + 1 : end].sum(1, keepdim=True)
        lost = lost + (missing - free - served).clamp(min=0)
    return lost


def broken(
    limits: Sequence[Limit], codes: Sequence[Tensor], available: Tensor, order: Tensor, lengths: Tensor
) -> Tensor:
    """(Q, L) int64: bit r is set where rule r is broken.

    A maximum and a spacing are broken by the item that is too many or too near to one before it, a minimum by
    the last place that could have met it. A list without places breaks nothing.
    """
    Q, L = order.shape
    bits = torch.zeros_like(order)
    for limit, own in zip(limits, codes, strict=True):
        tally, bit = Tally(own.masked_fill(~available[..., None], EMPTY)), 1 << limit.number
        for p in range(L if limit.spacing else min(L, limit.within)):
            if limit.spacing and p >= limit.within:
                tally.add(order[:, p - limit.within], by=-1)
            tally.add(order[:, p])
            most = 1 if limit.spacing else limit.at_most
            if most is not None:
                bits[:, p] |= torch.where(tally.most(order[:, p]) > most, bit, 0)
        if limit.at_least:
            unmet = tally.per_list((tally.counts < limit.at_least).long(), Q) > 0
            if limit.one_group:
                unmet |= tally.per_list(tally.supply, Q) == 0
            last = lengths.clamp(max=limit.within) - 1
            rows = torch.nonzero(unmet & (last >= 0)).flatten()
            bits[rows, last[rows]] |= bit
    return bits
