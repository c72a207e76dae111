"""How long the funnel of served requests is kept: old files go, whole and one by one."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

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

    A file's age is that of its writing, which its name tells. Servers may go on logging: a file that is being
    written has another name until it is complete, and the newest are the last to go. Killed anywhere, what is
    left is a log. Whoever reads meanwhile and has listed a file that goes is told so, and reads again. Files
    that no `FunnelLog` named are not touched; drafts that a killed server left are removed after a day.

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
    if not folder.is_dir():
        raise StorageError(f"{folder}: no such directory of a log")
    try:
        for draft in folder.glob(".*.parquet.partial"):
            if clock - datetime.fromtimestamp(draft.stat().st_mtime, UTC) > _DRAFT_AGE:
                draft.unlink(missing_ok=True)
        found = [(path, when, path.stat().st_size) for path in folder.iterdir() if (when := _written(path))]
        found.sort(key=lambda each: (each[1], each[0].name), reverse=True)
        kept, going, room = list[int](), list[tuple[Path, int]](), keep_bytes
        for path, when, size in found:
            old = keep_days is not None and clock - when > timedelta(days=keep_days)
            full = room is not None and size > room - sum(kept)
            if going or old or full:  # what is older than one that goes, goes
                going.append((path, size))
            else:
                kept.append(size)
        for path, _ in reversed(going):
            path.unlink(missing_ok=True)
    except OSError as error:
        raise StorageError(f"{folder}: could not be pruned ({error.strerror or error})") from error
    return Pruned(len(going), sum(size for _, size in going), len(kept), sum(kept))


def _written(path: Path) -> datetime | None:
    """When a `FunnelLog` wrote a file; None for any other file."""
    named = _NAME.fullmatch(path.name)
    try:
        return named and datetime.strptime(named[1], "%Y%m%dT%H%M%S").replace(tzinfo=UTC)
    except ValueError:  # digits that are no date
        return None
