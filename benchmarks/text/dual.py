"""Part ``dual``: the five dual encoders of Dong et al. (EMNLP 2022), every one with the same budget.

On SciFact both towers start as MiniLM; on NFCorpus as nothing, a small transformer over words. All have a
projection that starts at random, as in the paper, and learn by in-batch softmax without hard negatives. The
ordering to be seen again: sde ~ ade-spl > ade-ste ~ ade-fte >= ade; and only the first two in one cloud.

The learning rate of a collection is one for all five: the best of a few for ``sde`` and ``ade`` together, the
least and the most shared, on the validation queries with a seed of its own.

The budget is that of two cores: texts of 64 tokens, so that SciFact's figures lie below those of the other
parts, which read 256. Of the first seed the places of both sides in a plane are kept, too, for the picture.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.pre_ranking.files import read_json, write_arrays
from benchmarks.pre_ranking.tsne import projected
from benchmarks.text.cells import cell, difference, judged, kept_in
from benchmarks.text.collection import MINILM, Form, collection, dual_encoder, minilm
from benchmarks.text.learning import Pool, train
from benchmarks.text.probe import clouds, separability
from benchmarks.text.vectors import kept_vectors, measured, search
from twotower.models.base import Model
from twotower.pipeline.prepared import Prepared
from twotower.pipeline.validation import rank_catalogue
from twotower.train.fit import FitResult
from twotower.train.settings import TrainSettings

SHARES = ("sde", "ade-spl", "ade-ste", "ade-fte", "ade")
SIDES = ("queries", "documents")
CHOOSING = 0
"""The seed that learning rates are chosen with."""
PICTURED = 1
"""The seed whose vectors are drawn."""
PICTURE = Path(__file__).parents[2] / "docs" / "benchmarks" / "dual-encoders"
Validate = Callable[[Model], dict[str, float]]


@dataclass(frozen=True)
class Setting:
    """One collection: how its texts are read, what its towers are, and the budget of each."""

    form: Form
    text: dict[str, Any]
    projection: int
    rates: tuple[float, ...]  # learning rates to choose from
    train: dict[str, Any] = field(default_factory=dict)


SETTINGS = {
    "scifact": Setting(
        Form(query_length=64, length=64),
        {"kind": "pretrained", "path": MINILM, "precision": "bfloat16"},
        projection=384,
        rates=(2e-5, 1e-4, 3e-4),
        train={
            "epochs": 4,
            "batch_size": 16,
            "optimizer": "adamw",
            "warmup_steps": 20,
            "schedule": "linear",
            "clip_norm": 1.0,
            "precision": "bf16",
        },
    ),
    "nfcorpus": Setting(
        Form("words", 32, 64, min_count=2),
        {"kind": "transformer", "dim": 64, "blocks": 2, "heads": 4, "dropout": 0.1},
        projection=64,
        rates=(1e-3, 3e-3),
        train={
            "epochs": 1,
            "batch_size": 128,
            "warmup_steps": 100,
            "schedule": "linear",
            "clip_norm": 1.0,
        },
    ),
}


def dual(
    names: Sequence[str], seeds: Sequence[int], shares: Sequence[str] = SHARES, **changes: Any
) -> dict[str, Any]:
    """A cell for each collection, variant and seed; then every pair of variants. ``changes`` of training."""
    where = kept_in(changes.get("max_steps"))
    for name in names:
        rate = cell(f"dual/{name}/rates", partial(_rates, name, changes, where), where)["chosen"]
        for seed, share in itertools.product(seeds, shares):
            make = partial(_run, name, share, seed, {"learning_rate": rate, **changes}, where)
            cell(f"dual/{name}/{share}-{seed}", make, where)
    if not changes:
        draw(where, PICTURE)
    return {name: compared(name, seeds, shares, where) for name in names}


def _rates(name: str, changes: dict[str, Any], where: Path) -> dict[str, Any]:
    """Every rate tried with the extremes of sharing; test queries are not looked at."""
    tried = {
        str(rate): {
            share: _taught(name, share, CHOOSING, {"learning_rate": rate, **changes})[1].best_value or 0.0
            for share in (SHARES[0], SHARES[-1])
        }
        for rate in SETTINGS[name].rates
    }
    means = {rate: sum(values.values()) / len(values) for rate, values in tried.items()}
    chosen = max(means, key=lambda rate: means[rate])
    return {"collection": name, "seed": CHOOSING, "tried": tried, "means": means, "chosen": float(chosen)}


def _taught(name: str, share: str, seed: int, changes: dict[str, Any]) -> tuple[Model, FitResult]:
    """A model and its training; interrupted, it goes on."""
    setting, prepared = SETTINGS[name], collection(name, SETTINGS[name].form)
    torch.manual_seed(seed)
    model = dual_encoder(prepared, {"text": setting.text, "share": share, "projection": setting.projection})
    plain = {**setting.train, **changes, "seed": seed, "device": "cpu", "metric": "nDCG@10"}
    settings = TrainSettings.parse(plain, where=name)
    run = f"dual-{name}-{share}-{seed}-{settings.learning_rate:g}-{settings.max_steps or 'all'}"
    return model, train(model, prepared, validation(name, prepared), settings, run)


def _run(name: str, share: str, seed: int, changes: dict[str, Any], where: Path) -> dict[str, Any]:
    setting, prepared = SETTINGS[name], collection(name, SETTINGS[name].form)
    model, result = _taught(name, share, seed, changes)
    task = prepared.task("test")
    found = search(model, kept_vectors(model, prepared), task)
    both = clouds(model, task, prepared.items)
    if seed == PICTURED:
        write_arrays(
            where / f"dual/{name}/{share}-places.npz", **dict(zip(SIDES, projected(both), strict=True))
        )
    return {
        "collection": name,
        "share": share,
        "seed": seed,
        "setting": {**asdict(setting), "train": {**setting.train, **changes}},
        "parameters": sum(p.numel() for p in model.parameters()),
        "best_epoch": result.best_epoch,
        "best_value": result.best_value,
        "train_seconds": round(result.seconds),
        "separability": separability(*both),
        **judged(measured(found, task)),
    }


def validation(name: str, prepared: Prepared) -> Validate:
    """What the epoch is chosen by: small towers rank the whole catalogue, MiniLM a pool of documents."""
    if SETTINGS[name].text["kind"] == "pretrained":
        plain = minilm(prepared, "bfloat16")
        return Pool(prepared, plain, kept_vectors(plain, prepared))
    task = prepared.task("valid")
    return lambda model: rank_catalogue(model, prepared.items, task)


def compared(name: str, seeds: Sequence[int], shares: Sequence[str], where: Path) -> dict[str, Any]:
    """The means of every variant, its separability, and the difference to each that the paper ranks below."""
    cells = {s: [read_json(where / f"dual/{name}/{s}-{seed}.json") for seed in seeds] for s in shares}
    means = {
        share: {
            "nDCG@10": round(sum(c["means"]["nDCG@10"] for c in found) / len(found), 4),
            "separability": round(sum(c["separability"]["accuracy"] for c in found) / len(found), 4),
        }
        for share, found in cells.items()
    }
    print(f"{name}: {means}")
    over = {}
    for better, worse in itertools.combinations(shares, 2):
        gain = difference(cells[better], cells[worse])
        over[f"{better} - {worse}"] = str(gain)
        print(f"  {better} over {worse}: {gain}")
    return {"means": means, "differences": over}


def draw(where: Path, pictures: Path) -> None:
    """One picture for each collection, from the places that are there."""
    from benchmarks.pre_ranking import plots

    for name in SETTINGS:
        files = {share: where / f"dual/{name}/{share}-places.npz" for share in SHARES}
        panels = {share: dict(np.load(path)) for share, path in files.items() if path.is_file()}
        if panels:
            plots.clouds(panels, pictures / f"{name}.png")
