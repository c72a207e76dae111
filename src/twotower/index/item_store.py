"""Items added, changed and deleted while a bundle serves: one durable log, and all that follows it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import takewhile
from threading import RLock
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor

from twotower.config import nearest
from twotower.data.catalogue import Catalogue
from twotower.errors import ConfigError, DataError
from twotower.index.delta import Delta
from twotower.index.delta_table import DeltaTable
from twotower.index.item_log import Entry, ItemLog
from twotower.index.keyed_rows import KeyedRows
from twotower.index.ragged_rows import joined
from twotower.types import NO_ITEM, Rep

EncodeItems = Callable[[pl.DataFrame], Rep]
"""Raw items, one row each, to their representation: ``model.encode_item(features.encode_items(frame))``."""

ROWS_AT_ONCE = 8192


@dataclass(frozen=True)
class _Known:
    """Which items there are; replaced as a whole, so that whoever asks meanwhile sees one moment."""

    new: Catalogue  # ids of the keys above the catalogue's
    alive: Tensor  # (N,) bool by key

    def after(self, ids: pl.Series, keys: np.ndarray, alive: np.ndarray) -> _Known:
        """With the last word on these items: ids, keys and whether they are there, (n,) each."""
        fresh = np.flatnonzero(keys >= len(self.alive))
        fresh = fresh[np.argsort(keys[fresh])]
        new = Catalogue(pl.concat([self.new.all_ids(), ids[fresh]])) if len(fresh) else self.new
        now = torch.cat([self.alive, torch.zeros(len(fresh), dtype=torch.bool)])
        now[torch.from_numpy(keys)] = torch.from_numpy(alive)
        return _Known(new, now)


class ItemStore:
    """What is known of items after the bundle: a change counts everywhere once it is on the disk, not before.

    An item is a mapping of its id and its raw features, as a row of the item table. A new id gets the next
    key above the catalogue's. A deleted one keeps its key, and gets it back when it is added again.

    Opening a store replays its log, so that tables and indexes stand as they stood, up to the last bits of a
    vector, which depend on the batch it is encoded in. Several processes may share a log; each takes in what
    the others wrote before it writes, and by `refresh`. When a new bundle takes over, its store begins a log
    of its own: ``new.upsert(old.items().drop("key").to_dicts())`` carries over what the bundle lacks.

    Parameters
    ----------
    log
        Where changes are kept.
    catalogue
        The ids of the bundle's items.
    columns
        Names and types of the item table, the id included.
    tables, indexes
        What follows, each with the encoder of its model; an index takes of what it returns the tensor it
        searches, ``vector`` or ``tokens``.
        Tables change before indexes, so that whatever a search finds has its row.
    """

    def __init__(
        self,
        log: ItemLog,
        catalogue: Catalogue,
        columns: Mapping[str, Any],
        *,
        tables: Sequence[tuple[EncodeItems, DeltaTable]] = (),
        indexes: Sequence[tuple[EncodeItems, Delta[Any, Any]]] = (),
    ) -> None:
        if catalogue.name not in columns:
            raise ConfigError(f"the columns {', '.join(columns)} lack the items' id, {catalogue.name}")
        self.log, self.catalogue = log, catalogue
        self.columns = {**columns, catalogue.name: catalogue.all_ids().dtype}
        self.tables, self.indexes = tuple(tables), tuple(indexes)
        new, alive = Catalogue(catalogue.all_ids().clear()), torch.ones(len(catalogue), dtype=torch.bool)
        self._known = _Known(new, alive)
        self._taken: dict[int | str, tuple[int, Entry]] = {}  # last entry of each item, in their order
        self._number = 0  # of the last entry that was taken in
        self._lock = RLock()
        self.refresh()

    # -- changing --------------------------------------------------------------------------------------

    def upsert(self, items: Iterable[Mapping[str, Any]]) -> Tensor:
        """Add or replace items, all or none; returns their keys (n,) once this is on the disk.

        A feature that is not given is missing. Of several items with one id the last counts.

        Raises
        ------
        ConfigError
            An item without id, or with a feature that is no column.
        DataError
            A value of the wrong type, or features that do not encode to finite vectors.
        StorageError
            The log could not be written; nothing has changed.
        """
        name = self.catalogue.name
        given: dict[int | str, dict[str, Any]] = {}
        for item in items:
            id = item.get(name)
            if not isinstance(id, int | str):
                raise ConfigError(f"an item lacks its id: {name} is {id!r} in {dict(item)}")
            given[id] = {n: v for n, v in item.items() if n != name}
        if not given:
            return torch.empty(0, dtype=torch.int64)
        frame = self._frame(given.items())
        reps, ids = self._encode(frame), frame[name]
        with self._lock:
            while True:
                keys = self._keys(ids)
                keys[keys < 0] = len(self._known.alive) + np.arange((keys < 0).sum())
                prepared = self._prepared(torch.from_numpy(keys), reps)
                entries = list(map(Entry, ids.to_list(), keys.tolist(), given.values()))
                if numbered := self._logged(entries):
                    break
            self._follow(prepared, numbered)
        return torch.from_numpy(keys)

    def delete(self, ids: Iterable[int | str]) -> int:
        """Take items out, all or none; returns how many there were. An id that is not there is no error."""
        wanted = self._ids(ids).unique(maintain_order=True)
        with self._lock:
            while True:
                keys = self.keys(wanted)
                gone, keys = wanted.filter(pl.Series(keys >= 0)), keys[keys >= 0]
                if not len(gone):
                    return 0
                entries = [Entry(id, key, None) for id, key in zip(gone, keys.tolist(), strict=True)]
                if numbered := self._logged(entries):
                    break
            self._follow([], numbered)
        return len(gone)

    def refresh(self) -> int:
        """Take in what other processes have logged; returns the number of items that changed."""
        with self._lock:
            numbered = self.log.changes(after=self._number)
            kept = [entry for _, entry in numbered if entry.features is not None]
            keys = torch.tensor([entry.key for entry in kept], dtype=torch.int64)
            reps = self._encode(self._frame((e.id, e.features or {}) for e in kept))
            self._follow(self._prepared(keys, reps), numbered)
            return len(numbered)

    # -- asking ----------------------------------------------------------------------------------------

    def __len__(self) -> int:
        """Items alive."""
        return int(self._known.alive.sum())

    @contextmanager
    def held(self) -> Iterator[None]:
        """Within this nothing here changes, for whoever takes several `snapshot`s that belong together."""
        with self._lock:
            yield

    @property
    def number(self) -> int:
        """Number of the log's last entry that was taken in."""
        return self._number

    @property
    def alive(self) -> Tensor:
        """(N,) bool by key: which items there are, for sources that follow no log (`Request.allow`)."""
        return self._known.alive

    def keys(self, ids: pl.Series) -> np.ndarray:
        """Key of each id, (n,) int64; -1 for one that is unknown or deleted."""
        known = self._known
        keys = self._keys(ids, known)
        there = keys >= 0
        there[there] = known.alive.numpy()[keys[there]]
        return np.where(there, keys, NO_ITEM)

    def ids(self, keys: np.ndarray) -> pl.Series:
        """Id of each key, that of a deleted item as well; keys must be in range."""
        all_ids = pl.concat([self.catalogue.all_ids(), self._known.new.all_ids()], rechunk=False)
        return all_ids[np.asarray(keys, dtype=np.int64)]

    def items(self) -> pl.DataFrame:
        """The raw rows of all items alive that were added or changed, as last given, and their ``key``."""
        kept = [entry for entry in self.changes(after=0) if entry.features is not None]
        frame = self._frame((entry.id, entry.features or {}) for entry in kept)
        return frame.with_columns(pl.Series("key", [entry.key for entry in kept], dtype=pl.Int64))

    def changes(self, after: int) -> list[Entry]:
        """The last entry of each item with one later than number ``after``, of those taken in, in order."""
        with self._lock:
            later = takewhile(lambda numbered: numbered[0] > after, reversed(self._taken.values()))
            return [entry for _, entry in later][::-1]

    # -- the steps of a change -------------------------------------------------------------------------

    def _frame(self, items: Iterable[tuple[int | str, Mapping[str, Any]]]) -> pl.DataFrame:
        """(id, features) of items as rows of the item table."""
        items, name = list(items), self.catalogue.name
        for id, features in items:
            for each in features.keys() - self.columns.keys():
                raise ConfigError(f"item {id!r}: unknown feature {each!r}{nearest(each, list(self.columns))}")
        columns = {}
        for column, dtype in self.columns.items():
            values = [id if column == name else features.get(column) for id, features in items]
            try:
                columns[column] = pl.Series(column, values, dtype=dtype, strict=True)
            except (TypeError, ValueError, OverflowError, pl.exceptions.PolarsError) as error:
                raise DataError(
                    str(error), column=column, remedy=f"give values of the item table's type, {dtype}"
                ) from None
        return pl.DataFrame(columns)

    def _encode(self, frame: pl.DataFrame) -> list[Rep]:
        """What each table, then each index is to hold of these items."""
        targets = (*self.tables, *self.indexes)
        if frame.is_empty():
            return []
        with torch.no_grad():
            parts = [[encode(part) for part in frame.iter_slices(ROWS_AT_ONCE)] for encode, _ in targets]
        return [joined(of_one) for of_one in parts]

    def _prepared(self, keys: Tensor, reps: Sequence[Rep]) -> list[KeyedRows]:
        """The same with keys, checked: after this nothing may fail but the log."""
        if not reps:
            return []
        tables, indexes = reps[: len(self.tables)], reps[len(self.tables) :]
        return [
            *(table.prepared(keys, rep) for (_, table), rep in zip(self.tables, tables, strict=True)),
            *(index.prepared_of(keys, rep) for (_, index), rep in zip(self.indexes, indexes, strict=True)),
        ]

    def _logged(self, entries: Sequence[Entry]) -> list[tuple[int, Entry]]:
        """Write to the log; the entries with their numbers, none, and up to date, if somebody was faster."""
        if self.log.append(entries, after=self._number) is None:
            self.refresh()
            return []
        return list(enumerate(entries, self._number + 1))

    def _follow(self, rows: Sequence[KeyedRows], numbered: Sequence[tuple[int, Entry]]) -> None:
        """Let all that follows the log stand as it says; tables first, for an index names what they hold."""
        if not numbered:
            return
        ids = self._ids(entry.id for _, entry in numbered)
        keys = np.array([entry.key for _, entry in numbered], dtype=np.int64)
        alive = np.array([entry.features is not None for _, entry in numbered], dtype=bool)
        known = self._known.after(ids, keys, alive)
        if rows:
            for (_, table), each in zip(self.tables, rows[: len(self.tables)], strict=True):
                table.put(each)
        self._known = known
        for number, entry in numbered:
            self._taken.pop(entry.id, None)  # so that it stands last
            self._taken[entry.id] = number, entry
        self._number = numbered[-1][0]
        if rows:
            for (_, index), each in zip(self.indexes, rows[len(self.tables) :], strict=True):
                index.put(each)
        for _, index in self.indexes:
            index.delete(torch.from_numpy(keys[~alive]))

    def _ids(self, ids: Iterable[int | str]) -> pl.Series:
        name = self.catalogue.name
        try:
            return pl.Series(name, list(ids), dtype=self.columns[name], strict=True)
        except (TypeError, OverflowError) as error:
            raise DataError(str(error), column=name, remedy=f"ids are {self.columns[name]}") from None

    def _keys(self, ids: pl.Series, known: _Known | None = None) -> np.ndarray:
        """Key of each id, deleted or not; -1 for one that never was."""
        keys = self.catalogue.keys(ids).copy()
        missing = np.flatnonzero(keys < 0)
        new = (known or self._known).new.keys(ids[missing])
        keys[missing] = np.where(new < 0, NO_ITEM, new + len(self.catalogue))
        return keys
