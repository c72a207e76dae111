"""Many small files of a log of served requests, merged into few larger ones."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from twotower.cascade.funnel_retention import alone, written
from twotower.data.funnel_folder import parts_of
from twotower.data.funnel_part import FunnelAbout, write_part
from twotower.errors import ConfigError, StorageError

FILE_BYTES = 64 << 20


@dataclass(frozen=True)
class Compacted:
    """What was merged, and into what."""

    files: int
    bytes: int
    merged_files: int
    merged_bytes: int

    def __str__(self) -> str:
        return (
            f"{self.files:,} files of {self.bytes:,} bytes merged into "
            f"{self.merged_files:,} of {self.merged_bytes:,} bytes"
        )


def compact_log(directory: str | Path, *, file_bytes: int = FILE_BYTES) -> Compacted:
    """Merge the small files of a `FunnelLog`, those of one day and one cascade with each other.

    Servers may go on logging and others reading: only complete files are merged, and a merged one names in
    its own metadata those that it replaces, which `twotower.data.funnel.Funnel` leaves out until they are
    removed. Killed anywhere, the log reads as before, and the next call removes what was left. The rows of a
    merged file stand in the order of its parts. It bears the time of the newest, and days are not mixed, so
    that `prune_log` removes by age what it would have removed of the small ones, give or take a day.

    Parameters
    ----------
    file_bytes
        Merged files are at most about this large; files above half of it stay as they are. It takes some ten
        times the memory.

    Raises
    ------
    ConfigError
        ``file_bytes`` is below 1.
    StorageError
        No such directory, a damaged file, or the disk refuses.
    """
    if file_bytes < 1:
        raise ConfigError(f"file_bytes must be at least 1, found {file_bytes}")
    folder = Path(directory)
    files, merged = list[int](), list[int]()
    with alone(folder, "compacted") as descriptor:
        parts, left = parts_of(folder)
        _remove(left, descriptor)
        for paths in _together(parts, file_bytes):
            path = folder / f"{paths[-1].name.partition('-')[0]}-{secrets.token_hex(4)}-000000.parquet"
            about = parts[paths[0]].model_copy(update={"replaces": tuple(each.name for each in paths)})
            files += [each.stat().st_size for each in paths]
            write_part(path, _rows(paths), about)
            os.fsync(descriptor)  # the name is on the disk before the first of theirs goes
            merged.append(path.stat().st_size)
            _remove(paths, descriptor)
    return Compacted(len(files), sum(files), len(merged), sum(merged))


def _rows(paths: list[Path]) -> pl.DataFrame:
    try:
        return pl.concat(map(pl.read_parquet, paths), how="diagonal_relaxed")
    except pl.exceptions.ComputeError as error:
        names = ", ".join(path.name for path in paths)
        raise StorageError(f"one of {names} is damaged ({error}); remove or restore it") from None


def _remove(paths: list[Path], folder: int) -> None:
    """Before what replaces them may be replaced itself, they are gone for good."""
    for path in paths:
        if written(path):
            path.unlink(missing_ok=True)
    os.fsync(folder)


def _together(parts: Mapping[Path, FunnelAbout], file_bytes: int) -> Iterator[list[Path]]:
    """Small files to merge: of one day, all saying the same of themselves, oldest first."""
    alike = dict[tuple[str, str], list[Path]]()
    for path, about in sorted(parts.items()):
        if (when := written(path)) and 2 * path.stat().st_size <= file_bytes:
            same = about.model_dump_json(exclude={"replaces"})
            alike.setdefault((f"{when:%Y%m%d}", same), []).append(path)
    for paths in alike.values():
        taken, size = list[Path](), 0
        for path in paths:
            more = path.stat().st_size
            if size + more > file_bytes:
                if len(taken) > 1:
                    yield taken
                taken, size = [], 0
            taken.append(path)
            size += more
        if len(taken) > 1:
            yield taken
