"""The directory of a run: where each step writes, and which steps are done.

<run>/recipe.yaml            the resolved recipe
      data/                  prepared tables, features, golden rows
      models/<name>/         weights, config, training log and snapshots
      tables/<name>/         item table of a ranking model; <name>@<store>/ as a plan wants it
      index/<name>/          index of a retrieving model
      encoded/<name>/        vectors of its items, until the index is built
      sources/<name>.safetensors   a fitted source of candidates that is no model
      results/               report, per-query values, run and qrels files
      steps.json             what each finished step was made from
      files.json             digests of the data's files, so that only changed ones are read for them
      warm.json              the earlier run or bundle that this one was started from
      .lock                  held by the process that prepares or trains here
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from twotower.config import dump_yaml
from twotower.data.atomic import locked, replacing
from twotower.data.files import sha256_of
from twotower.errors import StorageError
from twotower.pipeline.recipe import Recipe

STEPS, UNFINISHED = "steps.json", "unfinished "
"""Before the mark of a step that has begun: what it left can be gone on with by the same inputs only."""

BUSY = "another process is at work in this run; wait for it to end, or give this one a directory of its own"


class Workspace:
    """Paths of a run, and a memory of finished steps: a step is skipped while its inputs stay the same."""

    def __init__(self, directory: str | Path) -> None:
        self.directory = Path(directory)
        self.data = self.directory / "data"
        self.results = self.directory / "results"

    def model(self, name: str) -> Path:
        return self.directory / "models" / name

    def table(self, name: str, store: str | None = None) -> Path:
        """Of a model as it was trained, or at the storage depth of a plan."""
        return self.directory / "tables" / (name if store is None else f"{name}@{store}")

    def index(self, name: str) -> Path:
        return self.directory / "index" / name

    def vectors(self, name: str) -> Path:
        """What an index is built from, where no table of the model is kept."""
        return self.directory / "encoded" / name

    def source(self, name: str) -> Path:
        return self.directory / "sources" / f"{name}.safetensors"

    def item_source(self) -> str:
        """Digest of the item table and the features that encode it: with a model, they make a table."""
        content = hashlib.sha256()
        for path in (self.data / "items.parquet", self.data / "features" / "features.json"):
            content.update(bytes.fromhex(_digest(path)))
        return content.hexdigest()[:16]

    def digests_of(self, path: Path | None, read: Sequence[Path] | None = None) -> dict[str, str]:
        """Content of the files below the data's ``path``, by name: of those that are ``read``, where that is
        known, else of all but those of runs.

        Data that were copied, mounted anew or checked out again are the same data: only content tells. A
        file is read when its size, time or inode differs from what the last look at it noted: one that was
        replaced within a tick of the clock has another inode.
        """
        if path is None:
            return {}
        notes = self.directory / "files.json"
        before = _noted(notes)
        seen: dict[str, list[Any]] = {}
        if read is None:
            found = path.rglob("*") if path.is_dir() else [path]
            read = [file for file in found if file.is_file()]
            runs = {self.directory.resolve()} | {file.parent.resolve() for file in read if file.name == STEPS}
            read = [file for file in read if runs.isdisjoint(file.resolve().parents)]
        for file in sorted(read):
            name = file.name if file == path else file.relative_to(path).as_posix()
            now = file.stat()
            about = [now.st_size, now.st_mtime_ns, now.st_ino]
            known = before.get(name, [])
            seen[name] = known if known[:-1] == about else [*about, _digest(file)]
        if seen != before:
            write_text(notes, json.dumps(seen, indent=1))
        return {name: digest for name, (*_, digest) in seen.items()}

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keep other processes from preparing or training in this run meanwhile.

        Raises
        ------
        StorageError
            One of them is at it, or the directory cannot be written to.
        """
        with ExitStack() as held:
            try:
                self.directory.mkdir(parents=True, exist_ok=True)
                held.enter_context(locked(self.directory, BUSY))
            except OSError as error:
                raise StorageError(
                    f"{self.directory}: could not be written: {error.strerror or error}"
                ) from error
            yield

    def write_recipe(self, recipe: Recipe) -> None:
        path, text = self.directory / "recipe.yaml", dump_yaml(recipe.plain())
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            write_text(path, text)

    def recipe(self) -> Recipe:
        path = self.directory / "recipe.yaml"
        if not path.exists():
            raise StorageError(
                f"{self.directory}: no run here (recipe.yaml is missing); start one with: twotower run"
            )
        return Recipe.load(path)

    def done(self, step: str, fingerprint: str, *made: Path) -> bool:
        """Whether the step finished with exactly these inputs, and what it made is still there."""
        return self._steps().get(step) == fingerprint and all(path.exists() for path in made)

    def resumable(self, step: str, fingerprint: str) -> bool:
        """Whether what the step left was made from exactly these inputs."""
        return self._steps().get(step) in (fingerprint, UNFINISHED + fingerprint)

    def begin(self, step: str, fingerprint: str, *paths: Path) -> None:
        """The step is no longer finished; ``paths`` that an earlier one left are removed."""
        self._note(step, UNFINISHED + fingerprint)
        for path in paths:
            shutil.rmtree(path, ignore_errors=True)

    def finish(self, step: str, fingerprint: str) -> None:
        self._note(step, fingerprint)

    def finished(self) -> dict[str, str]:
        return {step: mark for step, mark in self._steps().items() if not mark.startswith(UNFINISHED)}

    def _note(self, step: str, mark: str) -> None:
        write_text(self.directory / STEPS, json.dumps(self._steps() | {step: mark}, indent=2))

    def _steps(self) -> dict[str, str]:
        try:
            steps: dict[str, str] = json.loads((self.directory / STEPS).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        except ValueError as error:
            raise StorageError(
                f"{self.directory / STEPS}: not readable ({error}); remove it, and every step is made again"
            ) from error
        return steps


def fingerprint(*parts: Any) -> str:
    """Hash of plain data: equal inputs, equal mark."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:16]


def digests_below(directory: Path) -> list[tuple[str, str]]:
    """Name and content of all files of a folder; none where there is no such folder."""
    files = sorted(path for path in directory.rglob("*") if path.is_file())
    return [(path.relative_to(directory).as_posix(), _digest(path)) for path in files]


def _digest(path: Path) -> str:
    try:
        return sha256_of(path)
    except OSError as error:
        raise StorageError(f"{path}: cannot be read: {error.strerror}") from error


def _noted(path: Path) -> dict[str, list[Any]]:
    """Size, time, inode and digest by name; notes that are gone or broken cost another look at the files."""
    try:
        noted: dict[str, list[Any]] = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return noted


def write_text(path: Path, text: str) -> None:
    """Replace a small file at once: a reader sees the old or the new, never a half."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"{path.parent}: could not be made: {error}") from error
    with replacing(path) as draft:
        draft.write_text(text, encoding="utf-8")
