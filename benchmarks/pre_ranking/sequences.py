"""Next item over the catalogue, MovieLens 1M leave-last-out: a causal tower with dot product and with MoL.

``two-tower-elapsed`` is the same tower that is also told when things happened: how long each event was the
last one, up to the moment of the request. The mixture starts from the trained two-tower's weights, and so
does a two-tower that is trained on for as long, so that their comparison is between similarities and not
between trainings. One cell is a JSON file with the figures and a Parquet file with those of each query, for
paired intervals. Beside them lies, per query, whether all of the user's times are exact (in our copy of the
data a quarter of the events of every second user have estimated times, and so no order), and how long ago the
user's last event was.

    python -m benchmarks.pre_ranking.sequences --data <ml-1m> [--seeds 1 2 3]
"""

from __future__ import annotations

import argparse
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import torch
from torch import Tensor

from benchmarks.machine import machine
from benchmarks.pre_ranking.files import RESULTS, write_arrays, write_json
from twotower.baselines.catalogue import make_baseline
from twotower.evaluate.experiment import run_source
from twotower.evaluate.task import Task
from twotower.metrics.ranking import average, evaluate
from twotower.models.base import Model
from twotower.models.catalogue import load_model, save_model
from twotower.pipeline.learning import train_model
from twotower.pipeline.prepared import Prepared
from twotower.pipeline.recipe import Recipe
from twotower.pipeline.validation import best_of_catalogue
from twotower.schema import TIME_EXACT
from twotower.train.events import Event, Validated

CELLS = RESULTS / "sequences"
RECIPE = Path(__file__).parents[2] / "recipes" / "movielens-1m-leave-last-out.yaml"
MEASURES = ["nDCG@10", "R@10", "R@100"]
FURTHER = {"epochs": 10, "learning_rate": 1e-3, "warmup_steps": 50}
"""What the mixture gets beyond the tower's own training, and the two-tower trained on as well. The mixture's
heads start at random: three epochs at half the rate left it at nDCG@10 .11 in validation."""
SYSTEMS = ("two-tower", "two-tower-elapsed", "two-tower-further", "mol-further")
BASELINES: dict[str, dict[str, Any]] = {"popularity": {}, "item-knn": {}, "ease": {"l2": 300}}
"""Nothing that knows the order of a history: what the users with estimated times are worth without it."""
NEGATIVES = 128  # as RAILS: each costs the mixture what fifteen cost the inner product


def recipe_of(system: str, seed: int) -> Recipe:
    """The retriever of the committed recipe, or one that starts from it."""
    plain = Recipe.load(RECIPE).plain()
    retriever = plain["models"]["retriever"]
    if system == "two-tower-elapsed":
        plain["history"]["elapsed"] = retriever["config"]["history"]["elapsed"] = True
    elif system != "two-tower":
        retriever["train"] |= FURTHER
        retriever["objective"] = {"kind": "sampled", "negatives": NEGATIVES}
    if system == "mol-further":
        history = retriever["config"]["history"]
        retriever |= {"model": "mol"}
        retriever["config"] = {
            "embedding": retriever["config"]["embedding"],
            "layers": [],
            "history": history,
            "bias": False,
            "dim": 32,
            "temperature": 0.05,  # as RAILS
            "gate_dropout": 0.0,
        }
    only = {"models": {"retriever": retriever}, "cascade": [], "baselines": [], "seed": seed}
    return Recipe.parse(plain | only)


def start_from(earlier: Model) -> Any:
    """Copies the tower: every tensor that both models have, by name."""

    def start(model: Model) -> None:
        theirs, own = earlier.state_dict(), model.state_dict()
        shared = {n: t for n, t in theirs.items() if n in own and own[n].shape == t.shape}
        model.load_state_dict(own | shared)

    return start


