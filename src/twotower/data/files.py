"""Input files: found by name, plain or gzipped, and read whole."""

from __future__ import annotations

import gzip
import hashlib
import zlib
from pathlib import Path

from twotower.errors import DataError

_GZIP_MAGIC = b"\x1f\x8b"
_BOM = b"\xef\xbb\xbf"


def first_file(directory: Path, *names: str) -> Path | None:
    """The first of ``names`` that lies in ``directory``, as it is or with ``.gz`` behind it."""
    for name in names:
        for path in (directory / name, directory / f"{name}.gz"):
            if path.is_file():
                return path
    return None


def find_file(directory: Path, *names: str) -> Path:
    """As `first_file`, but a file that is not there is a `DataError` that lists what is."""
    path = first_file(directory, *names)
    if path is not None:
        return path
    if not directory.is_dir():
        raise DataError("no such directory", file=directory, remedy="give the folder that holds the data set")
    names_there = sorted(entry.name + "/" * entry.is_dir() for entry in directory.iterdir())
    there = ", ".join(names_there[:12]) or "nothing"
    raise DataError(
        f"no file {' or '.join(names)} (plain or .gz); the folder holds: {there}",
        file=directory,
        remedy="put the file there, or give the folder that holds it",
    )


def read_bytes(path: Path) -> bytes:
    """The whole content of a file, gunzipped when it is gzip (by its first bytes, not by its name).

    Raises
    ------
    DataError
        No such file, an empty file, or a damaged gzip stream. A truncated gzip stream is an error even
        where broken rows may be skipped: how many rows are missing cannot be known.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise DataError("no such file", file=path, remedy="check the path and the recipe's mapping") from None
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", file=path) from error
    if data.startswith(_GZIP_MAGIC):
        try:
            data = gzip.decompress(data)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise DataError(
                f"the gzip file is truncated or damaged ({error}); it can be read up to this line",
                file=path,
                line=_readable_lines(data),
                remedy="fetch the file again; rows after this line are lost, so it is never skipped over",
            ) from None
    data = data.removeprefix(_BOM)
    if not data.strip():
        raise DataError("the file is empty", file=path, remedy="fetch or export the file again")
    return data


def sha256_of(path: Path) -> str:
    """Hexadecimal digest of a file's content."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _readable_lines(packed: bytes, chunk: int = 1 << 16) -> int:
    """Complete lines that a damaged gzip stream still gives."""
    stream, lines = zlib.decompressobj(wbits=31), 0
    try:
        for start in range(0, len(packed), chunk):
            lines += stream.decompress(packed[start : start + chunk]).count(b"\n")
    except zlib.error:
        pass  # this is the damage; what came before it has been counted
    return lines
