"""How long the funnel of served requests is kept: old files go, whole and one by one."""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from twotower.data.funnel_part import about_part
from twotower.errors import ConfigError, StorageError

_NAME = re.compile(r"(\d{8}T\d{6})-[0-9a-f]{8}-\d{6,}\.parquet")
_DRAFT_AGE = timedelta(days=1)
"""A draft this old is a killed writer's: a file takes seconds to write."""


@dataclass(frozen=True)
class Pruned:
    """What went, and what is left of the log."""

    files: int
    bytes: int
    kept_files: int
    kept_bytes: int

    def __str__(self) -> str:
        return (
            f"{self.files:,} files of {self.bytes:,} bytes removed; "
            f"{self.kept_files:,} files of {self.kept_bytes:,} bytes are left"
        )


def prune_log(
    directory: str | Path,
    *,
    keep_days: float | None = None,
    keep_bytes: int | None = None,
    now: datetime | None = None,
) -> Pruned:
    """Remove the files of a `FunnelLog` that are too old or too many, the oldest first.

    A file's age is that of its writing, which its name tells; that of a merged one is its newest part's.
    Servers may go on logging: a file that is being written has another name until it is complete, and the
    newest are the last to go. Killed anywhere, what is left is a log. Whoever reads meanwhile and has listed
    a file that goes lists them anew. Files that no `FunnelLog` named are not touched. Drafts that a killed
    server left are removed after a day, parts that a killed compaction had merged already at once.

    Parameters
    ----------
    keep_days
        What was written before so many days goes.
    keep_bytes
        Of what is left the newest files stay that are no larger together.
    now
        In place of the clock; with a time zone.

    Raises
    ------
    ConfigError
        Nothing is said of what to keep, or less than nothing.
    StorageError
        No such directory, or a file cannot be removed.
    """
    if keep_days is None and keep_bytes is None:
        raise ConfigError("say what to keep: so many days, so many bytes, or both")
    if (keep_days is not None and not keep_days >= 0) or (keep_bytes is not None and keep_bytes < 0):
        raise ConfigError(f"keep_days and keep_bytes are at least 0, found {keep_days}, {keep_bytes}")
    folder, clock = Path(directory), now or datetime.now(UTC)
    with alone(folder, "pruned"):
        for draft in folder.glob(".*.parquet.partial"):
            if clock - datetime.fromtimestamp(draft.stat().st_mtime, UTC) > _DRAFT_AGE:
                draft.unlink(missing_ok=True)
        found = [(path, when, path.stat().st_size) for path in folder.iterdir() if (when := written(path))]
        found.sort(key=lambda each: (each[1], each[0].name), reverse=True)
        merged = {name for path, _, _ in found for name in _replaces(path)}
        going = [(path, size) for path, _, size in found if path.name in merged]
        kept, old_ones = list[int](), list[tuple[Path, int]]()
        for path, when, size in found:
            if path.name in merged:
                continue
            old = keep_days is not None and clock - when > timedelta(days=keep_days)
            full = keep_bytes is not None and size > keep_bytes - sum(kept)
            if old_ones or old or full:  # what is older than one that goes, goes
                old_ones.append((path, size))
            else:
                kept.append(size)
        going += reversed(old_ones)
        for path, _ in going:
            path.unlink(missing_ok=True)
    return Pruned(len(going), sum(size for _, size in going), len(kept), sum(kept))


@contextmanager
def alone(folder: Path, what: str) -> Iterator[int]:
    """Wait for other prunes and compactions of a folder, and hold them off; gives its file descriptor.

    Raises
    ------
    StorageError
        No such directory; or what is done in the block fails for the disk: it could not be ``what``.
    """
    if not folder.is_dir():
        raise StorageError(f"{folder}: no such directory of a log")
    try:
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)  # ends with the process, however that ends
            yield descriptor
        finally:
            os.close(descriptor)
    except OSError as error:
        raise StorageError(f"{folder}: could not be {what} ({error.strerror or error})") from error


def _replaces(path: Path) -> tuple[str, ...]:
    try:
        return about_part(path).replaces
    except (
        StorageError
    ):  # a damaged file is for its readers to complain of; here it has an age like any other
        return ()


def written(path: Path) -> datetime | None:
    """When a `FunnelLog` wrote a file; None for any other file."""
    named = _NAME.fullmatch(path.name)
    try:
        return named and datetime.strptime(named[1], "%Y%m%dT%H%M%S").replace(tzinfo=UTC)
    except ValueError:  # digits that are no date
        return None
