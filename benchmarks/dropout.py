"""What drawing dropout masks in bits saves of a training step, over PyTorch's own dropout.

Models of the pre-ranking benchmark are trained on MovieLens 1M with one and with the other; laps take turns,
and the ratio is taken within a round, of medians of CPU time per step on one thread.

    python -m benchmarks.dropout [--models two-tower int-tower fit] [--rounds 5] [--steps 40]
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch.nn import functional

from benchmarks.machine import machine, write_result
from benchmarks.pre_ranking.data import DATA, prepared_for
from benchmarks.pre_ranking.models import MODELS
from benchmarks.pre_ranking.search import FIRST
from twotower.memory import keep_heap
from twotower.nn import dropout
from twotower.pipeline.learning import train_model
from twotower.train.run import Run

OURS = dropout.dropout


def lap(model: str, steps: int, root: Path, seed: int, *, bits: bool) -> float:
    """Median CPU milliseconds of a training step."""
    recipe = MODELS[model].recipe(FIRST, DATA["ml-1m-hash"])
    recipe["train"] |= {"max_steps": steps, "patience": None}
    prepared, took, step = prepared_for("ml-1m-hash", recipe, seed, root), [], Run.step

    def timed(self: Run[Any, Any], examples: Any) -> None:
        start = time.thread_time()
        step(self, examples)
        took.append((time.thread_time() - start) * 1e3)

    with (
        patch.object(Run, "step", timed),
        patch.object(dropout, "dropout", OURS if bits else functional.dropout),
    ):
        train_model(prepared, "model")
    return statistics.median(took)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("TWOTOWER_DATA", ".")) / "ml-1m")
    parser.add_argument("--models", nargs="+", default=["two-tower", "int-tower", "fit"], choices=MODELS)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=40)
    options = parser.parse_args()
    keep_heap()
    torch.set_num_threads(1)
    about, found = machine(), {}
    for model in options.models:
        laps = [
            [lap(model, options.steps, options.data.parent, seed, bits=bits) for bits in (True, False)]
            for seed in range(options.rounds)
        ]
        ratios = sorted(theirs / ours for ours, theirs in laps)
        found[model] = {
            "ms_per_step": round(statistics.median(ours for ours, _ in laps), 2),
            "ms_per_step_torch": round(statistics.median(theirs for _, theirs in laps), 2),
            "ratio": [round(statistics.median(ratios), 3), round(ratios[0], 3), round(ratios[-1], 3)],
        }
        print(model, found[model], flush=True)
    content = {"steps": options.steps, "rounds": options.rounds, "models": found, "machine": about}
    write_result("dropout", content)


if __name__ == "__main__":
    main()
