"""The manifest of a bundle: every file with its checksum, which parts belong together, where they come from.

``manifest.json`` lies in the bundle; its own digest beside it, in ``<bundle>.digest``. The bundle's directory
ends in the first digits of that digest, so a manifest, its digest and its directory hold each other.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from pydantic import Field

from twotower.config import Config
from twotower.data.files import sha256_of
from twotower.errors import ConfigError, StorageError
from twotower.schema import Schema

FORMAT = 1
MANIFEST = "manifest.json"
DIGITS = 12
"""Of the manifest's digest in the name of the bundle's directory."""
_AGAIN = "take another version (twotower bundle rollback) or build it again"


class BundledFile(Config):
    size_bytes: int = Field(ge=0)
    sha256: str


class BundledModel(Config):
    """A model by name, and the digests that its table or index and the other parts know it by."""

    model: str
    digest: str
    item_digest: str


class BundleManifest(Config):
    """The content of ``manifest.json``."""

    format: int
    name: str
    recipe: dict[str, Any]
    data_schema: Schema = Field(alias="schema")
    features: str = Field(description="digest of everything fitted")
    items: str = Field(description="digest of the item table and what encodes it")
    models: dict[str, BundledModel]
    counts: dict[str, int]
    plan: dict[str, Any] | None
    metrics: dict[str, Any] | None = Field(description="the run's report, if it is of this recipe and models")
    provenance: dict[str, Any]
    files: dict[str, BundledFile]


def seal(directory: Path, about: dict[str, Any]) -> str:
    """Hash every file below the directory into a manifest and put all of it on disk; returns its digest.

    Files become read-only: whoever edits one by mistake is stopped before the checksum is wrong.
    """
    files = {}
    for name, path in sorted(_files(directory).items()):
        path.chmod(0o444)
        with open(path, "rb") as file:
            os.fsync(file.fileno())
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        files[name] = {"size_bytes": path.stat().st_size, "sha256": sha256}
    content = {"format": FORMAT, **about, "files": files}
    text = json.dumps(BundleManifest.parse(content).plain(), indent=2, ensure_ascii=False) + "\n"
    manifest = directory / MANIFEST
    with open(manifest, "w", encoding="utf-8") as out:
        out.write(text)
        out.flush()
        os.fsync(out.fileno())
    manifest.chmod(0o444)
    for path in (*(p for p in directory.rglob("*") if p.is_dir()), directory):
        sync_directory(path)
    return hashlib.sha256(text.encode()).hexdigest()


def digest_path(directory: Path) -> Path:
    """Where the digest of the bundle's manifest is kept: beside the bundle."""
    return directory.with_name(f"{directory.name}.digest")


def stored_digest(directory: Path) -> str:
    """The digest kept beside a bundle, which must be that of the directory's name."""
    path = digest_path(directory)
    try:
        text = path.read_bytes().decode("ascii")
    except (OSError, UnicodeDecodeError) as error:
        raise StorageError(f"{path}: the bundle's digest cannot be read ({error}); {_AGAIN}") from error
    digest = text.removesuffix("\n")
    if len(digest) != 64 or text != f"{digest}\n" or not directory.name.endswith(f"-{digest[:DIGITS]}"):
        raise StorageError(f"{path}: is not the digest of the bundle {directory.name}; {_AGAIN}")
    return digest


def check(directory: Path, digest: str, *, fast: bool = False) -> BundleManifest:
    """The manifest of a bundle whose files are all there, and no others, unchanged.

    ``fast`` compares the sizes of the files and not their checksums, so that they are not read.

    Raises
    ------
    StorageError
        The manifest is not the one of this digest or of an unknown format; or a file is missing, changed or
        not in the manifest.
    """
    path = directory / MANIFEST
    try:
        content = path.read_bytes()
    except OSError as error:
        raise StorageError(f"{path}: cannot be read: {error.strerror}; {_AGAIN}") from error
    found = hashlib.sha256(content).hexdigest()
    if found != digest:
        raise StorageError(
            f"{path}: its digest is {found[:DIGITS]}, kept beside it is {digest[:DIGITS]}: one of them was "
            f"changed or is another bundle's; {_AGAIN}"
        )
    manifest = _parsed(path, content)
    there = _files(directory)
    strange = sorted(there.keys() - manifest.files.keys() - {MANIFEST})
    if strange:
        raise StorageError(f"{directory / strange[0]}: is not in the manifest of the bundle; remove it")
    for name, entry in manifest.files.items():
        _check_file(directory / name, name in there, entry, fast)
    return manifest


def sync_directory(path: Path) -> None:
    """Names of the files in a directory, on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _parsed(path: Path, content: bytes) -> BundleManifest:
    try:
        plain = json.loads(content)
        found = plain["format"]
    except (ValueError, KeyError, TypeError) as error:
        raise StorageError(f"{path}: is no manifest of a bundle ({error!r}); {_AGAIN}") from error
    if found != FORMAT:  # before all else: another format has other keys
        raise StorageError(
            f"{path}: the bundle has format {found!r}, this version of twotower reads {FORMAT}; "
            "use the version that built it, or build it again with this one"
        )
    try:
        return BundleManifest.parse(plain, where=str(path))
    except ConfigError as error:
        raise StorageError(f"{error}; {_AGAIN}") from error


def _check_file(path: Path, there: bool, entry: BundledFile, fast: bool) -> None:
    try:
        size = path.stat().st_size if there else None
        if size is not None and size == entry.size_bytes and not fast:
            sha256 = sha256_of(path)
        else:
            sha256 = entry.sha256
    except OSError as error:
        raise StorageError(f"{path}: cannot be read: {error.strerror}; {_AGAIN}") from error
    if size is None:
        raise StorageError(f"{path}: is missing from the bundle; {_AGAIN}")
    if size != entry.size_bytes or sha256 != entry.sha256:
        why = "its checksum is wrong" if size == entry.size_bytes else f"{size} of {entry.size_bytes} bytes"
        raise StorageError(f"{path}: is damaged or of another bundle ({why}); {_AGAIN}")


def _files(directory: Path) -> dict[str, Path]:
    """Everything below a directory but its folders, by its name within; links are not followed."""
    found = (path for path in directory.rglob("*") if path.is_symlink() or not path.is_dir())
    return {path.relative_to(directory).as_posix(): path for path in found}
