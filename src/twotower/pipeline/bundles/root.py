"""Versions of a bundle below one directory, and which of them is served.

<root>/0002-5f2a09c1d3e4/         a version: its number, and the first digits of its manifest's digest
       0002-5f2a09c1d3e4.digest   the digest of its manifest
       current                    the version that is served and the one that was before it, on one line
       .lock, .draft-*            held by a build, and what it has not published yet

``current`` is a file and no link: a rename replaces either at once, but a file can also be put on disk before
the rename, it holds both names, and every file system and every copying tool knows files.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from twotower.data.atomic import locked, replacing
from twotower.errors import ConfigError, StorageError
from twotower.pipeline.bundles.manifest import DIGITS, MANIFEST, digest_path, sync_directory

CURRENT = "current"
_DRAFT = ".draft-"
_VERSION = re.compile(rf"(\d{{4,}})-[0-9a-f]{{{DIGITS}}}")


class BundleRoot:
    """The directory of all versions. A reader needs no lock; builds and rollbacks hold one each in turn."""

    def __init__(self, directory: str | Path) -> None:
        self.directory = Path(directory)

    def versions(self) -> list[str]:
        """All published versions, oldest first."""
        if not self.directory.is_dir():
            return []
        found = (_VERSION.fullmatch(path.name) for path in self.directory.iterdir() if path.is_dir())
        numbers = {match[0]: int(match[1]) for match in found if match}
        return sorted(numbers, key=lambda version: (numbers[version], version))

    def served(self) -> tuple[str, str | None]:
        """The version that is served, and the one before it.

        Raises
        ------
        StorageError
            Nothing is served here, or ``current`` is damaged.
        """
        path = self.directory / CURRENT
        try:
            text = path.read_bytes().decode("ascii")
        except FileNotFoundError:
            raise StorageError(
                f"{self.directory}: no version of a bundle is current here; "
                f"published: {', '.join(self.versions()) or 'none'}; build one with: twotower bundle build"
            ) from None
        except (OSError, UnicodeDecodeError) as error:
            raise StorageError(f"{path}: cannot be read: {error}") from error
        names = text.removesuffix("\n").split(" ")
        if not text.endswith("\n") or len(names) > 2 or not all(map(_VERSION.fullmatch, names)):
            raise StorageError(
                f"{path}: holds {text!r}, expected the version that is served and the one before it; "
                f"published: {', '.join(self.versions()) or 'none'}"
            )
        return names[0], names[1] if len(names) == 2 else None

    def path(self, version: str) -> Path:
        """The directory of a published version."""
        path = self.directory / version
        if not path.is_dir():
            raise StorageError(
                f"{self.directory}: there is no version {version}; "
                f"published: {', '.join(self.versions()) or 'none'}"
            )
        return path

    def previous(self) -> str:
        """The version that was served before the current one."""
        version, before = self.served()
        if before is None:
            raise ConfigError(f"{self.directory}: {version} is the first, there is none to go back to")
        return before

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other builds and rollbacks out; the system lets go of the lock of a process that died."""
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            with locked(self.directory, "another build or rollback is under way; wait for it to end"):
                yield
        except OSError as error:
            raise StorageError(
                f"{self.directory}: could not be written: {error.strerror or error}; "
                "the version that is served has not changed"
            ) from error

    def clean(self) -> None:
        """Remove what builds that were killed left behind; call it under the lock."""
        for path in self.directory.glob(f"{_DRAFT}*"):
            shutil.rmtree(path)
        for path in self.directory.glob(".*.partial"):
            path.unlink()
        for path in self.directory.glob("*.digest"):  # written before its version is named
            if _VERSION.fullmatch(path.stem) and not path.with_suffix("").is_dir():
                path.unlink()

    @contextmanager
    def draft(self) -> Iterator[Path]:
        """An empty directory to build in, gone at the end unless it was published."""
        path = Path(tempfile.mkdtemp(prefix=_DRAFT, dir=self.directory))
        try:
            path.chmod(0o755)
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)

    def publish(self, draft: Path, digest: str) -> Path:
        """Give a sealed draft its name, by which it becomes a version at once; returns its directory."""
        last = max((int(version.partition("-")[0]) for version in self.versions()), default=0)
        path = self.directory / f"{last + 1:04d}-{digest[:DIGITS]}"
        with replacing(digest_path(path)) as file:
            file.write_text(f"{digest}\n", encoding="ascii")
        sync_directory(self.directory)  # no version may be found without its digest
        os.rename(draft, path)
        sync_directory(self.directory)
        return path

    def switch(self, version: str) -> None:
        """Serve a published version from now on; the one served until now becomes the previous one."""
        self.path(version)
        try:
            before = self.served()[0]
        except StorageError:  # nothing was served, or nobody can read what
            before = None
        with replacing(self.directory / CURRENT) as file:
            file.write_text(" ".join(filter(None, (version, before))) + "\n", encoding="ascii")
        sync_directory(self.directory)


def find_version(path: str | Path) -> Path:
    """The directory of one version: the path itself, or the current one of the root that it is."""
    path = Path(path)
    version = path.resolve()  # by its own name, though it is named "." or by a link
    if (version / MANIFEST).exists() or (version.name and digest_path(version).exists()):
        return version
    root = BundleRoot(path)
    return root.path(root.served()[0])
