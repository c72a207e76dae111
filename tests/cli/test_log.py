"""``twotower log prune`` and ``twotower log compact``."""

from __future__ import annotations

import json

import polars as pl
from typer.testing import CliRunner

from twotower.cli.main import app
from twotower.data.funnel_part import FunnelAbout, write_part


def test_it_says_what_went(tmp_path):
    for day in ("20200101", "20200102"):
        (tmp_path / f"{day}T000000-0a1b2c3d-000001.parquet").write_bytes(b"four")
    run = CliRunner().invoke(app, ["log", "prune", str(tmp_path), "--keep-bytes", "5", "--json"])
    assert run.exit_code == 0
    assert json.loads(run.stdout) == {"files": 1, "bytes": 4, "kept_files": 1, "kept_bytes": 4}
    assert [path.name[:8] for path in tmp_path.iterdir()] == ["20200102"]
    run = CliRunner().invoke(app, ["log", "prune", str(tmp_path), "--keep-days", "1"])
    assert run.stdout == "1 files of 4 bytes removed; 0 files of 0 bytes are left\n"
    assert CliRunner().invoke(app, ["log", "prune", str(tmp_path)]).exit_code == 2


def test_it_says_what_was_merged(tmp_path):
    for number in range(3):
        path = tmp_path / f"20200101T00000{number}-0a1b2c3d-000001.parquet"
        write_part(path, pl.DataFrame({"request": [str(number)]}), FunnelAbout(stages=("retrieve",)))
    run = CliRunner().invoke(app, ["log", "compact", str(tmp_path), "--json"])
    assert run.exit_code == 0
    assert json.loads(run.stdout)["files"] == 3
    (merged,) = tmp_path.iterdir()
    assert pl.read_parquet(merged)["request"].to_list() == ["0", "1", "2"]
    run = CliRunner().invoke(app, ["log", "compact", str(tmp_path)])
    assert run.stdout == "0 files of 0 bytes merged into 0 of 0 bytes\n"
    assert CliRunner().invoke(app, ["log", "compact", str(tmp_path / "none")]).exit_code == 74
