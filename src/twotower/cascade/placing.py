"""Filling the places of a list under quotas and spacing, many lists at a time.

Letters: Q lists, K candidates of each, best first, L places.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from twotower.cascade.tally import EMPTY, Limit, Tally


@dataclass(frozen=True)
class Lists:
    """Q lists to fill: their candidates, and what is asked of their places."""

    limits: Sequence[Limit]
    codes: Sequence[Tensor]  # for each limit (Q, K, V): the groups of each candidate, see `Tally`
    available: Tensor  # (Q, K) bool: the candidates there are
    pinned: Tensor  # (Q, L): the column that stands fixed at a place, or EMPTY
    lengths: Tensor  # (Q,) how many places to fill; no more than there are candidates

    def tally(self, number: int) -> Tally:
        return Tally(self.codes[number].masked_fill(~self.available[..., None], EMPTY))


def place(lists: Lists) -> Tensor:
    """Columns of candidates in the order of places (Q, L); EMPTY after the end of a list.

    From the first place on, each takes the best candidate that breaks the fewest quotas and, among those, the
    fewest spacings: the list is always full. A minimum counts as broken as soon as the free places before its
    end could not hold what is missing. One pass, no second thoughts: `twotower.cascade.arrange` says what
    that can miss.
    """
    limits, pinned, available = lists.limits, lists.pinned, lists.available
    (Q, K), L = available.shape, pinned.shape[1]
    if not K:
        return torch.full_like(pinned, EMPTY)
    column, row = torch.arange(K), torch.arange(Q)
    fixed = pinned >= 0
    to_fill = ~fixed & (torch.arange(L) < lists.lengths[:, None])
    left = available.clone()
    left[row[:, None].expand(Q, L)[fixed], pinned[fixed]] = False
    pins = [p for p, some in enumerate(fixed.any(0).tolist()) if some]
    out = pinned.clone()
    tallies = [lists.tally(n) for n in range(len(limits))]
    for limit, tally in zip(limits, tallies, strict=True):
        for p in pins:
            if p < limit.within - limit.spacing:
                tally.add(pinned[:, p])  # what stands fixed further down counts from the start
    for p in range(L):
        quotas, spacings = _room_lost(limits, tallies, to_fill, p), torch.zeros_like(left, dtype=torch.int64)
        for limit, tally in zip(limits, tallies, strict=True):
            if limit.spacing:  # its places move on: whatever stands closer than so many, on either side
                if p + limit.within - 1 in pins:
                    tally.add(pinned[:, p + limit.within - 1])
                if p >= limit.within:
                    tally.add(out[:, p - limit.within], by=-1)
                spacings += (tally.counted() > 0).any(2)
            elif limit.at_most is not None and p < limit.within:
                quotas = quotas + (tally.counted() >= limit.at_most).any(2)
        cost = (quotas * (len(limits) + 1) + spacings) * K + column
        chosen = cost.masked_fill(~left, torch.iinfo(torch.int64).max).argmin(1).where(to_fill[:, p], EMPTY)
        taken = chosen >= 0
        out[taken, p] = chosen[taken]
        left[row[taken], chosen[taken]] = False
        for limit, tally in zip(limits, tallies, strict=True):
            if limit.spacing or p < limit.within:
                tally.add(chosen)
    return out


def _room_lost(limits: Sequence[Limit], tallies: Sequence[Tally], to_fill: Tensor, p: int) -> Tensor:
    """How many needed items would be left without a place if the candidate took place p.

    (Q, K), or (Q, 1) where that is the same for all.
    """
    lost = torch.zeros(len(to_fill), 1, dtype=torch.int64)
    needs = [
        (limit.within, *tally.needs(limit.at_least))
        for limit, tally in zip(limits, tallies, strict=True)
        if limit.at_least and p < limit.within
    ]
    for end in {within for within, *_ in needs}:
        free = to_fill[:, p + 1 : end].sum(1, keepdim=True)
        parts = [missing - served for within, missing, served in needs if within <= end]
        lost = lost + (torch.stack(parts).sum(0) - free).clamp(min=0)
    return lost


def broken(lists: Lists, order: Tensor) -> Tensor:
    """(Q, L) int64: bit r is set where rule r is broken.

    A maximum and a spacing are broken by the item that is too many or too near to one before it, a minimum by
    the last place that could have met it. A list without places breaks nothing.
    """
    L = order.shape[1]
    bits = torch.zeros_like(order)
    for n, limit in enumerate(lists.limits):
        bit, tally = 1 << limit.number, lists.tally(n)
        cells = tally.cells[tally.rows[:, None], order]  # (Q, L, V)
        end = L if limit.spacing else min(L, limit.within)
        count, distance = _before(cells)
        most = L if limit.at_most is None else limit.at_most
        wrong = distance < limit.within if limit.spacing else count >= most
        inside = (cells < len(tally.counts)) & (torch.arange(L) < end)[:, None]
        bits |= torch.where((wrong & inside).any(2), bit, 0)
        if limit.at_least:
            counts = torch.bincount(cells[inside], minlength=len(tally.counts))
            unmet = tally.per_list((counts < limit.at_least).long()) > 0
            if limit.one_group:
                unmet |= tally.per_list(tally.supply) == 0
            last = lists.lengths.clamp(max=limit.within) - 1
            rows = torch.nonzero(unmet & (last >= 0)).flatten()
            bits[rows, last[rows]] |= bit
    return bits


def _before(cells: Tensor) -> tuple[Tensor, Tensor]:
    """For each cell (Q, L, V) of each place: how often it came before, and how many places ago."""
    L, V = cells.shape[1:]
    flat = cells.flatten()
    order = flat.argsort(stable=True)  # by cell, then by place
    by_cell, place = flat[order], (order // max(1, V)) % max(1, L)
    position = torch.arange(len(flat))
    start = torch.searchsorted(by_cell, by_cell)
    distance = place - place.roll(1)
    distance[start == position] = torch.iinfo(torch.int64).max  # never before
    count = torch.empty_like(flat).scatter_(0, order, position - start)
    return count.view_as(cells), torch.empty_like(flat).scatter_(0, order, distance).view_as(cells)
