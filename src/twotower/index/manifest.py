"""Artefacts on disk: a folder of files and the manifest that names them, with their checksums.

Nothing is overwritten. Every file carries a piece of its checksum in its name, so a new version is written
beside the old one, and the single rename of ``manifest.json`` makes it the current one. A crash or a full
disk at any moment leaves the old version whole or the new version whole, and a process that has the old
files memory-mapped keeps them. One process writes at a time; it takes away what a crash has left. Tensors are
raw, row-major and little-endian.
"""

from __future__ import annotations

import math
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import Field, ValidationError
from torch import Tensor

from twotower.config import Config
from twotower.data.atomic import locked
from twotower.data.files import sha256_of
from twotower.errors import MismatchError, StorageError

FORMAT = 1
MANIFEST, DRAFTS = "manifest.json", ".tmp-"
_STORED = re.compile(r"[^.].*-[0-9a-f]{16}(\.[^.]*)?")  # what `commit` calls a file


class StoredFile(Config):
    """One file of an artefact; ``stored_as`` is a plain name inside the artefact's folder."""

    stored_as: str = Field(pattern=r"^[^/\\.][^/\\]*$")
    size_bytes: int = Field(ge=0)
    sha256: str


class Manifest(Config):
    """The content of ``manifest.json``."""

    format: int = FORMAT
    kind: str
    produced_by: str
    about: dict[str, Any]
    files: dict[str, StoredFile]


@dataclass(frozen=True)
class Artefact:
    """A stored artefact that was found, identified and checked."""

    directory: Path
    kind: str
    produced_by: str
    about: dict[str, Any]
    files: dict[str, Path]

    def file(self, name: str) -> Path:
        if name not in self.files:
            raise StorageError(f"{self.directory}: the manifest names no file {name!r}; build it again")
        return self.files[name]

    def tensor(self, name: str, shape: tuple[int, ...], dtype: str) -> Tensor:
        """The tensor in file ``name``, memory-mapped copy-on-write: changing it never reaches the disk."""
        element: torch.dtype = getattr(torch, dtype)
        count, path = math.prod(shape), self.file(name)
        if path.stat().st_size != count * element.itemsize:
            raise StorageError(
                f"{path}: {path.stat().st_size} bytes, expected {count * element.itemsize} for "
                f"{dtype} {shape}; build the {self.kind} again"
            )
        if count == 0:
            return torch.empty(shape, dtype=element)
        return torch.from_file(str(path), shared=False, size=count, dtype=element).reshape(shape)


def maker(produced_by: str) -> str:
    """The model's digest in ``digest`` or ``digest:source``, where the source is of items and features.

    >>> maker("0c21:77ab"), maker("0c21")
    ('0c21', '0c21')
    """
    return produced_by.partition(":")[0]


def files_of(directory: str | Path) -> list[Path]:
    """The files an artefact consists of, its manifest last; leftovers of a crash are not among them."""
    directory = Path(directory)
    stored = [entry.stored_as for entry in _read(directory).files.values()]
    return [directory / name for name in (*stored, MANIFEST)]


def write_tensor(path: Path, tensor: Tensor) -> None:
    """Append the raw bytes of a tensor to a file; `Artefact.tensor` reads them back."""
    with open(path, "ab") as file:
        file.write(_raw(tensor))


@contextmanager
def publish(directory: str | Path, *, kind: str, produced_by: str, about: dict[str, Any]) -> Iterator[Path]:
    """Yield an empty draft folder; whatever is written there becomes the artefact when the block ends.

    Raises
    ------
    StorageError
        The disk is full or refuses, or another process writes here; what stood in ``directory`` before is
        untouched.
    """
    directory = Path(directory)
    with writing(directory, kind):
        draft = Path(tempfile.mkdtemp(prefix=DRAFTS, dir=directory))
        try:
            yield draft
            commit(draft, directory, Manifest(kind=kind, produced_by=produced_by, about=about, files={}))
        finally:
            shutil.rmtree(draft, ignore_errors=True)


