"""Events larger than memory: encoded Parquet shards on disk, streamed as the same batches."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from twotower.data.atomic import replacing
from twotower.data.batches import Examples, check_queries, event_examples
from twotower.data.catalogue import Catalogue
from twotower.data.history import History, HistoryColumn
from twotower.data.interactions import Interactions
from twotower.data.sharding import Share, random_order
from twotower.errors import ConfigError, StorageError
from twotower.types import Batch

FORMAT = 1
MANIFEST = "manifest.json"
CONTEXT = "context."  # before the names of context columns, so that they never meet the fixed ones
FIXED = ("query", "item", "time", "row", "label", "weight")

Piece = tuple[int, int, int]
"""A stretch of the store: group, first row in it, row behind the last."""


@dataclass(frozen=True)
class EventStore:
    """A directory of encoded events, written by `twotower.data.prepare.prepare`.

    ::

        manifest.json             written last: without it the store is not finished
        part-00000.parquet ...    one per raw file: query, item, time, row, label, weight, context.*
        queries.parquet           ids in key order; likewise items.parquet
        <name>.safetensors        encoded entity tables, memory-mapped when loaded
    """

    directory: Path
    files: tuple[str, ...]
    groups: tuple[tuple[int, int, int], ...]  # file, row group in the file, rows
    notes: tuple[str, ...]  # what was kept, left out and skipped, in plain sentences

    @classmethod
    def open(cls, directory: Path) -> EventStore:
        """Open a finished store and check every shard's footer.

        Raises
        ------
        StorageError
            Preparation never finished, or a shard is missing, truncated or another one.
        """
        try:
            manifest = json.loads((directory / MANIFEST).read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise StorageError(f"{directory}: not a finished store; run its preparation again") from None
        except ValueError as error:
            raise StorageError(
                f"{directory / MANIFEST}: damaged ({error}); delete it and run the preparation again"
            ) from None
        if manifest.get("format") != FORMAT:
            raise StorageError(f"{directory}: format {manifest.get('format')}, this version reads {FORMAT}")
        groups: list[tuple[int, int, int]] = []
        for number, shard in enumerate(manifest["shards"]):
            path = directory / shard["file"]
            try:
                found = group_rows(path)
            except (pa.ArrowException, OSError) as error:
                raise _unreadable(path, error) from error
            if found != shard["groups"]:
                raise StorageError(f"{path}: not the shard that the manifest names; prepare the store again")
            groups += [(number, group, rows) for group, rows in enumerate(found)]
        files = tuple(shard["file"] for shard in manifest["shards"])
        return cls(directory, files, tuple(groups), tuple(manifest["notes"]))

    def __len__(self) -> int:
        """Number of events."""
        return sum(rows for _, _, rows in self.groups)

    def __repr__(self) -> str:
        return f"EventStore({self.directory}: {len(self):,} events in {len(self.groups):,} groups)"

    @cached_property
    def queries(self) -> Catalogue:
        return Catalogue(pl.read_parquet(self.directory / "queries.parquet", glob=False).to_series())

    @cached_property
    def items(self) -> Catalogue:
        return Catalogue(pl.read_parquet(self.directory / "items.parquet", glob=False).to_series())

    def read(self, pieces: Sequence[Piece] | None = None, *, context: bool = True) -> Interactions:
        """Stretches of the store in the order asked, all of it when none are named."""
        if pieces is None:
            pieces = [(group, 0, rows) for group, (_, _, rows) in enumerate(self.groups)]
        tables: list[Any] = []
        with ExitStack() as stack:
            opened: dict[Path, Any] = {}
            for group, first, last in pieces:
                file, at, _ = self.groups[group]
                path = self.directory / self.files[file]
                try:
                    if path not in opened:
                        opened[path] = stack.enter_context(pq.ParquetFile(path))
                    names = [n for n in opened[path].schema_arrow.names if context or n in FIXED]
                    rows = opened[path].read_row_group(at, columns=names)
                except (pa.ArrowException, OSError) as error:
                    raise _unreadable(path, error) from error
                tables.append(rows.slice(first, last - first))
        columns = _tensors(tables)
        return Interactions(
            columns["query"],
            columns["item"],
            columns["time"],
            columns["row"],
            columns.get("label"),
            columns.get("weight"),
            Batch((n.removeprefix(CONTEXT), t) for n, t in columns.items() if n.startswith(CONTEXT)),
        )

    def history(self) -> History:
        """The history of all events in the store: 24 bytes an event, about 120 while it is built."""
        return History.of(self.read(context=False), len(self.queries))

    def put_table(self, name: str, table: Batch) -> None:
        """Write an encoded entity table beside the events."""
        with replacing(self.directory / f"{name}.safetensors") as path:
            save_file({key: tensor.contiguous() for key, tensor in table.items()}, path)

    def table(self, name: str) -> Batch:
        """An entity table, memory-mapped: only rows that are taken are read from disk."""
        path = self.directory / f"{name}.safetensors"
        try:
            return Batch(load_file(path))
        except (SafetensorError, OSError) as error:
            raise StorageError(f"{path}: cannot be read ({error}); write it with put_table") from error


class ParquetBatches:
    """Shuffled batches of single events from a store, in bounded memory.

    An epoch's order: row groups at random, then all rows of one buffer's worth of groups at random. So
    memory holds one buffer, and any step can be the first: what lies before it is skipped, not read.

    Parameters
    ----------
    store
        Finished `EventStore`.
    queries
        Encoded table of all queries, gathered by key; ``store.table("queries")`` stays on disk.
    shuffle_buffer
        Rows mixed at once; it should span many row groups where the raw files are sorted.
    past, strict_time, rank, world, drop_last
        As in `twotower.data.batches.EventBatches`; ranks divide the epoch's order to the row.
    """

    def __init__(
        self,
        store: EventStore,
        queries: Batch,
        *,
        batch_size: int,
        shuffle_buffer: int = 1 << 20,
        past: HistoryColumn | None = None,
        strict_time: bool = False,
        shuffle: bool = True,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
        drop_last: bool = False,
    ) -> None:
        if shuffle_buffer < batch_size:
            raise ConfigError(f"shuffle_buffer={shuffle_buffer} is below batch_size={batch_size}")
        self._store, self._queries, self._past, self._strict_time = store, queries, past, strict_time
        self._share = Share(len(store), batch_size, rank, world, drop_last)
        self._pool_steps = shuffle_buffer // batch_size
        self._shuffle, self._seed = shuffle, seed

    @property
    def steps_per_epoch(self) -> int:
        return self._share.steps

    def epoch(self, number: int, start_step: int = 0) -> Iterator[Examples]:
        """The batches of an epoch from a step on; of the skipped ones at most one buffer is read."""
        groups = np.arange(len(self._store.groups))
        if self._shuffle:
            groups = random_order(len(groups), self._seed, number).numpy()
        step, batches = start_step, self._share.batches()
        self._share.batches(start_step)  # checks it
        while step < len(batches):
            pool = step // self._pool_steps
            inside = batches[pool * self._pool_steps : (pool + 1) * self._pool_steps]
            start, stop = inside[0][0], inside[-1][1]
            events = self._store.read(self._pieces(groups, start, stop))
            check_queries(events.query_keys, self._queries)
            order = torch.arange(stop - start)
            if self._shuffle:
                order = random_order(stop - start, self._seed, number, self._share.rank, pool)
            for first, last in inside[step - pool * self._pool_steps :]:
                yield self._examples(events.take(order[first - start : last - start]))
                step += 1

    def _pieces(self, groups: np.ndarray, start: int, stop: int) -> list[Piece]:
        """The rows start..stop of all groups put end to end in the given order."""
        sizes = np.array([rows for _, _, rows in self._store.groups])[groups]
        ends = sizes.cumsum()
        chosen = range(int(np.searchsorted(ends, start, "right")), int(np.searchsorted(ends, stop)) + 1)
        begins = ends - sizes
        return [
            (int(groups[i]), int(max(start - begins[i], 0)), int(min(stop - begins[i], sizes[i])))
            for i in chosen
        ]

    def _examples(self, events: Interactions) -> Examples:
        positions = None
        if self._past is not None:
            positions = self._past.history.position_of(events, strict_time=self._strict_time)
        return event_examples(events, self._queries, self._past, positions)


def group_rows(path: Path) -> list[int]:
    """Rows of each row group of a Parquet file, from its footer."""
    metadata = pq.read_metadata(path)
    return [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]


def _unreadable(path: Path, error: Exception) -> StorageError:
    return StorageError(f"{path}: cannot be read ({error}); prepare the store again")


def _tensors(tables: Sequence[Any]) -> dict[str, Tensor]:
    """The columns of Arrow tables put end to end, copied once; lists of fixed size become a second axis."""
    return {
        name: torch.from_numpy(
            np.concatenate([_array(chunk) for table in tables for chunk in table.column(name).chunks])
        )
        for name in tables[0].column_names
    }


def _array(chunk: Any) -> np.ndarray:
    if pa.types.is_fixed_size_list(chunk.type):
        values: np.ndarray = chunk.flatten().to_numpy()
        return values.reshape(len(chunk), chunk.type.list_size)
    array: np.ndarray = chunk.to_numpy()
    return array
