"""Tests on real data are skipped without data, and may not skip with it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

PROGRAM = """
import pytest

@pytest.mark.data
def test_on_data():
    pytest.skip("the file is not there")

def test_on_nothing():
    pytest.skip("because")

@pytest.mark.data
@pytest.mark.xfail(reason="known")
def test_known_to_fail():
    assert False
"""


def outcome(folder: Path, **environment: str) -> str:
    shutil.copy(Path(__file__).parents[1] / "conftest.py", folder)
    (folder / "test_it.py").write_text(PROGRAM)
    inherited = {name: value for name, value in os.environ.items() if name != "TWOTOWER_DATA"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "ignore", "test_it.py"]
    done = subprocess.run(
        command, cwd=folder, env=inherited | environment, capture_output=True, text=True, check=False
    )
    return done.stdout


def test_without_data_they_are_skipped(tmp_path):
    assert "3 skipped" in outcome(tmp_path)


def test_with_data_a_skip_is_a_failure_and_other_skips_stay(tmp_path):
    text = outcome(tmp_path, TWOTOWER_DATA=str(tmp_path))
    assert "skipped although TWOTOWER_DATA is set" in text
    assert "1 failed, 1 skipped, 1 xfailed" in text
