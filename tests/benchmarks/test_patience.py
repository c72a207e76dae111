"""Where a run would have stopped, read off a longer one."""

import pytest

pytest.importorskip("optuna", reason="the benchmarks' packages (extra: bench) are not installed")

from benchmarks.pre_ranking import patience
from benchmarks.pre_ranking.files import write_json


def test_the_epoch_kept_is_that_of_a_run_that_stops_there():
    losses = [0.5, 0.45, 0.45, 0.46, 0.3, 0.31, 0.32, 0.2]
    assert [patience.stopped(losses, more) for more in (1, 2, 3, 4)] == [2, 2, 8, 8]
    assert patience.stopped(losses[:2], 5) == 2


def test_the_section_shows_both(tmp_path):
    assert patience.table(tmp_path) == ""
    write_json(tmp_path / "mol.json", {"model": "mol", "log loss": [0.5, 0.4, 0.41, 0.35, 0.36, 0.36]})
    assert "| `mol` | 2 | 0.4000 | 4 | 0.3500 | 0.0500 |" in patience.table(tmp_path)
