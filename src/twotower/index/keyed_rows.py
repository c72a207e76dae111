"""Rows by key, never changed in place: what a delta is made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from twotower.errors import ConfigError
from twotower.index.ragged_rows import alike, joined
from twotower.types import Rep


def find(rising: Tensor, keys: Tensor) -> Tensor:
    """Position of each of ``keys`` among the rising ones, -1 for one that is not there.

    >>> find(torch.tensor([3, 7]), torch.tensor([[7, 8, -1]])).tolist()
    [[1, -1, -1]]
    """
    if len(rising) == 0:
        return torch.full_like(keys, -1)
    position = torch.searchsorted(rising, keys.contiguous()).clamp(max=len(rising) - 1)
    return position.masked_fill(rising[position] != keys, -1)


@dataclass(frozen=True)
class KeyedRows:
    """The representation of n items, in the order of their keys.

    Every change gives new rows and leaves the old ones as they were, so whoever holds some has a consistent
    state for as long as needed, without a lock. A change copies all n rows: made for a delta of thousands
    beside a base of millions. Ragged tensors stand padded, as wide as the widest.

    >>> rows = KeyedRows.of(torch.tensor([9, 4]), Rep(year=torch.tensor([1990, 1985])))
    >>> more = rows.updated(KeyedRows.of(torch.tensor([9, 5]), Rep(year=torch.tensor([1991, 2000]))))
    >>> more.keys.tolist(), more.rep["year"].tolist(), more.without(torch.tensor([5])).keys.tolist()
    ([4, 5, 9], [1985, 2000, 1991], [4, 9])
    """

    keys: Tensor  # (n,) int64, rising
    rep: Rep  # (n, ...)

    @classmethod
    def of(cls, keys: Tensor, rep: Rep) -> Self:
        """Check and sort.

        Raises
        ------
        ConfigError
            Not one row per key, or keys are negative or occur twice.
        """
        if keys.dim() != 1 or any(len(tensor) != len(keys) for tensor in rep.values()):
            shapes = {name: tuple(tensor.shape) for name, tensor in rep.items()}
            raise ConfigError(f"keys of shape {tuple(keys.shape)} need one row each, found {shapes}")
        keys, order = keys.to("cpu", torch.int64).sort()
        if len(keys) and (int(keys[0]) < 0 or (keys.diff() == 0).any()):
            raise ConfigError("keys must be 0 or more and occur once")
        return cls(keys, rep.take(order))

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def n_bytes(self) -> int:
        return sum(t.numel() * t.element_size() for t in (self.keys, *self.rep.values()))

    def positions(self, keys: Tensor) -> Tensor:
        return find(self.keys, keys)

    def updated(self, newer: KeyedRows) -> KeyedRows:
        """With the ``newer`` rows added, or in the place of those of the same key."""
        kept = self._where(newer.positions(self.keys) < 0)
        keys, order = torch.cat([kept.keys, newer.keys]).sort()
        return KeyedRows(keys, joined([kept.rep, newer.rep]).take(order))

    def without(self, keys: Tensor) -> KeyedRows:
        """Without the rows of some keys; keys that are not here are no error."""
        gone = keys.sort().values
        return self._where(find(gone, self.keys) < 0)

    def changed_since(self, older: KeyedRows) -> KeyedRows:
        """The rows that ``older`` has not, or has with other values."""
        position = older.positions(self.keys)
        both = (position >= 0).nonzero()[:, 0]
        same = torch.ones(len(both), dtype=torch.bool)
        for name, tensor in self.rep.items():
            now, then = alike([tensor[both], older.rep[name][position[both]]])
            equal = now == then
            same &= equal[:, None].flatten(1).all(1)
        changed = torch.ones(len(self), dtype=torch.bool)
        changed[both[same]] = False
        return self._where(changed)

    def _where(self, mask: Tensor) -> KeyedRows:
        return KeyedRows(self.keys[mask], Rep((name, tensor[mask]) for name, tensor in self.rep.items()))
