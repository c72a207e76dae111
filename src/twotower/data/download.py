"""Fetching public data sets: checked, cached, resumed where a transfer broke off."""

from __future__ import annotations

import http.client
import os
import shutil
import tempfile
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from pydantic import Field as Option

from twotower.config import Config
from twotower.data.files import sha256_of
from twotower.errors import DataError, StorageError

Progress = Callable[[int, int | None], None]
"""Called with the bytes that are here and the bytes there will be, if known."""

_CHUNK_BYTES = 1 << 20


class Source(Config):
    """One file on the network, and the checksum without which it is not used."""

    name: str = Option(min_length=1, pattern=r"^[\w.-]+$", description="file name in the cache")
    url: str = Option(pattern=r"^https?://")
    sha256: str = Option(pattern=r"^[0-9a-f]{64}$")


_GROUPLENS = "https://files.grouplens.org/datasets/movielens"

MOVIELENS: dict[str, Source] = {
    name: Source(name=f"{name}.zip", url=f"{_GROUPLENS}/{name}.zip", sha256=sha256)
    for name, sha256 in {
        "ml-100k": "50d2a982c66986937beb9ffb3aa76efe955bf3d5c6b761f4e3a7cd717c6a3229",
        "ml-1m": "a6898adb50b9ca05aa231689da44c217cb524e7ebd39d264c56e2832f2c54e20",
        "ml-latest-small": "696d65a3dfceac7c45750ad32df2c259311949efec81f0f144fdfb91ebc9e436",
    }.items()
}
"""GroupLens' own archives. Terms: research, no commercial use; see the README in each archive."""


def download(
    source: Source,
    cache: Path,
    *,
    progress: Progress | None = None,
    timeout_s: float = 30.0,
    retries: int = 3,
    pause_s: float = 1.0,
) -> Path:
    """The file in ``cache``, fetched when it is not there yet.

    What arrives goes to ``<name>.part`` and gets its name when complete and proven by its SHA-256. What an
    earlier try left there is continued by an HTTP range request; where the server ignores the range, or the
    whole does not match the checksum, the transfer starts over from the first byte, once.

    Raises
    ------
    StorageError
        The network or the server fails ``retries`` + 1 times, the server refuses, the checksum is wrong, or
        the disk is full. The message says which file to put where by hand.
    """
    target, part = cache / source.name, cache / f"{source.name}.part"
    if target.exists():
        if sha256_of(target) == source.sha256:
            return target
        raise StorageError(
            f"{target} is not what was published: its SHA-256 is not {source.sha256}\n"
            f"  remedy: delete it, or put the file from {source.url} there"
        )
    try:
        cache.mkdir(parents=True, exist_ok=True)
        resumed = part.exists()
        _transfer(source, part, progress, timeout_s, retries, pause_s)
        if sha256_of(part) != source.sha256 and resumed:  # the old beginning may be of another version
            part.unlink()
            _transfer(source, part, progress, timeout_s, retries, pause_s)
        if (found := sha256_of(part)) != source.sha256:
            part.unlink()
            raise _by_hand(source, target, f"its SHA-256 is {found}, expected {source.sha256}")
        os.replace(part, target)
    except (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError) as error:
        raise _by_hand(source, target, str(getattr(error, "reason", error) or error)) from error
    except OSError as error:
        raise StorageError(f"{part}: cannot be written: {error.strerror or error}") from error
    return target


def fetch(
    source: Source,
    cache: Path,
    *,
    progress: Progress | None = None,
    timeout_s: float = 30.0,
    retries: int = 3,
) -> Path:
    """Download and unpack a zip archive; returns the folder with the data. Done once, then only looked up."""
    folder = cache / source.name.removesuffix(".zip")
    if not folder.exists():
        archive = download(source, cache, progress=progress, timeout_s=timeout_s, retries=retries)
        unpack(archive, folder)
    inside = list(folder.iterdir())
    return inside[0] if len(inside) == 1 and inside[0].is_dir() else folder


def unpack(archive: Path, folder: Path) -> None:
    """Unzip into ``folder``, which appears only when all of it is there.

    Raises
    ------
    DataError
        Not a zip file, a damaged one, or a member whose path leads out of the folder (nothing is written).
    StorageError
        The folder cannot be written.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        with zipfile.ZipFile(archive) as packed:
            for member in packed.namelist():
                path = PurePosixPath(member.replace("\\", "/"))
                if path.is_absolute() or ".." in path.parts or ":" in member:
                    raise DataError(f"the archive would write outside its folder: {member!r}", file=archive)
            packed.extractall(work)
        os.replace(work, folder)
    except zipfile.BadZipFile as error:
        raise DataError(
            f"not a sound zip file: {error}", file=archive, remedy="delete it, it will be fetched again"
        ) from None
    except OSError as error:
        raise StorageError(f"{folder}: cannot be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _transfer(
    source: Source, part: Path, progress: Progress | None, timeout_s: float, retries: int, pause_s: float
) -> None:
    """Bring ``part`` to its full length, trying again after failures that may pass."""
    for attempt in range(retries + 1):
        try:
            return _receive(source, part, progress, timeout_s)
        except urllib.error.HTTPError as error:
            error.close()
            if error.code == 416 and part.exists():  # nothing follows what is here
                if sha256_of(part) == source.sha256:
                    return None
                part.unlink()
                continue
            if error.code < 500 or attempt == retries:
                raise
        except (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError):
            if attempt == retries:
                raise
        time.sleep(pause_s * 2**attempt)
    raise urllib.error.URLError("the server refuses the range of the file that is missing")


def _receive(source: Source, part: Path, progress: Progress | None, timeout_s: float) -> None:
    """One request, from the end of ``part`` to the end of the file."""
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(source.url, headers={"Range": f"bytes={have}-"} if have else {})
    with urllib.request.urlopen(request, timeout=timeout_s) as response:
        if have and not _continues(response, have):
            have = 0  # the server sends the whole file
        length = response.headers.get("Content-Length")
        total = have + int(length) if length is not None else None
        with part.open("ab" if have else "wb") as file:
            while chunk := response.read(_CHUNK_BYTES):
                file.write(chunk)
                have += len(chunk)
                if progress is not None:
                    progress(have, total)
            file.flush()
            os.fsync(file.fileno())
    if total is not None and have < total:
        raise ConnectionError(f"the connection closed after {have:,} of {total:,} bytes")


def _continues(response: http.client.HTTPResponse, have: int) -> bool:
    content_range = response.headers.get("Content-Range") or ""
    return response.status == 206 and content_range.startswith(f"bytes {have}-")


def _by_hand(source: Source, target: Path, reason: str) -> StorageError:
    return StorageError(
        f"{source.url} could not be fetched: {reason}\n"
        f"  remedy: get the file on another way and put it at {target} (SHA-256 {source.sha256})"
    )
