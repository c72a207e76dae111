"""One cell: a model trained with one seed on one data set, measured once on its test part.

Beside the figures, the test scores are kept, as logits in steps of 1/64 (about 110 KB for MovieLens 1M): what
a paired interval between two models needs. What belongs to the data alone (label, user and item of each test
event) is kept once per data set.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.machine import machine
from benchmarks.pre_ranking.data import DATA, prepared_for
from benchmarks.pre_ranking.files import RESULTS, read_json, write_arrays, write_json
from benchmarks.pre_ranking.groups import recipe_on
from benchmarks.pre_ranking.models import MODELS
from benchmarks.pre_ranking.search import FIRST, best
from benchmarks.pre_ranking.served import STAGES, served
from twotower.errors import DataError
from twotower.metrics.rating import auc, calibration_error, grouped_auc, log_loss
from twotower.models.base import Model
from twotower.pipeline.feature_dropout import reduce_fields
from twotower.pipeline.learning import train_model
from twotower.pipeline.prepared import Prepared
from twotower.pipeline.validation import LabelledEvents
from twotower.train.events import Event, Listener, Validated
from twotower.train.run import FitResult

SEEDS = (1, 2, 3)
STEP = 1 / 64  # of a kept logit: moves an AUC of a million pairs by less than 1e-6


def cell_path(data: str, model: str, seed: int) -> Any:
    return RESULTS / data / f"{model}-{seed}.json"


def is_made(data: str, model: str, seed: int, tuned: bool = True) -> bool:
    """Whether the cell is there and need not be made again, see `is_stale`.

    False also while its search is not done: making it then says so, and stops no other cell.
    """
    path = cell_path(data, model, seed)
    if not path.exists():
        return False
    try:
        return not is_stale(read_json(path), best(model)["params"] if tuned else FIRST)
    except LookupError:
        return False


def is_stale(cell: dict[str, Any], params: dict[str, float]) -> bool:
    """Whether the search has chosen other settings since, or a lower bound on epochs ended the training."""
    about, then = MODELS[cell["model"]], cell["recipe"]["train"]
    now = about.recipe(params, DATA[cell["data"]])["train"]
    read = ["learning_rate", "embedding_weight_decay"] + ["dropout"] * about.reads_dropout
    changed = about.searched and any(cell["params"][name] != params[name] for name in read)
    return changed or cell["best_epoch"] == then["epochs"] < now["epochs"]


def run_cell(data: str, model: str, seed: int, tuned: bool = True) -> dict[str, Any]:
    """Train and measure; the settings are those the search found on its own data set."""
    params = best(model)["params"] if tuned else FIRST
    recipe = recipe_on(data, model, params)
    prepared = prepared_for(data, recipe, seed)
    epochs: list[dict[str, float]] = []

    def listen(event: Event) -> None:
        if isinstance(event, Validated):
            epochs.append({"epoch": event.epoch, **event.metrics})

    about, started, cpu_started = machine(), time.perf_counter(), time.process_time()
    trained, result, beside = train(prepared, MODELS[model].reduced, listen)
    seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - cpu_started
    split, figures = prepared.split, {}
    for part in ("valid", "test"):
        events = LabelledEvents(prepared, split.part(part), split.history(part))
        scores = events.scores(trained)
        figures[part] = quality(scores, events.labels, events.groups)
    keep_scores(data, model, seed, scores, events)
    cell = {
        "data": data,
        "model": model,
        "seed": seed,
        "params": params,
        "tuned": tuned,
        **figures,
        **({"served": served(data, trained)} if data in STAGES else {}),
        "best_epoch": result.best_epoch,
        "epochs": epochs,
        "seconds": round(seconds, 1),
        "cpu_seconds": round(cpu_seconds, 1),  # a busy neighbour does not count
        "parameters": sum(p.numel() for p in trained.parameters()),
        **costs(trained),
        **beside,
        "events": {part: len(split.part(part)) for part in ("train", "valid", "test")},
        "recipe": recipe,
        "machine": about,
    }
    write_json(cell_path(data, model, seed), cell)  # last: what it names is there
    print(
        f"{data} {model} seed {seed}: test AUC {cell['test']['AUC']:.4f}, log loss "
        f"{cell['test']['log loss']:.4f}, epoch {result.best_epoch}, {seconds:.0f} s",
        flush=True,
    )
    return cell


def train(
    prepared: Prepared, reduced: bool, listen: Listener
) -> tuple[Model, FitResult, dict[str, Sequence[str]]]:
    """Train the recipe's model; a ``reduced`` one goes on with the fields that its gates keep."""
    if not reduced:
        return *train_model(prepared, "model", events=listen), {}
    both = reduce_fields(prepared, "model", events=listen)
    return both.pre_ranker, both.results[-1], {"fields": both.pre_ranker.fields}


