"""Does a bundle survive ``kill -9`` at any moment of being built, published, switched or rolled back?

    python -m benchmarks.bundle_faults                          # 200 kills, results/bundle_faults.json
    python -m benchmarks.bundle_faults --kills 10 --run runs/demo --quick

Each kill takes a process of its own, forked from one that has imported everything and done nothing. Half of
them die before a file operation drawn at random (half of those where a version is published and made
current), the others at a moment drawn at random, in the midst of one. After each, what is served
must load with every check and be the version before or the one just built. In the end one build must leave
nothing of all that was killed.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.machine import machine, write_result
from twotower.errors import TwotowerError
from twotower.pipeline.bundles.bundle import Bundle, build, rollback
from twotower.pipeline.bundles.root import BundleRoot
from twotower.pipeline.pipeline import Pipeline
from twotower.pipeline.recipe import Recipe

SMALL: dict[str, Any] = {
    "name": "small",
    "data": {"reader": "synthetic", "n_queries": 150, "n_items": 120},
    "positive": {"label": "click"},
    "models": {
        "retriever": {
            "model": "two-tower",
            "config": {"embedding": 4, "layers": [8]},
            "objective": {"kind": "full-softmax"},
            "train": {"epochs": 1, "batch_size": 64},
        },
        "ranker": {
            "model": "dcn-v2",
            "config": {"embedding": 4, "crosses": 1, "layers": [8]},
            "objective": {"kind": "pointwise"},
            "train": {"epochs": 1, "batch_size": 256},
        },
    },
    "cascade": [
        {"stage": "retrieve", "model": "retriever", "k": 30},
        {"stage": "rank", "model": "ranker", "k": 10},
    ],
    "evaluate": {"requests_timed": 3, "samples": 100},
}
OPERATIONS = {
    *("open", "shutil.copyfile", "shutil.rmtree"),
    *(f"os.{name}" for name in ("rename", "mkdir", "rmdir", "remove", "chmod", "scandir")),
}
PUBLISHING = {"build": ".digest.partial", "rollback": ".current.partial"}
"""The file whose first mention begins to publish a version, or to make another one current."""


class Operations:
    """Counts the file operations below a directory, as the interpreter announces them, and dies before one.

    They count from the first that mentions ``begin``: cleaning up after an earlier death takes operations of
    its own, so the last ones cannot be told by their number.
    """

    def __init__(self, below: Path, begin: str = "", die_at: int | None = None) -> None:
        self.below, self.begin, self.die_at, self.count = str(below), begin, die_at, 0
        sys.addaudithook(self)

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        paths = " ".join(map(str, arguments))
        if event in OPERATIONS and self.below in paths and (self.count or self.begin in paths):
            self.count += 1
            if self.count == self.die_at:
                os.kill(os.getpid(), signal.SIGKILL)


def in_child(work: Callable[[], Any], die_after_s: float | None = None) -> tuple[int, Any]:
    """Exit code and result of ``work`` in a forked process; the parent stays without threads of its own."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)
        try:
            result = work()
        except TwotowerError as error:
            result = {"error": str(error)}
        with os.fdopen(write, "w") as out:
            json.dump(result, out)
        os._exit(0)
    os.close(write)
    if die_after_s is not None:
        time.sleep(die_after_s)
        os.kill(child, signal.SIGKILL)
    with os.fdopen(read) as answer:
        text = answer.read()
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return code, json.loads(text) if text else None


def _built(run: Path, root: Path) -> str:
    return build(run, root).version


def _rolled_back(root: Path) -> str:
    return rollback(root).version


def _loaded(directory: Path) -> str:
    return Bundle.load(directory).version


def look(root: Path) -> dict[str, Any]:
    """What a server would find: which version is served, once that and the newest have passed every check."""
    place = BundleRoot(root)
    served = Bundle.load(root).version
    newest = place.versions()[-1]
    if newest != served:
        Bundle.load(place.path(newest))
    return {"served": served, "versions": place.versions(), "left": leftovers(root)}


