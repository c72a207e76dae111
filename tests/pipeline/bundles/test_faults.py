"""Ten processes killed while they build a bundle or roll one back; two hundred by ``benchmarks``."""

import json
import os
import subprocess
import sys
from pathlib import Path


def test_whatever_is_killed_the_root_serves_a_whole_version_and_is_cleaned(trained):
    """The program ends with an error at the first bundle that is unreadable or mixed, and it is not empty."""
    command = [sys.executable, "-m", "benchmarks.bundle_faults"]
    options = ["--kills", "10", "--seed", "1", "--run", str(trained.directory), "--quick"]
    root = Path(__file__).parents[3]
    done = subprocess.run(
        [*command, *options],
        cwd=root,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["unreadable_or_mixed"] == 0
    assert found["outcomes"]["killed"] == 10
