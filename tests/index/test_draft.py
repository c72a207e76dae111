"""A build that dies is gone on with, and ends with the bytes of one that was never killed."""

from __future__ import annotations

import json
import os
import runpy
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from twotower.data.atomic import LOCK
from twotower.errors import StorageError
from twotower.index import draft
from twotower.index.item_table import ItemTable
from twotower.types import Rep, RepSpec

PROGRAM = Path(__file__).parent / "killed_table.py"
KNOWN = runpy.run_path(str(PROGRAM), run_name="killed_table")
build, encode, ROWS, CHUNK = (KNOWN[name] for name in ("build", "encode", "ROWS", "CHUNK"))


class Stop(Exception):
    """Raised by an encoder, as an error in the middle of a build."""


class Counting:
    """Encodes as ``encode`` does, says for which first keys it was asked, and stops at one of them."""

    def __init__(self, stop: int | None = None, error: type[BaseException] = Stop) -> None:
        self.asked: list[int] = []
        self.stop, self.error = stop, error

    def __call__(self, keys: Tensor) -> Rep:
        if keys[0] == self.stop:
            raise self.error
        self.asked.append(int(keys[0]))
        rep: Rep = encode(keys)
        return rep


@pytest.fixture(autouse=True)
def every_chunk_is_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(draft, "SAVE_EVERY_S", 0.0)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("whole")
    build(folder)
    return files(folder)


def files(folder: Path) -> dict[str, bytes]:
    """What is published, byte for byte; a draft that was left has no bytes."""
    return {
        path.name: path.read_bytes() if path.is_file() else b""
        for path in folder.iterdir()
        if path.name != LOCK
    }


def broken_off(folder: Path, stop: int = 8, error: type[BaseException] = Stop, **options: Any) -> None:
    with pytest.raises(error):
        build(folder, Counting(stop, error), **options)


def test_killed_in_the_middle_of_a_chunk_it_goes_on_behind_the_last_that_was_safe(
    tmp_path: Path, whole: dict[str, bytes]
) -> None:
    command = [sys.executable, str(PROGRAM), str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"waiting\n"
        with pytest.raises(StorageError, match="another process is building this item table"):
            build(tmp_path)
        os.kill(process.pid, signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert not (tmp_path / "manifest.json").exists()
    vectors = tmp_path / draft.DRAFT / draft.FILES / "vector.bin"
    assert vectors.stat().st_size == (KNOWN["WAIT_AT"] + CHUNK) * 6, "a chunk more than the journal counts"

    again, heard = Counting(), []
    build(tmp_path, again, progress=lambda done, rows: heard.append((done, rows)))
    assert again.asked == list(range(KNOWN["WAIT_AT"], ROWS, CHUNK))
    assert heard == [(done, ROWS) for done in [*range(KNOWN["WAIT_AT"], ROWS, CHUNK), ROWS]]
    assert files(tmp_path) == whole


@pytest.mark.parametrize("stop", [4, 8, 20])
@pytest.mark.parametrize("error", [Stop, KeyboardInterrupt])
def test_it_goes_on_after_an_error_or_an_interrupt(
    tmp_path: Path, whole: dict[str, bytes], stop: int, error: type[BaseException]
) -> None:
    broken_off(tmp_path, stop, error)
    broken_off(tmp_path, max(stop, 16), error)
    again = Counting()
    build(tmp_path, again)
    assert again.asked == list(range(max(stop, 16), ROWS, CHUNK))
    assert files(tmp_path) == whole


def test_an_interrupt_keeps_what_no_journal_counts_yet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(draft, "SAVE_EVERY_S", 3600.0)
    broken_off(tmp_path, error=KeyboardInterrupt)
    again = Counting()
    build(tmp_path, again)
    assert again.asked[0] == 8


def test_a_short_build_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(draft, "SAVE_EVERY_S", 3600.0)
    broken_off(tmp_path)
    assert list(files(tmp_path)) == []


@pytest.mark.parametrize("options", [{"digest": "other"}, {"chunk": 2}], ids=["model", "chunk"])
def test_a_draft_of_something_else_is_removed(tmp_path: Path, options: dict[str, Any]) -> None:
    broken_off(tmp_path, **options)
    again = Counting()
    build(tmp_path, again)
    assert again.asked[0] == 0
    assert not (tmp_path / draft.DRAFT).exists()


def _tear(journal: Path) -> None:
    journal.write_bytes(journal.read_bytes()[:-9])


def _shorten(journal: Path) -> None:
    os.truncate(journal.parent / draft.FILES / "tokens.bin", 3)


def _lose(journal: Path) -> None:
    (journal.parent / draft.FILES / "tokens_offsets.bin").unlink()


@pytest.mark.parametrize("damage", [_tear, _shorten, _lose])
def test_a_damaged_draft_is_not_gone_on_with(
    tmp_path: Path, whole: dict[str, bytes], damage: Callable[[Path], None]
) -> None:
    broken_off(tmp_path)
    damage(tmp_path / draft.DRAFT / draft.JOURNAL)
    again = Counting()
    build(tmp_path, again)
    assert again.asked[0] == 0
    assert files(tmp_path) == whole


def test_the_old_table_stands_until_the_new_one_is_whole(tmp_path: Path) -> None:
    build(tmp_path)
    broken_off(tmp_path, digest="next")
    assert ItemTable.load(tmp_path, "digest").rows == ROWS
    build(tmp_path, digest="next")
    assert ItemTable.load(tmp_path, "next").rows == ROWS
    with_manifest = {path.name.partition("-")[0] for path in tmp_path.iterdir()}
    assert with_manifest == {"vector", "tokens", "tokens_offsets", "year", "manifest.json", LOCK}


@pytest.mark.parametrize(
    ("error", "told"),
    [(OSError(28, "No space left on device"), StorageError), (KeyboardInterrupt(), KeyboardInterrupt)],
)
def test_a_manifest_that_could_not_be_written_costs_no_chunk(
    tmp_path: Path,
    whole: dict[str, bytes],
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
    told: type[BaseException],
) -> None:
    replace = Path.replace

    def refuse(self: Path, target: Path) -> Path:
        if target.name == "manifest.json":
            raise error
        return replace(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", refuse)
        with pytest.raises(told):
            build(tmp_path)
    assert list(files(tmp_path)) == [draft.DRAFT]
    again = Counting()
    build(tmp_path, again)
    assert again.asked == []
    assert files(tmp_path) == whole


def test_the_journal_says_what_the_draft_is_of(tmp_path: Path) -> None:
    broken_off(tmp_path)
    found = json.loads((tmp_path / draft.DRAFT / draft.JOURNAL).read_text())
    assert (found["produced_by"], found["chunk"], found["rows"]) == ("digest", CHUNK, 8)
    tokens = sum(key % 5 for key in range(8))
    assert found["sizes"] == {
        "vector.bin": 8 * 6, "tokens.bin": tokens * 4, "tokens_offsets.bin": 9 * 8, "year.bin": 8 * 8
    }  # fmt: skip


def test_in_memory_progress_is_told_of_every_chunk() -> None:
    heard: list[tuple[int, int]] = []
    specs = [RepSpec("v", (1,))]
    ItemTable.build(
        lambda keys: Rep(v=keys[:, None] * torch.ones(1)),
        5,
        specs,
        "digest",
        chunk=2,
        progress=lambda done, rows: heard.append((done, rows)),
    )
    assert heard == [(0, 5), (2, 5), (4, 5), (5, 5)]
