"""The ceiling of generated data: the figures of the true probabilities on the test part."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor

from benchmarks.machine import machine
from benchmarks.pre_ranking.cells import cell_path, keep_scores, quality
from benchmarks.pre_ranking.data import DATA, prepared_for
from benchmarks.pre_ranking.files import write_json
from benchmarks.pre_ranking.models import MODELS
from benchmarks.pre_ranking.search import FIRST
from twotower.data.synthetic import Synthetic
from twotower.pipeline.validation import LabelledEvents

TRUTH = "truth"
DEVICES = ("mobile", "desktop", "tablet")  # in the order of the rows of `World.examination`


def has_truth(data: str) -> bool:
    """Whether the data are generated, so that the truth can be asked."""
    return DATA[data].folder is None


def run_truth(data: str) -> None:
    """Measure the truth as if it were a model."""
    prepared = prepared_for(data, MODELS["two-tower"].recipe(FIRST, DATA[data]), seed=0)
    split = prepared.split
    events = LabelledEvents(prepared, split.test, split.history("test"))
    assert isinstance(prepared.recipe.data, Synthetic)
    scores = true_logits(prepared.recipe.data, split.test)
    keep_scores(data, TRUTH, 0, scores, events)
    cell: dict[str, Any] = {
        "data": data,
        "model": TRUTH,
        "seed": 0,
        "test": quality(scores, events.labels, events.groups),
        "events": {"test": len(split.test)},
        "machine": machine(),
    }
    write_json(cell_path(data, TRUTH, 0), cell)


def true_logits(world: Synthetic, events: pl.DataFrame) -> Tensor:
    """(n,) log odds of a click at the event's own position: that of the item, times that of a look at it.

    No item is shown twice to a user, so that user and item name the impression in the log.
    """
    log = world.stage_log().filter(pl.col("stage") == "exposed").select("user", "item", "probability")
    found = events.join(log, on=["user", "item"], how="left", maintain_order="left", validate="1:1")
    assert found["probability"].null_count() == 0
    device = found["device"].replace_strict({name: code for code, name in enumerate(DEVICES)})
    looked = world.world().examination[device.to_numpy(), found["position"].to_numpy()]
    p = found["probability"].to_numpy() * looked
    return torch.from_numpy(np.log(p) - np.log1p(-p))
