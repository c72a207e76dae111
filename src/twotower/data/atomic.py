"""Files that are the old ones or the complete new ones, never half of either; one writer at a time."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from twotower.errors import StorageError

LOCK = ".lock"


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path`` to write to; takes its place when the block ends well.

    Raises
    ------
    StorageError
        The disk is full or refuses; what was at ``path`` before is untouched.
    """
    temporary = path.with_name(f".{path.name}.partial")
    try:
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise StorageError(f"{path}: could not be written ({error.strerror or error})") from error
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def locked(directory: Path, busy: str) -> Iterator[None]:
    """Hold the lock of a directory, which the system lets go of with the process, however that ends.

    Raises
    ------
    StorageError
        Someone else holds it; the message is the directory and ``busy``.
    OSError
        The directory is not there, or nobody may write in it.
    """
    with open(directory / LOCK, "w", encoding="ascii") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StorageError(f"{directory}: {busy}") from None
        yield
