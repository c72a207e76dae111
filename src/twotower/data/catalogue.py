"""Outside ids and inside keys: a key is an entity's row number in its table, and nothing else."""

from __future__ import annotations

from functools import cached_property

import numpy as np
import polars as pl

from twotower.errors import DataError

FEW = 64
"""Ids that are at most this part of a catalogue are searched for, more are joined."""


class Catalogue:
    """The ids of all entities of one side, in key order.

    Ids are integers or strings; keys are 0 .. n-1. Tables and indexes speak keys, every result that leaves
    the library speaks ids.

    >>> items = Catalogue(pl.Series("movie", [318, 50, 527]))
    >>> items.keys(pl.Series([527, 7])).tolist(), items.ids(np.array([0, 2])).to_list()
    ([2, -1], [318, 527])
    """

    def __init__(self, ids: pl.Series) -> None:
        if not (ids.dtype.is_integer() or ids.dtype == pl.String):
            raise DataError(f"ids must be integers or strings, found {ids.dtype}", column=ids.name)
        if ids.null_count() or ids.n_unique() != len(ids):
            raise DataError("ids must be present and unique", column=ids.name)
        self._ids = ids.cast(pl.Int64) if ids.dtype.is_integer() else ids
        self._keys = pl.DataFrame({"id": self._ids, "key": pl.Series(range(len(ids)), dtype=pl.Int64)})

    def __len__(self) -> int:
        return len(self._ids)

    @property
    def name(self) -> str:
        return self._ids.name

    def keys(self, ids: pl.Series) -> np.ndarray:
        """Key of each id, (n,) int64; -1 for an id this catalogue does not hold."""
        wanted = ids.cast(self._ids.dtype, strict=False)
        if self._ids.dtype == pl.Int64 and (ids.dtype.is_float() or ids.dtype == pl.String):
            wanted = wanted.set(wanted.cast(ids.dtype) != ids, None)  # neither 1.5 nor "01" is 1
        if len(wanted) * FEW > len(self):
            joined = pl.DataFrame({"id": wanted}).join(self._keys, on="id", how="left", maintain_order="left")
            return joined["key"].fill_null(-1).to_numpy()
        ids, keys = self._sorted  # as a request asks: a join would look at the whole catalogue
        place = ids.search_sorted(wanted).to_numpy().astype(np.int64).clip(max=len(ids) - 1)
        found = (ids[place] == wanted).fill_null(False).to_numpy()
        return np.where(found, keys[place], -1)

    @cached_property
    def _sorted(self) -> tuple[pl.Series, np.ndarray]:
        """The ids, rising, and the key of each."""
        order = self._ids.arg_sort().to_numpy().astype(np.int64)
        return self._ids[order], order

    def ids(self, keys: np.ndarray) -> pl.Series:
        """Id of each key; keys must be in range."""
        return self._ids[np.asarray(keys, dtype=np.int64)]

    def all_ids(self) -> pl.Series:
        return self._ids
