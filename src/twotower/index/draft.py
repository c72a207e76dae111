"""A draft of an artefact that outlives its process: what is finished of it is kept, and gone on with.

Beside the artefact stands a folder ``.draft``: the files so far, and a journal that says what they are drafts
of, and how many bytes of each belong to finished chunks. Bytes reach the disk before the journal that counts
them, so behind a crash at any moment the files hold at least what the journal says; the rest, half a chunk
perhaps, is cut off. Only the process that holds the lock of the directory touches the draft.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from twotower.config import Config
from twotower.data.atomic import replacing
from twotower.errors import StorageError
from twotower.index.manifest import Manifest, commit, sync, writing

DRAFT, FILES, JOURNAL = ".draft", "files", "journal.json"
SAVE_EVERY_S = 5.0
"""Finished chunks are made safe this often: what a crash costs beside the chunk that was under way."""


class Journal(Config):
    """The content of ``journal.json``: a draft is gone on with by a build of exactly the same."""

    format: int = 1
    kind: str
    produced_by: str
    about: dict[str, Any]
    chunk: int
    rows: int = 0
    sizes: dict[str, int] = Field(default_factory=dict)

    def is_of(self, other: Journal) -> bool:
        """Whether both are of the same artefact, however far they are."""
        return all(
            getattr(self, name) == getattr(other, name)
            for name in ("format", "kind", "produced_by", "about", "chunk")
        )


class Draft:
    """Files that grow chunk by chunk, and how many rows of them are finished."""

    def __init__(self, folder: Path, journal: Journal) -> None:
        self.folder, self.files = folder, folder / FILES
        self.journal = self.noted = journal
        self._noted_at = time.monotonic()

    @classmethod
    def open(cls, folder: Path, wanted: Journal) -> Draft:
        """What stands in ``folder``, if it is of ``wanted``, cut to its finished chunks; else a new one."""
        found = _read(folder / JOURNAL)
        if found is None or not found.is_of(wanted) or not _cut(folder / FILES, found.sizes):
            if folder.exists():
                shutil.rmtree(folder)
            (folder / FILES).mkdir(parents=True)
            found = wanted
        return cls(folder, found)

    @property
    def rows(self) -> int:
        """Rows of finished chunks."""
        return self.journal.rows

    def advance(self, rows: int) -> None:
        """Another chunk is written: ``rows`` are finished now."""
        sizes = {path.name: path.stat().st_size for path in self.files.iterdir()}
        self.journal = self.journal.model_copy(update={"rows": rows, "sizes": sizes})
        if time.monotonic() - self._noted_at >= SAVE_EVERY_S:
            self.note()

    def note(self) -> None:
        """Make the finished chunks safe: first their bytes and names, then the journal that counts them."""
        for name in self.journal.sizes:
            sync(self.files / name)
        sync(self.files)
        with replacing(self.folder / JOURNAL) as partial:
            partial.write_text(self.journal.model_dump_json(indent=2) + "\n", encoding="utf-8")
        sync(self.folder)
        self.noted, self._noted_at = self.journal, time.monotonic()


@contextmanager
def publish_in_chunks(
    directory: str | Path,
    *,
    kind: str,
    produced_by: str,
    about: dict[str, Any],
    chunk: int,
    resume: bool = True,
) -> Iterator[Draft]:
    """As `twotower.index.manifest.publish`, but what an earlier build finished of the same is there already.

    ``chunk`` is the number of rows written at once, part of what makes a draft the same: the bytes of a
    vector may depend on those it was computed with. An interrupt (Ctrl-C) keeps all finished chunks, any
    other end those of up to `SAVE_EVERY_S` before; the draft of something else is removed, and with
    ``resume=False`` any.

    Raises
    ------
    StorageError
        The disk is full or refuses, or another process builds here; the artefact is untouched.
    """
    directory = Path(directory)
    wanted = Journal(kind=kind, produced_by=produced_by, about=about, chunk=chunk)
    wanted = Journal.model_validate_json(wanted.model_dump_json())  # tuples become what a file holds
    with writing(directory, kind):
        if not resume:
            shutil.rmtree(directory / DRAFT, ignore_errors=True)
        draft = Draft.open(directory / DRAFT, wanted)
        try:
            yield draft
            if draft.noted is not wanted:  # it was long: its end is not to be lost while checksums are made
                draft.note()
            commit(
                draft.files, directory, Manifest(kind=kind, produced_by=produced_by, about=about, files={})
            )
            shutil.rmtree(draft.folder, ignore_errors=True)
        except KeyboardInterrupt:
            if draft.rows:
                with suppress(OSError, StorageError):
                    draft.note()
            raise
        finally:
            if not (draft.folder / JOURNAL).exists():
                shutil.rmtree(draft.folder, ignore_errors=True)


def _read(path: Path) -> Journal | None:
    """A journal; none where there is none, or nobody can read it."""
    try:
        return Journal.model_validate_json(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, UnicodeDecodeError, ValidationError):
        return None


def _cut(folder: Path, sizes: dict[str, int]) -> bool:
    """Cut files to their finished chunks; false where one of them is missing or shorter than that."""
    for name, count in sizes.items():
        path = folder / name
        if not path.is_file() or path.stat().st_size < count:
            return False
        os.truncate(path, count)
    return True
