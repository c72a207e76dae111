"""Old files of the log go, the newest stay, and nothing else is touched."""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

from twotower.cascade.funnel_retention import prune_log
from twotower.data.funnel import Funnel
from twotower.data.funnel_part import FunnelAbout, write_part
from twotower.errors import ConfigError, StorageError

NOW = datetime(2026, 3, 31, 12, tzinfo=UTC)
ABOUT = FunnelAbout(stages=("retrieve",))


def name(days: float, writer: str = "0a1b2c3d") -> str:
    return f"{NOW - timedelta(days=days):%Y%m%dT%H%M%S}-{writer}-000001.parquet"


@pytest.fixture
def log(tmp_path) -> Path:
    """A file of each of ten days, of one request each."""
    for day in range(10):
        row = {"request": [f"r{day}"], "query": [1], "item": [2], "time": [0], "stage": ["exposed"]}
        row |= {"rank": [0], "score": [1.0], "sources": [["retrieve"]], "degraded": [[""]]}
        write_part(tmp_path / name(day), pl.DataFrame(row), ABOUT)
    return tmp_path


def days(log: Path) -> list[int]:
    return [day for day in range(12) if (log / name(day)).exists()]


def test_files_older_than_so_many_days_go(log):
    found = prune_log(log, keep_days=3, now=NOW)
    assert days(log) == [0, 1, 2, 3]
    assert (found.files, found.kept_files) == (6, 4)
    assert sorted(Funnel(log).rows()["request"]) == ["r0", "r1", "r2", "r3"]
    again = prune_log(log, keep_days=3, now=NOW)
    assert (again.files, again.kept_bytes) == (0, found.kept_bytes)


def test_the_newest_files_stay_that_fit(log):
    size = (log / name(0)).stat().st_size
    assert prune_log(log, keep_bytes=2 * size + size // 2, now=NOW).kept_bytes == 2 * size
    assert days(log) == [0, 1]
    prune_log(log, keep_days=30, keep_bytes=size, now=NOW)
    assert days(log) == [0]
    prune_log(log, keep_bytes=0, now=NOW)
    assert days(log) == []


def test_a_small_old_file_does_not_outlive_a_large_one(log):
    newest, second = (log / name(0)).stat().st_size, log / name(1)
    second.write_bytes(b"x" * 10 * newest)
    prune_log(log, keep_bytes=5 * newest, now=NOW)
    assert days(log) == [0]


def test_what_no_log_named_is_not_touched(log):
    for other in ("mine.parquet", "20260101T000000-mine.parquet", "99999999T999999-0a1b2c3d-000001.parquet"):
        (log / other).write_bytes(b"x")
    draft, fresh = (log / f".{name(day)}.partial" for day in (8, 0))
    draft.write_bytes(b"half")
    fresh.write_bytes(b"half")
    os.utime(draft, (time.time() - 2 * 86400,) * 2)
    prune_log(log, keep_days=0)  # by the clock: all are of the past or, where it stands still, of the future
    assert (log / "mine.parquet").exists()
    assert len(list(log.glob("*-mine.parquet"))) == len(list(log.glob("9*.parquet"))) == 1
    assert fresh.exists()
    assert not draft.exists()


def test_what_is_wrong_is_said(tmp_path):
    with pytest.raises(ConfigError, match="say what to keep"):
        prune_log(tmp_path)
    with pytest.raises(ConfigError, match="at least 0, found -1"):
        prune_log(tmp_path, keep_days=-1)
    with pytest.raises(StorageError, match="no such directory"):
        prune_log(tmp_path / "none", keep_days=1)
