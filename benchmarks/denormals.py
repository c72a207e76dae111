"""What numbers too small for the format cost a training run: milliseconds per step, as training goes on.

The same model is trained twice on MovieLens 1M, as `fit` does it and with denormal numbers left on; medians
of every hundred steps, on one thread.

    python -m benchmarks.denormals --data <ml-1m> [--model deepfm] [--steps 1600]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from benchmarks.machine import machine
from benchmarks.pre_ranking.data import DATA, prepared_for
from benchmarks.pre_ranking.models import MODELS
from benchmarks.pre_ranking.search import FIRST
from twotower.pipeline.learning import train_model
from twotower.train.run import Run

RESULT = Path(__file__).parent / "results" / "denormals.json"
BLOCK = 100


def measure(model: str, steps: int, root: Path, *, kept: bool) -> list[float]:
    """Median CPU milliseconds per step of every hundred steps."""
    recipe = MODELS[model].recipe(FIRST, DATA["ml-1m-hash"])
    recipe["train"] |= {"max_steps": steps, "patience": None}
    prepared, took, step = prepared_for("ml-1m-hash", recipe, 0, root), [], Run.step

    def timed(self: Run[Any, Any], examples: Any) -> None:
        start = time.process_time()
        step(self, examples)
        took.append((time.process_time() - start) * 1e3)

    with patch.object(Run, "step", timed):
        if kept:
            with patch("twotower.train.fit.without_denormals", _as_it_was):
                train_model(prepared, "model")
        else:
            train_model(prepared, "model")
    return [statistics.median(took[i : i + BLOCK]) for i in range(0, len(took) - BLOCK + 1, BLOCK)]


@contextmanager
def _as_it_was() -> Iterator[None]:
    yield


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("TWOTOWER_DATA", ".")) / "ml-1m")
    parser.add_argument("--model", default="deepfm", choices=MODELS)
    parser.add_argument("--steps", type=int, default=1600)
    options = parser.parse_args()
    torch.set_num_threads(1)
    about = machine()
    found = {
        name: [round(ms, 1) for ms in measure(options.model, options.steps, options.data.parent, kept=kept)]
        for name, kept in (("rounded to zero", False), ("left on", True))
    }
    for name, ms in found.items():
        print(f"{name}: " + " ".join(f"{value:.0f}" for value in ms))
    content = {"model": options.model, "steps": options.steps, "ms_per_step": found, "machine": about}
    RESULT.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