def keep_scores(data: str, model: str, seed: int, scores: Tensor, events: LabelledEvents) -> None:
    """Write the (n,) test logits of a cell, and what all cells of the data share if it is not there yet.

    Models are compared event by event. Events come in the order of their times, and these are shown
    otherwise since commit 10836e7: the order kept is that of the cells before.
    """
    path = cell_path(data, model, seed)
    label, user, item = events.labels.bool(), events.groups.int(), events.items.int()
    here = {"label": label.numpy(), "user": user.numpy(), "item": item.numpy()}
    if not (shared := path.parent / "events.npz").exists():
        write_arrays(shared, **here)
    with np.load(shared) as file:
        place = places(here, dict(file))
    kept = (scores / STEP).round().clamp(-32767, 32767).short().numpy()
    write_arrays(path.with_suffix(".npz"), score=kept[place])


def places(here: dict[str, np.ndarray], there: dict[str, np.ndarray]) -> np.ndarray:
    """(n,) where each event of ``there`` stands in ``here``; events of a pair keep their order.

    >>> here = {"user": np.array([1, 2, 2]), "item": np.array([5, 6, 5]), "label": np.array([0, 1, 0])}
    >>> places(here, {name: values[[2, 0, 1]] for name, values in here.items()})
    array([2, 0, 1])
    """
    order = [np.lexsort((events["item"], events["user"])) for events in (here, there)]  # stable
    for name, values in there.items():
        if not np.array_equal(here[name][order[0]], values[order[1]]):
            raise DataError(f"the test events of this cell are not those of the others: {name}")
    place = np.empty(len(order[0]), dtype=np.int64)
    place[order[1]] = order[0]
    return place


def quality(scores: Tensor, labels: Tensor, users: Tensor) -> dict[str, float]:
    """Figures of (n,) logits."""
    return {
        "AUC": auc(scores, labels),
        "log loss": log_loss(scores, labels),
        "GAUC": grouped_auc(scores, labels, users).by_impressions,
        "ECE": calibration_error(scores.sigmoid(), labels),
    }


def at_stores(model: Model) -> dict[str, Model]:
    """The model at every storage depth it offers; one that offers none stores vectors, or encoded columns."""
    only = "vectors" if model.kind in ("dot", "late") else "ids"
    return {store: model.at_store(store) for store in model.stores} or {only: model}


def costs(model: Model) -> dict[str, dict[str, int]]:
    """Bytes per item and FLOPs per pair at every storage depth on offer."""
    at = at_stores(model)
    return {
        "bytes_per_item": {store: m.bytes_per_item for store, m in at.items()},
        "flops_per_pair": {store: m.flops_per_pair for store, m in at.items()},
    }


def kept_scores(data: str, model: str, seed: int) -> Tensor:
    """(n,) test logits of a cell, as they were kept."""
    with np.load(cell_path(data, model, seed).with_suffix(".npz")) as file:
        return torch.from_numpy(file["score"].astype(np.float32) * STEP)