def leftovers(root: Path) -> list[str]:
    """Names that no finished build leaves."""
    known = {name for v in BundleRoot(root).versions() for name in (v, f"{v}.digest")} | {"current", ".lock"}
    return sorted(path.name for path in root.iterdir() if path.name not in known)


def strike(run: Path, root: Path, draw: random.Random, whole: dict[str, Any]) -> tuple[str, int]:
    """Build or roll back in a process that is killed; returns how it was to die, and its exit code."""
    back = draw.random() < 0.2
    work = partial(_rolled_back, root) if back else partial(_built, run, root)
    what = "rollback" if back else "build"
    if draw.random() < 0.5:
        code, _ = in_child(work, die_after_s=draw.uniform(0, whole[what]["seconds"]))
        return f"{what}, at a moment", code
    last = draw.random() < 0.5
    begin, which = (PUBLISHING[what], "publishing") if last else ("", "operations")
    at = draw.randint(1, whole[what][which])

    def dying() -> str:
        Operations(root, begin, at)
        return work()

    code, _ = in_child(dying)
    return f"{what}, {'publishing' if last else 'before an operation'}", code


def measured(what: str, work: Callable[[], Any], root: Path) -> dict[str, Any]:
    """Seconds and file operations of one that is left alone."""

    def counted() -> dict[str, int]:
        every, last = Operations(root), Operations(root, PUBLISHING[what])
        work()
        return {"operations": every.count, "publishing": last.count}

    start = time.perf_counter()
    _, counts = in_child(counted)
    return {"seconds": time.perf_counter() - start, **counts}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--run", type=Path, help="a finished run; default: a small one is trained")
    parser.add_argument("--quick", action="store_true", help="print the result instead of keeping it")
    args = parser.parse_args()
    torch.set_num_threads(1)
    about, draw = machine(), random.Random(args.seed)
    folder = Path(tempfile.mkdtemp(prefix="bundle-faults-"))
    try:
        run, root = args.run or folder / "run", folder / "root"
        if args.run is None:
            in_child(lambda: Pipeline(Recipe.parse(SMALL), run).run().name)
        whole = {"build": measured("build", partial(_built, run, root), root)}
        in_child(partial(_built, run, root))
        whole["rollback"] = measured("rollback", partial(_rolled_back, root), root)
        _, before = in_child(partial(look, root))
        strikes, outcomes = Counter[str](), Counter[str]()
        while outcomes["killed"] < args.kills:  # one that had ended before its moment came does not count
            how, code = strike(run, root, draw, whole)
            strikes[how] += 1
            _, after = in_child(partial(look, root))
            if after is None or "error" in after:
                raise SystemExit(f"not readable after: {how}: {after}")
            new = [version for version in after["versions"] if version not in before["versions"]]
            if len(new) > 1 or (
                not how.startswith("rollback") and after["served"] not in (before["served"], *new)
            ):
                raise SystemExit(f"mixed up after: {how}: {before} -> {after}")
            outcomes["killed" if code == -signal.SIGKILL else "had ended before"] += 1
            outcomes["another version is served"] += after["served"] != before["served"]
            outcomes["published, not yet served"] += bool(new) and after["served"] not in new
            outcomes["left a draft or another leftover"] += bool(after["left"])
            before = after
        in_child(partial(_built, run, root))
        _, after = in_child(partial(look, root))
        if after["left"] or after["served"] != after["versions"][-1]:
            raise SystemExit(f"the last build did not clean up: {after}")
        for version in after["versions"]:
            _, found = in_child(partial(_loaded, root / version))
            if found != version:
                raise SystemExit(f"{version} is not readable in the end: {found}")
    finally:
        shutil.rmtree(folder)
    result = {
        "machine": about,
        "kills": args.kills,
        "seed": args.seed,
        "whole": whole,
        "strikes": dict(sorted(strikes.items())),
        "outcomes": dict(outcomes),
        "versions": len(after["versions"]),
        "unreadable_or_mixed": 0,
    }
    if args.quick:
        print(json.dumps(result))
    else:
        print(write_result("bundle_faults", result))


if __name__ == "__main__":
    main()
