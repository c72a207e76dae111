"""The log of items: what was acknowledged is there, whatever happened to the file's end."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from twotower.errors import DataError, MismatchError, StorageError
from twotower.index.item_log import Entry, ItemLog, entries_of


def entry(number: int, id: int | str | None = None) -> Entry:
    return Entry(f"i{number}" if id is None else id, number, {"year": number, "tags": ["é", None]})


def test_entries_come_back_as_they_were_and_the_last_of_an_item_counts(tmp_path: Path) -> None:
    path = tmp_path / "items.log"
    log = ItemLog(path, "bundle")
    assert (log.last, log.changes(after=0)) == (0, [])
    assert log.append([entry(1, 7), entry(2, "7"), entry(3, 2**40)], after=0) == 3
    assert log.append([entry(4, "7"), Entry(7, 1, None)], after=3) == 5
    wanted = [(3, entry(3, 2**40)), (4, entry(4, "7")), (5, Entry(7, 1, None))]
    assert log.changes(after=0) == wanted
    assert log.changes(after=4) == wanted[2:]
    log.close()
    assert entries_of(path) == wanted
    assert entries_of(path, after=4) == wanted[2:]
    again = ItemLog(path, "bundle")
    assert (again.last, again.changes(after=0)) == (5, wanted)
    assert (again.trim(), again.trim()) == (2, 0)
    assert (again.last, again.changes(after=0)) == (5, wanted)
    assert again.append([], after=5) == 5
    again.close()
    with pytest.raises(StorageError, match="closed"):
        again.append([entry(1)], after=5)


def test_of_two_writers_the_slower_must_look_again(tmp_path: Path) -> None:
    one, two = (ItemLog(tmp_path / "items.log", "bundle") for _ in range(2))
    assert one.append([entry(1)], after=0) == 1
    assert two.append([entry(2)], after=0) is None
    assert two.changes(after=0) == [(1, entry(1))]
    assert two.append([entry(2)], after=1) == 2
    assert one.changes(after=1) == [(2, entry(2))]
    one.close()
    two.close()


def test_a_torn_tail_loses_nothing_that_stands_before_it(tmp_path: Path) -> None:
    """The write-ahead file is cut at any length, or ends in noise: whole batches remain, from the first."""
    log = ItemLog(tmp_path / "items.log", "bundle")
    sizes = []
    for number in range(6):
        log.append([entry(2 * number), entry(2 * number + 1)], after=2 * number)
        sizes.append((tmp_path / "items.log-wal").stat().st_size)
    wal = (tmp_path / "items.log-wal").read_bytes()
    cuts = {len(wal), *sizes, *(size - 1 for size in sizes), *range(sizes[2], len(wal), 3_001)}
    for noise in (b"", os.urandom(5_000)):
        for cut in cuts:
            place = tmp_path / f"cut-{cut}-{len(noise)}"
            place.mkdir()
            shutil.copy(tmp_path / "items.log", place)
            (place / "items.log-wal").write_bytes(wal[:cut] + noise)
            torn = ItemLog(place / "items.log", "bundle")
            whole = sum(size <= cut for size in sizes)
            assert [e for _, e in torn.changes(after=0)] == [entry(number) for number in range(2 * whole)]
            assert torn.append([entry(99)], after=2 * whole) == 2 * whole + 1
            torn.close()
    log.close()


def test_the_log_of_another_bundle_is_refused(tmp_path: Path) -> None:
    ItemLog(tmp_path / "items.log", "bundle").close()
    with pytest.raises(MismatchError, match="goes on from bundle, expected other"):
        ItemLog(tmp_path / "items.log", "other")
    ItemLog(tmp_path / "items.log", "bundle").close()


def test_what_is_no_log_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "items.log"
    path.write_bytes(b"id,year\n" * 1_000)
    with pytest.raises(StorageError, match="not a database"):
        ItemLog(path, "bundle")
    with pytest.raises(StorageError, match="unable to open"):
        ItemLog(tmp_path / "missing" / "items.log", "bundle")


def test_a_newer_format_and_damage_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "items.log"
    log = ItemLog(path, "bundle")
    log.append([entry(number) for number in range(500)], after=0)
    log.close()
    whole = path.read_bytes()
    with sqlite3.connect(path) as db:
        db.execute("UPDATE entry SET features = '{' WHERE number = 3")
    db.close()
    log = ItemLog(path, "bundle")
    with pytest.raises(StorageError, match="an entry is no JSON"):
        log.changes(after=0)
    log.close()
    with sqlite3.connect(path) as db:
        db.execute("UPDATE about SET value = 2 WHERE name = 'format'")
    db.close()
    with pytest.raises(StorageError, match="format 2, expected 1"):
        ItemLog(path, "bundle")
    path.write_bytes(whole[:20_480] + os.urandom(4_096) + whole[24_576:])
    with pytest.raises(StorageError, match=r"damaged|malformed"):
        ItemLog(path, "bundle")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {1, 2}, b"bytes"])
def test_what_json_cannot_hold_is_refused_and_nothing_written(value: object, tmp_path: Path) -> None:
    log = ItemLog(tmp_path / "items.log", "bundle")
    with pytest.raises(DataError, match="item 'b'"):
        log.append([entry(1), Entry("b", 2, {"year": value})], after=0)
    assert log.last == 0
    log.close()


FULL = """
import resource, sys
from twotower.errors import StorageError
from twotower.index.item_log import Entry, ItemLog
log = ItemLog(sys.argv[1], "bundle")
log.append([Entry("a", 0, {})], after=0)
resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, resource.RLIM_INFINITY))
try:
    log.append([Entry(number, number, {"text": "x" * 1000}) for number in range(100)], after=1)
except StorageError as error:
    print(error)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
print(log.append([Entry("b", 1, {})], after=1), len(log.changes(after=0)))
print("torch" in sys.modules)
"""


def test_a_full_disk_keeps_what_was_there_and_the_log_can_go_on(tmp_path: Path) -> None:
    pytest.importorskip("resource")
    command = [sys.executable, "-c", FULL, str(tmp_path / "items.log")]
    said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    assert "what was acknowledged before is kept" in said
    assert said.splitlines()[-2:] == ["2 2", "False"], "and a log needs no torch"


def test_only_a_log_of_items_is_read_as_one(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no log")
    for name, message in (("nothing", "there is no such log"), ("text", "cannot be read as a log of items")):
        with pytest.raises(StorageError, match=message):
            entries_of(tmp_path / name)
    assert not (tmp_path / "nothing").exists()
