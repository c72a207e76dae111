"""Rows of new and changed items over an item table that cannot change."""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Self

import torch
from torch import Tensor

from twotower.index.item_table import ItemTable, Storage
from twotower.index.keyed_rows import KeyedRows
from twotower.index.ragged_rows import resized
from twotower.index.stored_rep import as_stored
from twotower.types import NO_ITEM, Rep


@dataclass(frozen=True)
class _State:
    """What `take` reads, replaced as a whole."""

    base: ItemTable
    fresh: KeyedRows  # as stored

    def take(self, keys: Tensor) -> Rep:
        position = self.fresh.positions(keys)
        newer = position >= 0
        if not newer.any():
            return self.base.take(keys)
        old = self.base.take(keys.masked_fill(newer, NO_ITEM))
        new = self.base.as_declared(self.fresh.rep.take(position[newer]))
        rep = Rep()
        for spec in self.base.specs:
            rep[spec.name] = old[spec.name]
            if spec.ragged:
                old[spec.length][newer] = new[spec.length]
                rep[spec.length] = old[spec.length]
                width = int(rep[spec.length].max())
                rep[spec.name] = resized(rep[spec.name], width, axis=keys.dim())
                new[spec.name] = resized(new[spec.name], width)
            rep[spec.name][newer] = new[spec.name]
        return rep

    @property
    def rows(self) -> int:
        last = int(self.fresh.keys[-1]) + 1 if len(self.fresh) else 0
        return max(self.base.rows, last)


class DeltaTable:
    """An `ItemTable` whose items may change and which may grow; a change counts at once.

    There is no deleting here: a table answers for the keys it is asked of, and an index that no longer names
    an item is enough. A request that is under way meanwhile still finds its row.

    >>> from twotower.types import RepSpec
    >>> specs = [RepSpec("year", (), "int64")]
    >>> table = DeltaTable(ItemTable.build(lambda keys: Rep(year=keys + 2000), 3, specs, "digest"))
    >>> table.upsert(torch.tensor([1, 3]), Rep(year=torch.tensor([1990, 1991])))
    >>> table.take(torch.tensor([[0, 1, NO_ITEM, 3]]))["year"].tolist(), table.rows
    ([[2000, 1990, 0, 1991]], 4)
    """

    def __init__(self, base: ItemTable) -> None:
        self._state = _State(base, _nothing(base))
        self._writing, self._compacting = Lock(), Lock()
        self.produced_by = base.produced_by
        self.specs, self.kept = base.specs, base.kept

    # -- changing --------------------------------------------------------------------------------------

    def upsert(self, keys: Tensor, rep: Rep) -> None:
        """New or changed rows: keys (n,), and the representation (n, ...) of these items.

        Raises
        ------
        ConfigError
            Keys are negative or occur twice.
        MismatchError
            ``rep`` has other names, shapes or dtypes than the table's specs.
        """
        self.put(self.prepared(keys, rep))

    def prepared(self, keys: Tensor, rep: Rep) -> KeyedRows:
        """What `upsert` would put, checked: for those who must know beforehand that `put` will not fail."""
        return KeyedRows.of(keys, as_stored(rep, keys, self.specs, self.kept))

    def put(self, rows: KeyedRows) -> None:
        """`upsert` what `prepared` returned."""
        with self._writing:
            state = self._state
            self._state = _State(state.base, state.fresh.updated(rows))

    def compact(self, directory: str | Path | None = None) -> None:
        """Build a new base with all rows, streamed to ``directory`` if given, then take the old one's place.

        Searches and changes go on meanwhile, as for `DeltaIndex.compact`. A key below the highest that never
        had a row gets zeros.
        """
        with self._compacting:
            before = self._state

            def encode(keys: Tensor) -> Rep:
                known = (keys < before.base.rows) | (before.fresh.positions(keys) >= 0)
                return before.take(keys.masked_fill(~known, NO_ITEM))

            base = ItemTable.build(
                encode,
                before.rows,
                self.specs,
                self.produced_by,
                storage=self._storage,
                directory=directory,
                resume=False,  # what a compaction that died has left is of rows as they were then
            )
            with self._writing:
                self._state = _State(base, self._state.fresh.changed_since(before.fresh))

    @property
    def _storage(self) -> Storage | None:
        names: tuple[Storage, ...] = ("float32", "bfloat16", "float16")
        other = {kept.dtype for kept, spec in zip(self.kept, self.specs, strict=True) if kept != spec}
        return next((name for name in names if name in other), None)

    # -- the table -------------------------------------------------------------------------------------

    def snapshot(self) -> Self:
        """The rows as they are now, whatever is changed later; costs nothing."""
        return copy(self)  # states are replaced, never changed

    @property
    def rows(self) -> int:
        """One more than the highest key; not every key below need have a row."""
        return self._state.rows

    @property
    def n_fresh(self) -> int:
        """Rows beside the base."""
        return len(self._state.fresh)

    @property
    def bytes_per_item(self) -> float:
        """Bytes of one item as the base stores it."""
        return self._state.base.bytes_per_item

    @property
    def taken_bytes(self) -> int:
        """Bytes of one item as `take` hands it out at most: padded to the longest there is."""
        state = self._state
        wide = {spec.name: state.fresh.rep[spec.name].shape[1] for spec in self.specs if spec.ragged}
        fresh = sum(spec.bytes_per_item * wide.get(spec.name, 1) for spec in self.specs)
        return max(state.base.taken_bytes, fresh)

    def take(self, keys: Tensor) -> Rep:
        """The newest rows by key, (Q, K) -> tensors (Q, K, ...), as `ItemTable.take`."""
        return self._state.take(keys)

    def slice(self, start: int, stop: int) -> Rep:
        """The newest rows start .. stop-1, (C, ...)."""
        return self._state.take(torch.arange(start, stop))

    def __repr__(self) -> str:
        return f"DeltaTable({self._state.base} + {self.n_fresh:,} fresh)"


def _nothing(base: ItemTable) -> KeyedRows:
    rep = Rep()
    for spec in base.kept:
        shape = (0, 0) if spec.ragged else (0,)
        rep[spec.name] = torch.empty(*shape, *spec.shape, dtype=getattr(torch, spec.dtype))
        if spec.ragged:
            rep[spec.length] = torch.empty(0, dtype=torch.int64)
    return KeyedRows(torch.empty(0, dtype=torch.int64), rep)
