"""From raw Parquet shards to an event store, one bounded chunk at a time."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from twotower.config import nearest
from twotower.data.atomic import replacing
from twotower.data.catalogue import Catalogue
from twotower.data.files import sha256_of
from twotower.data.interactions import broken_numbers, number_array
from twotower.data.store import CONTEXT, FORMAT, MANIFEST, EventStore, group_rows
from twotower.errors import ConfigError, DataError, MismatchError
from twotower.schema import ROW, Schema
from twotower.types import Batch

PLAN = "plan.json"
CHUNK_ROWS = 1 << 19
"""Raw rows in memory at once."""
GROUP_ROWS = 1 << 16
"""Rows of a row group in the store: the smallest stretch that streaming reads."""

Progress = Callable[[int, int], None]
"""Told rows done and rows in all."""


def stream_catalogue(files: Sequence[Path], column: str, progress: Progress | None = None) -> Catalogue:
    """All ids of a column over many Parquet files, sorted; memory is that of the distinct ids."""
    total, done = sum(_raw_rows(file) for file in files), 0
    ids = pl.Series(column, [], dtype=pl.Null)
    for file in files:
        for first, chunk in _chunks(file, {column: column}):
            missing = chunk[column].is_null()
            if missing.any():
                line = first + int(missing.arg_true()[0]) + 1
                raise DataError("an id is missing", file=file, line=line, column=column)
            fresh = chunk[column].unique()
            if fresh.dtype.is_integer():
                fresh = fresh.cast(pl.Int64)
            if len(ids) and fresh.dtype != ids.dtype:
                raise DataError(
                    f"ids are {fresh.dtype} here and {ids.dtype} in the files before",
                    file=file,
                    column=column,
                    remedy="export all files with one type",
                )
            ids = pl.concat([ids, fresh]).unique() if len(ids) else fresh
            done += len(chunk)
            if progress is not None:
                progress(done, total)
    if not len(ids):
        raise DataError("no ids at all", column=column, remedy="check the list of files")
    return Catalogue(ids.sort())


def prepare(
    directory: Path,
    files: Sequence[Path],
    schema: Schema,
    queries: Catalogue,
    items: Catalogue,
    *,
    label: str | None = None,
    columns: Mapping[str, str] | None = None,
    keep: pl.Expr | None = None,
    context: Callable[[pl.DataFrame], Batch] | None = None,
    produced_by: str = "",
    on_error: Literal["raise", "skip"] = "raise",
    progress: Progress | None = None,
) -> EventStore:
    """Encode the events of raw Parquet files into a store, shard by shard; an interrupted run goes on.

    Parameters
    ----------
    directory
        Where the store is written. Shards finished by an earlier run of the same plan are kept.
    files
        Raw shards; their order gives every event its row number, the last word on ties.
    queries, items
        Catalogues that hold all ids of the events; see `stream_catalogue`.
    label, columns
        The label column to keep; the columns of the files where they differ from the schema's names.
    keep
        Which events to keep, on the schema's names, e.g. ``pl.col("time") <= cut``; counted in ``notes``.
    context, produced_by
        Encoder of the context columns, and a digest of it that tells one encoder from another.
    on_error
        ``skip`` leaves out rows with unknown ids or broken numbers, and counts them in ``notes``.

    Raises
    ------
    DataError
        A file is unreadable or lacks a column, or (``on_error="raise"``) a row is broken.
    MismatchError
        The directory holds the beginning of another plan.
    StorageError
        The disk refuses; run again to go on.
    """
    if not files:
        raise ConfigError("no files to prepare")
    if label is not None and label not in (labels := {field.name for field in schema.labels}):
        raise ConfigError(f"no label {label!r} in the schema{nearest(label, labels)}")
    renamed = {name: (columns or {}).get(name, name) for name in schema.event_columns}
    encoder = _Encoder(schema, queries, items, label, keep, context, on_error)
    sizes = [_raw_rows(file) for file in files]
    firsts, total = np.cumsum([0, *sizes[:-1]]).tolist(), sum(sizes)
    plan = {
        "format": FORMAT,
        "schema": schema.plain(),
        "columns": renamed,
        "label": label,
        "keep": _digest(keep) if keep is not None else None,
        "produced_by": produced_by,
        "on_error": on_error,
    }
    _begin(directory, plan, files, queries, items)
    shards = [directory / f"part-{number:05d}.parquet" for number in range(len(files))]
    tell = progress or (lambda done, total: None)
    for file, shard, first, size in zip(files, shards, firsts, sizes, strict=True):
        if not shard.exists():
            _write_shard(shard, file, renamed, first, encoder, lambda done: tell(done, total))
        tell(first + size, total)
    return _finish(directory, shards)


@dataclass(frozen=True)
class _Encoder:
    """Raw chunks to encoded ones."""

    schema: Schema
    queries: Catalogue
    items: Catalogue
    label: str | None
    keep: pl.Expr | None
    context: Callable[[pl.DataFrame], Batch] | None
    on_error: Literal["raise", "skip"]

    def __call__(self, chunk: pl.DataFrame, file: Path, first: int) -> tuple[pa.Table | None, int]:
        """The encoded rows that are kept, and how many were broken; ``first`` is the chunk's line - 1."""
        schema = self.schema
        query_keys = pl.Series(self.queries.keys(chunk[schema.query]))
        item_keys = pl.Series(self.items.keys(chunk[schema.item]))
        broken = {schema.query: query_keys < 0, schema.item: item_keys < 0}
        for column in filter(None, (schema.time, self.label, schema.weight)):
            try:
                broken[column] = broken_numbers(chunk[column])
            except DataError as error:
                raise DataError(str(error), file=file) from None
        if self.on_error == "raise":
            self._refuse(chunk, broken, file, first)
        bad = pl.select(pl.any_horizontal(*broken.values())).to_series()
        keep = pl.lit(True) if self.keep is None else self.keep.fill_null(False)
        chosen = chunk.select((pl.lit(~bad) & keep).alias("chosen")).to_series()
        kept = chunk.filter(chosen)
        if kept.is_empty():
            return None, int(bad.sum())
        arrays = {
            "query": query_keys.filter(chosen).to_numpy(),
            "item": item_keys.filter(chosen).to_numpy(),
            "time": number_array(kept[schema.time]) if schema.time else np.zeros(len(kept), dtype=np.int64),
            "row": kept[ROW].to_numpy(),
        }
        for name, source in (("label", self.label), ("weight", schema.weight)):
            if source is not None:
                arrays[name] = number_array(kept[source]).astype(np.float32)
        context = self.context(kept) if self.context is not None else Batch()
        arrays |= {CONTEXT + name: tensor.numpy() for name, tensor in context.items()}
        return pa.table({name: _arrow(array) for name, array in arrays.items()}), int(bad.sum())

    def _refuse(self, chunk: pl.DataFrame, broken: Mapping[str, pl.Series], file: Path, first: int) -> None:
        for column, bad in broken.items():
            if bad.any():
                at = int(bad.arg_true()[0])
                is_key = column in (self.schema.query, self.schema.item)
                raise DataError(
                    f"{chunk[column][at]!r} is {'not in the catalogue' if is_key else 'not a finite number'}",
                    file=file,
                    line=first + at + 1,
                    column=column,
                    remedy="repair the row, or use on_error='skip'",
                )


