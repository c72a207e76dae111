"""How much faster is the library's training step than the loop one would write first, and at what quality?

    python -m benchmarks.training_throughput                 # results/training_throughput.json
    python -m benchmarks.training_throughput --tune          # results/training_rates.json: whence RATES
    python -m benchmarks.training_throughput --quick         # a minute, to see that it works; writes nothing

Each form of `benchmarks.training_forms` runs in a process of its own (allocator settings hold for a process)
and they take turns, lap by lap, so that a busy neighbour slows all alike; ratios are taken within a round.
Then each form trains alone for the same number of steps and is measured on held-out events.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks.machine import machine, write_result
from benchmarks.tastes import generate, save
from benchmarks.training_forms import FORMS, KEPT_HEAP

BATCH = 4096
RATES: dict[str, dict[str, Any]] = {  # the best on the validation part, see --tune
    "dataloader": {"rate": 0.003},
    "tuned": {"rate": 0.003},
    "ours": {"rate": 0.001, "table_rate": 0.1},
}
GRID: dict[str, list[dict[str, Any]]] = {
    "tuned": [{"rate": rate} for rate in (1e-3, 3e-3, 1e-2)],
    "ours": [
        *({"rate": 1e-3, "table_rate": rate} for rate in (0.02, 0.05, 0.1, 0.2)),
        *({"rate": 1e-3, "table_rate": r, "table_optimizer": "sparse_adam"} for r in (1e-3, 3e-3)),
    ],
}


def throughput(data: Path, threads: int, rounds: int, lap: int, seed: int) -> dict[str, Any]:
    """Seconds of each form's lap, round by round, summed up."""
    with ExitStack() as stack:
        workers = {
            form: stack.enter_context(_worker(form, data, threads, seed, "--lap", str(lap))) for form in FORMS
        }
        seconds: dict[str, list[float]] = {form: [] for form in FORMS}
        for number in range(1 + rounds):  # the first is the warm-up
            for form, worker in workers.items():
                assert worker.stdin is not None
                assert worker.stdout is not None
                worker.stdin.write("\n")
                worker.stdin.flush()
                line = worker.stdout.readline()
                if not line:
                    raise SystemExit(f"the process of {form!r} ended with code {worker.wait()}")
                if number:
                    seconds[form].append(float(line))
            _say(f"threads {threads}: round {number} of {rounds}")
    rates = {form: [lap * BATCH / s for s in times] for form, times in seconds.items()}
    ratios = {
        other: [a / b for a, b in zip(seconds[other], seconds["ours"], strict=True)]
        for other in FORMS
        if other != "ours"
    }
    summary = {
        "examples_per_s": {form: _spread(values, 0) for form, values in rates.items()},
        "ms_per_step": {form: _spread([1e3 * s / lap for s in t], 1) for form, t in seconds.items()},
        "ours_over": {other: _spread(values, 2) for other, values in ratios.items()},
    }
    _say(json.dumps(summary))
    return summary


def curve(
    form: str, data: Path, options: dict[str, Any], seed: int, steps: int, part: str, threads: int
) -> list[dict[str, float]]:
    """Held-out quality on the way through ``steps`` steps."""
    _say(f"curve of {form}, seed {seed}, {options}")
    every = str(max(1, steps // 6))
    more = ("--curve", str(steps), "--every", every, "--part", part)
    with _worker(form, data, threads, seed, *more, options=options) as worker:
        out, _ = worker.communicate()
    if worker.returncode:
        raise SystemExit(f"the process of {form!r} ended with code {worker.returncode}")
    points: list[dict[str, float]] = json.loads(out)
    _say(f"  {points[-1]}")
    return points


def tune(data: Path, seed: int, steps: int, threads: int) -> dict[str, Any]:
    """Last point of the validation curve for every setting of `GRID`."""
    return {
        form: [
            {**options, **curve(form, data, options, seed, steps, "valid", threads)[-1]} for options in grid
        ]
        for form, grid in GRID.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--users", type=int, default=200_000)
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--lap", type=int, default=20, help="steps of a form in a round")
    parser.add_argument("--threads", type=int, nargs="+", default=[2, 1])
    parser.add_argument("--steps", type=int, default=490, help="of the curves; 245 are an epoch")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="of the curves")
    parser.add_argument("--seed", type=int, default=0, help="of the data and of the timed runs")
    parser.add_argument("--tune", action="store_true")
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    if args.quick:
        args.events, args.users, args.items = 100_000, 20_000, 10_000
        args.rounds, args.lap, args.steps, args.seeds = 3, 4, 24, [0]

    about = machine()
    sizes = {n: getattr(args, n) for n in ("events", "users", "items", "seed", "steps")}
    with tempfile.TemporaryDirectory() as directory:
        data = Path(directory) / "tastes.safetensors"
        save(data, generate(args.events, args.users, args.items, args.seed))
        if args.tune:
            result = {"part": "valid", **tune(data, args.seed, args.steps, args.threads[0])}
        else:
            result = {
                "batch": BATCH,
                "rates": RATES,
                "throughput": {
                    f"{threads} threads": throughput(data, threads, args.rounds, args.lap, args.seed)
                    for threads in args.threads
                },
                "curves": {
                    form: [
                        curve(form, data, RATES[form], seed, args.steps, "test", args.threads[0])
                        for seed in args.seeds
                    ]
                    for form in FORMS
                },
            }
            result["at_the_end"] = {form: _last(curves) for form, curves in result["curves"].items()}
            print(json.dumps({k: result[k] for k in ("throughput", "at_the_end")}, indent=1))
    if not args.quick:
        name = "training_rates" if args.tune else "training_throughput"
        _say(f"written: {write_result(name, {'machine': about, **sizes, **result})}")


def _worker(
    form: str, data: Path, threads: int, seed: int, *more: str, options: dict[str, Any] | None = None
) -> subprocess.Popen[str]:
    options = {"batch": BATCH, "seed": seed, **(options or RATES[form])}
    command = [sys.executable, "-m", "benchmarks.training_forms", form, "--data", str(data)]
    command += ["--threads", str(threads), "--options", json.dumps(options), *more]
    huge_pages = {"THP_MEM_ALLOC_ENABLE": "1"} if form in KEPT_HEAP else {}  # read when torch is loaded
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), **huge_pages}
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    )


def _spread(values: Sequence[float], digits: int) -> dict[str, float]:
    middle = {"median": statistics.median(values), "min": min(values), "max": max(values)}
    return {name: round(value, digits) for name, value in middle.items()}


def _last(curves: Sequence[list[dict[str, float]]]) -> dict[str, float]:
    """Mean over the seeds of each measure at the last step."""
    names = curves[0][-1]
    return {name: round(statistics.mean(points[-1][name] for points in curves), 4) for name in names}


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
