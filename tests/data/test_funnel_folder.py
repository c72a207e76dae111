"""Which files of a folder count, whatever comes and goes while it is looked at."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from twotower.data import funnel_folder
from twotower.data.funnel_folder import parts_of
from twotower.data.funnel_part import FunnelAbout, about_part, write_part
from twotower.errors import StorageError

ROWS = pl.DataFrame({"request": ["a"]})


def put(folder: Path, name: str, *replaces: str) -> None:
    write_part(folder / f"{name}.parquet", ROWS, FunnelAbout(stages=("retrieve",), replaces=replaces))


def names(folder: Path) -> tuple[str, str]:
    parts, replaced = parts_of(folder)
    return "".join(path.stem for path in parts), "".join(path.stem for path in replaced)


def test_what_another_replaces_does_not_count(tmp_path):
    assert names(tmp_path) == ("", "")
    for name in "abc":
        put(tmp_path, name)
    put(tmp_path, "d", "b.parquet", "c.parquet", "gone.parquet")
    assert names(tmp_path) == ("ad", "bc")
    put(tmp_path, "e", "d.parquet", "a.parquet")  # nothing comes back where d has not gone yet
    assert names(tmp_path) == ("e", "abcd")


@pytest.mark.parametrize("at", [1, 2])
def test_a_merge_under_its_eyes_is_seen_whole(tmp_path, monkeypatch, at):
    """``at``: which look at a file it happens before."""
    for name in "abc":
        put(tmp_path, name)
    looks = []

    def look(path: Path) -> FunnelAbout:
        looks.append(path)
        if len(looks) == at:
            put(tmp_path, "d", "a.parquet", "b.parquet")
            for name in "ab":
                (tmp_path / f"{name}.parquet").unlink()
        return about_part(path)

    monkeypatch.setattr(funnel_folder, "about_part", look)
    assert names(tmp_path) == ("cd", "")


def test_a_file_that_only_comes_may_wait_for_the_next_look(tmp_path, monkeypatch):
    """Else a busy folder would be looked at for ever."""
    put(tmp_path, "a")

    def look(path: Path) -> FunnelAbout:
        put(tmp_path, chr(ord(max(each.stem for each in tmp_path.glob("*.parquet"))) + 1))
        return about_part(path)

    monkeypatch.setattr(funnel_folder, "about_part", look)
    assert names(tmp_path)[0] in ("a", "ab", "abc")


def test_a_damaged_file_is_named(tmp_path):
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    with pytest.raises(StorageError, match=r"a\.parquet: not a sound"):
        parts_of(tmp_path)