def trained(prepared: Prepared, system: str, seed: int, weights: Path) -> tuple[Model, dict[str, Any]]:
    """The model, and how its training went; kept below ``weights``, where `benchmarks.ml1m_funnels` may have
    put one. What starts from the two-tower trains that first if it is not there."""
    kept = weights / f"{system}-{seed}"
    if (kept / "model.json").exists():
        return load_model(kept), {"trained": "earlier"}
    start = None
    if system.endswith("further"):
        tower = replace(prepared, recipe=recipe_of("two-tower", seed))
        start = start_from(trained(tower, "two-tower", seed, weights)[0])
    epochs: list[dict[str, float]] = []

    def listen(event: Event) -> None:
        if isinstance(event, Validated):
            epochs.append({"epoch": event.epoch, **event.metrics})
            print(f"{system} seed {seed} epoch {event.epoch}: {event.metrics}", flush=True)

    cpu, directory = time.process_time(), weights / f"training-{system}-{seed}"
    model, result = train_model(prepared, "retriever", start=start, directory=directory, events=listen)
    save_model(model, prepared.recipe.models["retriever"].model, kept)
    return model, {
        "valid": epochs,
        "best_epoch": result.best_epoch,
        "cpu_seconds": time.process_time() - cpu,
    }


def run_cell(made: Prepared, system: str, seed: int, weights: Path) -> None:
    if (CELLS / f"{system}-{seed}.json").exists():
        return
    about = machine()
    recipe = recipe_of(system, seed)
    prepared = Prepared(recipe, made.dataset, made.split, made.features)
    model, how = trained(prepared, system, seed, weights)
    task = prepared.task("test")
    values = evaluate(best_of_catalogue(model, prepared.items, task, 100), task.relevant, MEASURES)
    more = {
        **how,
        "parameters": sum(p.numel() for p in model.parameters()),
        "bytes_per_item": model.bytes_per_item,
        "flops_per_pair": model.flops_per_pair,
        "recipe": recipe.models["retriever"].plain(),
    }
    _write(system, seed, task, values, more, about)


def run_baselines(made: Prepared) -> None:
    """Cells of the baselines, fitted on every event before the test part."""
    task, past = made.task("test"), made.history(made.split.history("test"), "positive")
    for name, options in BASELINES.items():
        if (CELLS / f"{name}-0.json").exists():
            continue
        about, cpu = machine(), time.process_time()
        _, baseline = make_baseline(name, options)
        baseline.fit(past.lists(), made.n_items, past.times)
        values = run_source(baseline, task, MEASURES, 100)
        _write(name, 0, task, values, {"cpu_seconds": time.process_time() - cpu, "options": options}, about)


def _write(
    system: str, seed: int, task: Task, values: dict[str, Tensor], more: dict[str, Any], about: dict[str, Any]
) -> None:
    """A cell: the value of each query, then the means."""
    path = CELLS / f"{system}-{seed}.json"
    CELLS.mkdir(parents=True, exist_ok=True)
    pl.DataFrame({name: v.float().numpy() for name, v in values.items()}).write_parquet(
        path.with_suffix(".parquet"), compression_level=19
    )
    metrics = {name: average(v).value for name, v in values.items()}
    cell = {"data": "ml-1m-leave-last-out", "system": system, "seed": seed, "metrics": metrics}
    write_json(path, cell | {"queries": len(task), **more, "machine": about})


def write_exact(made: Prepared) -> None:
    """Per test query, whether every event of the user has its own time."""
    path = CELLS / "exact.npz"
    if path.exists():
        return
    events = made.dataset.events
    estimated = events.filter(~pl.col(TIME_EXACT))[made.dataset.schema.query].unique()
    ids = made.dataset.query_catalogue.ids(made.task("test").query_keys.numpy())
    CELLS.mkdir(parents=True, exist_ok=True)
    write_arrays(path, exact=~ids.is_in(estimated.implode()).to_numpy())


def write_waited(made: Prepared) -> None:
    """Per test query, the seconds between the user's last event and the request."""
    path = CELLS / "waited.npz"
    if path.exists():
        return
    task, past = made.task("test"), made.history(made.split.history("test"), "positive")
    assert task.time is not None
    last = past.times[past.offsets[1:][task.query_keys] - 1]
    CELLS.mkdir(parents=True, exist_ok=True)
    write_arrays(path, seconds=(task.time - last.double()).long().numpy())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("TWOTOWER_DATA", ".")) / "ml-1m")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--systems", nargs="+", default=SYSTEMS, choices=SYSTEMS)
    parser.add_argument("--weights", type=Path, default=Path("runs") / "sequences", help="kept between runs")
    options = parser.parse_args()
    torch.set_num_threads(1)
    made = Prepared.make(recipe_of("two-tower", 0), options.data, "raise")
    write_exact(made)
    write_waited(made)
    run_baselines(made)
    for system in options.systems:  # the shared tower first
        for seed in options.seeds:
            run_cell(made, system, seed, options.weights)


if __name__ == "__main__":
    main()