@contextmanager
def writing(directory: Path, kind: str) -> Iterator[None]:
    """Make the directory and keep other writers out; what the disk refuses in the block is a `StorageError`.

    The system lets go of the lock of a process that died.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with locked(directory, f"another process is building this {kind}; wait for it to end, or stop it"):
            yield
    except OSError as error:
        raise StorageError(
            f"{directory}: could not write the {kind}: {error.strerror or error}; "
            "what was there before is unchanged: free space or choose another directory"
        ) from error


def open_artefact(
    directory: str | Path, kind: str | tuple[str, ...], expect: str | None = None, verify: bool = True
) -> Artefact:
    """Find an artefact and check that it is whole and the one that is wanted.

    Parameters
    ----------
    kind
        What it must be; several kinds may be allowed.
    expect
        Digest of what must have produced it; None accepts any.
    verify
        Compare checksums, which reads every file once. Sizes are always compared.

    Raises
    ------
    MismatchError
        It is of another kind, or something else produced it.
    StorageError
        It is missing, incomplete, damaged, or of a newer format.
    """
    directory = Path(directory)
    found = _read(directory)
    kinds = (kind,) if isinstance(kind, str) else kind
    if found.kind not in kinds:
        raise MismatchError(f"{directory}: holds: {found.kind}, expected: {' or '.join(kinds)}")
    if expect is not None and found.produced_by != expect:
        raise MismatchError(
            f"{directory}: this {found.kind} was produced by {found.produced_by}, expected "
            f"{expect}; build it again from the present model and features"
        )
    _check_files(directory, found, verify)
    files = {name: directory / entry.stored_as for name, entry in found.files.items()}
    return Artefact(directory, found.kind, found.produced_by, found.about, files)


def is_whole(directory: str | Path) -> bool:
    """Whether an artefact of any kind is there, and its files are those that were written."""
    directory = Path(directory)
    try:
        _check_files(directory, _read(directory), verify=True)
    except StorageError:
        return False
    return True


def _check_files(directory: Path, found: Manifest, verify: bool) -> None:
    again = f"build the {found.kind} again (of a run: twotower train)"
    for name, entry in found.files.items():
        path = directory / entry.stored_as
        try:
            size = path.stat().st_size
            whole = size == entry.size_bytes and (not verify or sha256_of(path) == entry.sha256)
        except OSError as error:
            raise StorageError(f"{path}: cannot be read: {error.strerror}; {again}") from error
        if not whole:
            why = (
                "its checksum is wrong" if size == entry.size_bytes else f"{size} of {entry.size_bytes} bytes"
            )
            raise StorageError(f"{path}: {name} is damaged ({why}); {again}")


def commit(draft: Path, directory: Path, manifest: Manifest) -> None:
    """Move the draft's files beside the old ones, then replace the manifest: the one moment of change.

    Interrupted, or refused by the disk, it moves back to the draft what it had moved.
    """
    files: dict[str, StoredFile] = {}
    for path in sorted(draft.iterdir()):
        sync(path)
        sha256 = sha256_of(path)
        name = f"{path.stem}-{sha256[:16]}{path.suffix}"
        files[path.name] = StoredFile(stored_as=name, size_bytes=path.stat().st_size, sha256=sha256)
    moved: list[str] = []
    try:
        old = set(_stored_names(directory))
        for own, entry in files.items():
            (draft / own).replace(directory / entry.stored_as)
            if entry.stored_as not in old:
                moved.append(own)
        fresh = draft / MANIFEST
        fresh.write_text(manifest.model_copy(update={"files": files}).model_dump_json(indent=2) + "\n")
        sync(fresh)
        sync(directory)  # the data files' names must be on disk before the manifest that names them
        fresh.replace(directory / MANIFEST)
    except BaseException:
        (draft / MANIFEST).unlink(missing_ok=True)
        for own in moved:
            (directory / files[own].stored_as).replace(draft / own)
        raise
    sync(directory)
    kept = {entry.stored_as for entry in files.values()}
    for path in directory.iterdir():  # the version before, and what a crash has left of any
        if _STORED.fullmatch(path.name) and path.name not in kept:
            path.unlink(missing_ok=True)
        elif path.name.startswith(DRAFTS) and path != draft:
            shutil.rmtree(path, ignore_errors=True)


def _stored_names(directory: Path) -> list[str]:
    try:
        return [entry.stored_as for entry in _read(directory).files.values()]
    except StorageError:  # nothing there yet, or a manifest that nobody can read any more
        return []


def _read(directory: Path) -> Manifest:
    path = directory / MANIFEST
    try:
        manifest = Manifest.model_validate_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise StorageError(f"{path}: no such file; is {directory} the right directory?") from None
    except OSError as error:
        raise StorageError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValidationError, UnicodeDecodeError) as error:
        raise StorageError(f"{path}: is not a manifest of twotower: {error}") from None
    if manifest.format != FORMAT:
        raise StorageError(
            f"{path}: format {manifest.format}, expected {FORMAT}; build it again with this version"
        )
    return manifest


def _raw(tensor: Tensor) -> memoryview:
    """The bytes of a tensor, row-major, without a copy when it lies so already."""
    tensor = tensor.detach().cpu().contiguous()
    if tensor.numel() < 2:  # contiguous whatever its strides are, and a view as bytes wants them to be 1
        tensor = tensor.clone(memory_format=torch.contiguous_format)
    flat = tensor.reshape(-1)
    return flat.view(torch.uint8).numpy().data


def sync(path: Path) -> None:
    """Have the disk keep a file's bytes, or a folder's names."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
