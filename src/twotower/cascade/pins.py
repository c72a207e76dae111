"""Items that stand at fixed places.

Letters: Q lists, K candidates of each, L places.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from twotower.cascade.attributes import Attributes
from twotower.cascade.filter import presentable
from twotower.cascade.ruleset import Pin, Rule
from twotower.cascade.stage import Request
from twotower.cascade.tally import EMPTY
from twotower.types import NO_ITEM, Batch, Candidates


class Pins:
    """All `Pin` rules of a stage, their ids looked up. An id that no item has is never at its place."""

    def __init__(self, rules: Sequence[Rule], attributes: Attributes) -> None:
        self._keys: dict[int, tuple[int, int]] = {}  # place from 0 -> number of the rule, key
        self._added: list[int] = []
        for number, rule in enumerate(rules):
            if isinstance(rule, Pin):
                keys = attributes.keys(tuple(rule.places.values())).tolist()
                for place, key in zip(rule.places, keys, strict=True):
                    self._keys[place - 1] = number, key
                self._added += [key for key in keys if rule.insert and key >= 0]

    @property
    def adds(self) -> bool:
        """Whether there is anything to insert."""
        return bool(self._added)

    def insert(self, request: Request, given: Candidates) -> Candidates:
        """One more column for each item to insert: empty where it is there already, or may not be shown."""
        if not self._added:
            return given
        keys = torch.tensor(self._added).expand(len(given.keys), -1)
        there = (given.keys[:, :, None] == keys[:, None]).any(1)
        keys = keys.masked_fill(there | ~presentable(request, keys), NO_ITEM)
        scores = torch.full(keys.shape, -torch.inf, dtype=given.scores.dtype)
        pair = Batch(
            (name, torch.cat([t, t.new_zeros(*keys.shape, *t.shape[2:])], 1))
            for name, t in given.pair.items()
        )
        return Candidates(torch.cat([given.keys, keys], 1), torch.cat([given.scores, scores], 1), pair)

    def columns(self, keys: Tensor, lengths: Tensor, places: int) -> Tensor:
        """(Q, places) the column of ``keys`` (Q, K) that stands fixed there, or EMPTY."""
        pinned = torch.full((len(keys), places), EMPTY)
        for place, (_, key) in self._keys.items():
            if place < places and key >= 0:
                here = keys == key
                held = here.any(1) & (place < lengths)
                pinned[held, place] = here[held].long().argmax(1)
        return pinned

    def missed(self, shown: Tensor, lengths: Tensor, k: int) -> Tensor:
        """(Q, L) int64: bit r where rule r wanted another item, or, in a list that ends before, at its end.

        Places beyond the ``k`` that were asked for miss nothing.
        """
        bits = torch.zeros_like(shown)
        for place, (number, key) in self._keys.items():
            if place < k:
                missed = lengths > 0
                if place < shown.shape[1] and key >= 0:
                    missed &= shown[:, place] != key
                rows = torch.nonzero(missed).flatten()
                bits[rows, lengths[rows].clamp(max=place + 1) - 1] |= 1 << number
        return bits
