"""Does every acknowledged change of an item survive 200 processes killed while they write?

    python -m benchmarks.item_faults                # results/item_faults.json
    python -m benchmarks.item_faults --kills 20

Runs the program behind ``tests/index/test_item_store.py``: one process adds, changes and deletes items of one
store until it is killed by SIGKILL at a random moment; another then opens the store and compares items, keys
and search results with what was acknowledged. What was under way may be there or not, but only whole.
SIGKILL ends a process, not the machine: that the log reaches the disk before it is acknowledged rests on
SQLite's ``synchronous=FULL``.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.machine import machine, write_result

PROGRAM = Path(__file__).parents[1] / "tests" / "index" / "killed_store.py"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, str(PROGRAM), folder, str(args.kills), str(args.seed)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"a change was lost or torn, see above; seed {args.seed}")
    found = {**json.loads(done.stdout), "seed": args.seed, "seconds": round(time.perf_counter() - start, 1)}
    print(found)
    print(write_result("item_faults", {"found": found, "machine": machine()}))


if __name__ == "__main__":
    main()
