"""A merged log reads as it read before, wherever the merging ends."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

from twotower.cascade import funnel_compaction
from twotower.cascade.funnel_compaction import compact_log
from twotower.cascade.funnel_retention import prune_log
from twotower.data.funnel import Funnel
from twotower.data.funnel_part import FunnelAbout, FunnelSampling, about_part, write_part
from twotower.errors import ConfigError, StorageError

NOW = datetime(2026, 3, 31, 12, tzinfo=UTC)
ABOUT = FunnelAbout(stages=("retrieve",))


def put(folder: Path, number: int, about: FunnelAbout = ABOUT, hours: float = 0, **more: float) -> Path:
    """A file of one request."""
    row = {"request": [f"r{number}"], "query": [number], "item": [2], "time": [0], "stage": ["exposed"]}
    row |= {"rank": [0], "score": [1.0], "sources": [["retrieve"]], "degraded": [[]]}
    row |= {name: [value] for name, value in more.items()}
    stamp = f"{NOW - timedelta(hours=hours):%Y%m%dT%H%M%S}"
    path = folder / f"{stamp}-0a1b2c3d-{number:06d}.parquet"
    write_part(path, pl.DataFrame(row, schema_overrides={"degraded": pl.List(pl.String)}), about)
    return path


def read(folder: Path) -> pl.DataFrame:
    return Funnel(folder).rows().sort("request")


def test_small_files_become_one_and_read_as_before(tmp_path):
    for number in range(9):
        put(tmp_path, number, hours=(9 - number) / 60, **({"late_score": 0.5} if number > 5 else {}))
    before = Funnel(tmp_path).rows()
    size = sum(path.stat().st_size for path in tmp_path.iterdir())
    found = compact_log(tmp_path)
    (path,) = tmp_path.iterdir()
    assert (found.files, found.bytes, found.merged_files) == (9, size, 1)
    assert found.merged_bytes == path.stat().st_size
    assert Funnel(tmp_path).rows().select(before.columns).equals(before)
    assert len(about_part(path).replaces) == 9
    assert str(compact_log(tmp_path)) == "0 files of 0 bytes merged into 0 of 0 bytes"
    put(tmp_path, 9)
    assert compact_log(tmp_path).files == 2
    assert read(tmp_path)["request"].to_list() == [f"r{number}" for number in range(10)]


def test_what_differs_is_not_mixed(tmp_path):
    """Rates, from which weights come; days, by which files are removed."""
    half = ABOUT.model_copy(update={"sampling": FunnelSampling(requests=0.5)})
    for number in range(8):
        put(tmp_path, number, half if number % 2 else ABOUT, hours=24 * (number // 4))
    before = read(tmp_path)
    assert compact_log(tmp_path).merged_files == 4
    assert read(tmp_path).equals(before)
    prune_log(tmp_path, keep_days=0.5, now=NOW)
    assert read(tmp_path)["request"].to_list() == ["r0", "r1", "r2", "r3"]
    assert read(tmp_path)["weight"].to_list() == [1, 2, 1, 2]


def test_large_files_stay_and_merged_ones_are_no_larger_than_asked(tmp_path):
    paths = [put(tmp_path, number) for number in range(6)]
    size = max(path.stat().st_size for path in paths)
    assert compact_log(tmp_path, file_bytes=2 * size - 1).files == 0
    assert compact_log(tmp_path, file_bytes=3 * size).merged_files == 2
    assert len(list(tmp_path.iterdir())) == 2
    assert read(tmp_path)["request"].n_unique() == 6


def test_a_merged_file_is_as_old_as_its_newest_part(tmp_path):
    put(tmp_path, 0, hours=11)
    newest = put(tmp_path, 1, hours=1)
    compact_log(tmp_path)
    (merged,) = tmp_path.iterdir()
    assert merged.name[:15] == newest.name[:15]
    assert prune_log(tmp_path, keep_days=2 / 24, now=NOW).kept_files == 1
    assert prune_log(tmp_path, keep_days=0, now=NOW).files == 1


class Killed(BaseException):
    """Nothing catches it, as nothing catches a signal."""


@pytest.mark.parametrize("moment", range(11))
def test_wherever_it_ends_every_row_is_read_once(tmp_path, monkeypatch, moment):
    """Two merged files; each is written, then synced, then its parts go one by one, then synced."""
    left = iter(range(moment))

    def counted(function):
        def run(*args, **kwargs):
            if next(left, None) is None:
                raise Killed
            return function(*args, **kwargs)

        return run

    for number in range(6):
        put(tmp_path, number, hours=24 * (number % 2))
    before = read(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(funnel_compaction, "write_part", counted(write_part))
        patch.setattr(funnel_compaction.os, "fsync", counted(os.fsync))
        patch.setattr(Path, "unlink", counted(Path.unlink))
        with pytest.raises(Killed):
            compact_log(tmp_path)
    assert read(tmp_path).equals(before)
    if moment % 2:  # what is left over is taken up by either
        compact_log(tmp_path)
        assert len(list(tmp_path.iterdir())) == 2
    else:
        prune_log(tmp_path, keep_days=30, now=NOW)
        assert len(list(tmp_path.glob("*.parquet"))) == len(Funnel(tmp_path).parts)
    assert read(tmp_path).equals(before)


def test_killed_at_random_every_row_is_read_once(tmp_path):
    program = Path(__file__).with_name("killed_compaction.py")
    command = [sys.executable, str(program), str(tmp_path), "8", "3"]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout.splitlines()[-1])
    assert (found["kills"], found["requests"]) == (8, 8 * 12)
    assert found["merged_when_killed"] > 0


def test_what_no_log_named_is_not_touched(tmp_path):
    kept = [put(tmp_path, number).rename(tmp_path / f"mine{number}.parquet") for number in range(2)]
    for number in range(2, 5):
        put(tmp_path, number)
    compact_log(tmp_path)
    assert all(path.exists() for path in kept)
    assert len(list(tmp_path.iterdir())) == 3


def test_what_is_wrong_is_said_and_nothing_is_lost(tmp_path):
    with pytest.raises(ConfigError, match="at least 1, found 0"):
        compact_log(tmp_path, file_bytes=0)
    with pytest.raises(StorageError, match="no such directory"):
        compact_log(tmp_path / "none")
    assert compact_log(tmp_path).files == 0
    put(tmp_path, 0)
    path = put(tmp_path, 1)
    whole = path.read_bytes()
    path.write_bytes(whole[:4] + b"?" * 60 + whole[64:])
    with pytest.raises(StorageError, match="damaged"):
        compact_log(tmp_path)
    path.write_bytes(b"")
    with pytest.raises(StorageError, match="not a sound Parquet file"):
        compact_log(tmp_path)
    assert len(list(tmp_path.iterdir())) == 2