def _write_shard(
    shard: Path,
    file: Path,
    columns: Mapping[str, str],
    first: int,
    encoder: _Encoder,
    tell: Callable[[int], None],
) -> None:
    counts = {"read": 0, "kept": 0, "broken": 0}
    writer: Any = None
    with replacing(shard) as path:
        try:
            for line, chunk in _chunks(file, columns):
                rows = chunk.with_row_index(ROW, offset=first + line).cast({ROW: pl.Int64})
                table, broken = encoder(rows, file, line)
                if table is not None:
                    writer = writer or pq.ParquetWriter(path, table.schema, compression="zstd")
                    writer.write_table(table, row_group_size=GROUP_ROWS)
                    counts["kept"] += len(table)
                counts["read"] += len(chunk)
                counts["broken"] += broken
                tell(first + counts["read"])
            writer = writer or pq.ParquetWriter(path, pa.schema([]))
            writer.add_key_value_metadata({"twotower": json.dumps(counts)})
        finally:
            if writer is not None:
                writer.close()


def _digest(keep: pl.Expr) -> str:
    """What tells one condition from another, however long the lists in it are."""
    try:
        return hashlib.sha256(keep.meta.serialize()).hexdigest()
    except pl.exceptions.PolarsError as error:
        raise ConfigError(f"keep cannot be written down ({error}); say it without Python functions") from None


