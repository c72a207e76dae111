"""``twotower log prune``."""

from __future__ import annotations

import json

from typer.testing import CliRunner

from twotower.cli.log import app


def test_it_says_what_went(tmp_path):
    for day in ("20200101", "20200102"):
        (tmp_path / f"{day}T000000-0a1b2c3d-000001.parquet").write_bytes(b"four")
    run = CliRunner().invoke(app, ["prune", str(tmp_path), "--keep-bytes", "5", "--json"])
    assert run.exit_code == 0
    assert json.loads(run.stdout) == {"files": 1, "bytes": 4, "kept_files": 1, "kept_bytes": 4}
    assert [path.name[:8] for path in tmp_path.iterdir()] == ["20200102"]
    run = CliRunner().invoke(app, ["prune", str(tmp_path), "--keep-days", "1"])
    assert run.stdout == "1 files of 4 bytes removed; 0 files of 0 bytes are left\n"
    assert CliRunner().invoke(app, ["prune", str(tmp_path)]).exit_code == 2