def _noted(file: Path, before: Sequence[Any]) -> list[Any]:
    """Name, content, size and time of a raw file; it is read where the last two are not as ``before``."""
    found = file.stat()
    about = [found.st_size, found.st_mtime_ns]
    return [file.name, before[1] if before[2:] == about else sha256_of(file), *about]


def _begin(
    directory: Path, plan: dict[str, Any], files: Sequence[Path], queries: Catalogue, items: Catalogue
) -> None:
    """Write down what is to be done, or make sure that an earlier run set out to do the same."""
    path = directory / PLAN
    directory.mkdir(parents=True, exist_ok=True)
    ids = {"queries": queries.all_ids(), "items": items.all_ids()}
    if path.exists():
        old = json.loads(path.read_text(encoding="utf-8"))
        differing = [key for key in plan if old.get(key) != json.loads(json.dumps(plan[key]))]
        there = old.get("files", [])
        if len(there) != len(files) or any(
            _noted(file, before)[:2] != before[:2] for file, before in zip(files, there, strict=True)
        ):
            differing.insert(0, "files")
        differing += [
            name
            for name, series in ids.items()
            if not pl.read_parquet(directory / f"{name}.parquet", glob=False).to_series().equals(series)
        ]
        if differing:
            raise MismatchError(
                f"{directory} was begun with other {', '.join(differing)}; "
                "use another directory, or delete this one to start anew"
            )
        return
    for name, series in ids.items():
        with replacing(directory / f"{name}.parquet") as temporary:
            series.to_frame().write_parquet(temporary)
    plan |= {"files": [_noted(file, []) for file in files]}
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(plan, indent=1), encoding="utf-8")


def _finish(directory: Path, shards: Sequence[Path]) -> EventStore:
    entries, totals = [], {"read": 0, "kept": 0, "broken": 0}
    for shard in shards:
        counts = json.loads(pq.read_metadata(shard).metadata[b"twotower"])
        totals = {name: total + counts[name] for name, total in totals.items()}
        entries.append({"file": shard.name, "groups": group_rows(shard)})
    if not totals["kept"]:
        raise DataError(f"no event left of {totals['read']:,}", remedy="check the files, and 'keep'")
    notes = [f"{totals['kept']:,} of {totals['read']:,} events are in the store"]
    if totals["broken"]:
        notes.append(f"{totals['broken']:,} broken rows were skipped")
    left_out = totals["read"] - totals["kept"] - totals["broken"]
    if left_out:
        notes.append(f"{left_out:,} events were left out by the condition 'keep'")
    with replacing(directory / MANIFEST) as temporary:
        manifest = {"format": FORMAT, "shards": entries, "notes": notes}
        temporary.write_text(json.dumps(manifest, indent=1), encoding="utf-8")
    return EventStore.open(directory)


def _chunks(file: Path, columns: Mapping[str, str]) -> Iterator[tuple[int, pl.DataFrame]]:
    """First row and contents of each chunk of a raw file, under the names on the left of ``columns``."""
    first = 0
    try:
        with pq.ParquetFile(file, pre_buffer=False) as parquet:
            found = parquet.schema_arrow.names
            for column in columns.values():
                if column not in found:
                    raise DataError(f"no such column{nearest(column, found)}", file=file, column=column)
            for batch in parquet.iter_batches(CHUNK_ROWS, columns=list(columns.values())):
                chunk = pl.DataFrame(batch)
                yield first, chunk.select(pl.col(old).alias(new) for new, old in columns.items())
                first += len(chunk)
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(file, error) from error


def _raw_rows(file: Path) -> int:
    try:
        return int(pq.read_metadata(file).num_rows)
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(file, error) from error


def _unreadable(file: Path, error: Exception) -> DataError:
    return DataError(f"not a readable Parquet file ({error})", file=file, remedy="fetch or write it again")


def _arrow(array: np.ndarray) -> Any:
    if array.ndim == 1:
        return pa.array(array)
    if array.ndim == 2:
        return pa.FixedSizeListArray.from_arrays(pa.array(array.reshape(-1)), array.shape[1])
    raise ConfigError(f"context columns must be (N,) or (N, width), found {array.shape}")
