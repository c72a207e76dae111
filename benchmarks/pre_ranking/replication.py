"""The published IntTower protocol on MovieLens 1M with and without its leaks: what are the leaks worth?

    python -m benchmarks.pre_ranking.replication --data <ml-1m> --jobs 1    # resumes; a cell takes minutes
    python -m benchmarks.pre_ranking.replication --table                    # only print what is there

The protocol of the script published with IntTower (Li et al., CIKM 2022): rating 3 is left out, 4 and 5 are
positive; a random fifth is test; a user is id, gender, age, occupation and the mean of his labels, a movie
is id, genres and the mean of its labels; at most 10 epochs, stopped by the AUC of the validation rows. What
is wrong with it, and what becomes of it here:

1.  The means of test rows are those of the *test* labels, the row's own included (`published`,
    `test-statistics`). Where a movie has one test row, its feature is the answer.
2.  The means of training rows include the row's own label (`published`, `own-label`).
3.  Validation rows are the last fifth of rows sorted by movie: movies that training never sees
    (`published`, `unseen-movies`). The others validate on a random tenth.
4.  The min-max scaler is fitted anew on test and then applied to both parts. Not reproduced: one and the
    same affine map of both parts is undone by the standardisation of our number columns.
5.  Users without a positive in a part lose their rows of that part. Not reproduced: every variant is
    measured on the same rows (the cells count what would go).
6.  Vocabularies are fitted on all rows; ours on training rows. What that leaves untrained scores alike.

`out-of-fold` is the control: the same statistics without a leak. All models are trained alike (averaged
weights, batch 4096, learning rate .006, dropout .2), but for the two-tower as published (neither average nor
dropout, learning rate .003), and at one size (embedding
16, towers 256-64), smaller than published (32, 300-300-128), as is IntTower (4 heads of 32 for 32 of 64: that
does not fit in 24 GiB of memory).

Letters: Q queries, C or K candidates, F fields, E embedding, D vector.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import polars as pl
import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.machine import machine
from benchmarks.pre_ranking.data import data_root
from benchmarks.pre_ranking.files import RESULTS, read_json, write_json
from benchmarks.pre_ranking.jobs import Task, run_all
from benchmarks.pre_ranking.protocol import (
    FEATURES,
    LABEL,
    SPLIT_SEED,
    STATISTICS,
    VARIANTS,
    Variant,
    protocol,
)
from twotower.data.dataset import Dataset
from twotower.data.features import Features
from twotower.data.movielens import MovieLens
from twotower.data.spec import FeatureSpec
from twotower.data.splits import split
from twotower.metrics.rating import auc
from twotower.models.base import masked
from twotower.models.decoupled import Decoupled, DecoupledConfig
from twotower.nn.mlp import mlp
from twotower.pipeline.learning import train_model
from twotower.pipeline.prepared import Prepared
from twotower.pipeline.recipe import Recipe
from twotower.pipeline.validation import LabelledEvents
from twotower.scores.dot import dot
from twotower.types import Batch, Rep, RepSpec

HERE = RESULTS / "replication"
SEEDS = (1, 2, 3)

# models ----------------------------------------------------------------------------------------------

TRAIN = {
    "epochs": 8, "batch_size": 4096, "learning_rate": 0.006, "embedding_weight_decay": 1e-4,
    "average": 0.998, "metric": "AUC", "patience": 1,
}  # fmt: skip
AS_PUBLISHED = {"epochs": 10, "learning_rate": 0.003, "average": None, "patience": 3}
"""The baseline as published has batch norm, whose running statistics are not those of averaged weights."""
TOWERS = {"embedding": 16, "layers": [256, 64]}
DEEP = {"embedding": 16, "layers": [256, 256], "dropout": 0.2}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "two-tower-published": ("benchmarks.pre_ranking.replication:PublishedTwoTower", TOWERS),
    "two-tower": ("two-tower", TOWERS | {"dropout": 0.2}),
    "int-tower": ("int-tower", TOWERS | {"dropout": 0.2, "heads": 4, "head_dim": 32}),
    "dcn": ("dcn", DEEP),
    "dcn-v2": ("dcn-v2", DEEP),
}
"""Name in tables and files -> name in the catalogue, config."""


class PublishedTwoTower(Decoupled):
    """The two-tower baseline as published: sigmoid(<u, v> / (|u| |v|) + b), and u, v end in BN and ReLU.

    So the cosine lies in [0, 1], the logit in [b, b + 1], and no training can make a sure prediction. Weights
    start at a standard deviation of 1e-4, too, as published.
    """

    kind = "dot"

    class Config(DecoupledConfig):
        layers: tuple[int, ...] = (300, 300, 128)

    def __init__(self, spec: FeatureSpec, config: PublishedTwoTower.Config) -> None:
        super().__init__(spec, config)
        self.query_tower, self.item_tower = (
            mlp([size, *config.layers], norm="batch", last=True)
            for size in (self.inputs.query_size, self.inputs.item_size)
        )
        self.bias = nn.Parameter(torch.zeros(()))
        self.dim = config.layers[-1]
        linear = [
            m for tower in (self.query_tower, self.item_tower) for m in tower if isinstance(m, nn.Linear)
        ]
        for weight in (self.inputs.embeddings.table.weight, *(layer.weight for layer in linear)):
            nn.init.normal_(weight, std=1e-4)

    def query_part(self, fields: Tensor) -> Rep:
        """(Q, F, E) -> [u / |u|; b], (Q, D + 1)."""
        vector = functional.normalize(self.query_tower(fields.flatten(-2)), dim=-1, eps=1e-8)
        return Rep(vector=torch.cat([vector, self.bias.expand(*vector.shape[:-1], 1)], dim=-1))

    def item_part(self, fields: Tensor) -> Rep:
        vector = functional.normalize(self.item_tower(fields.flatten(-2)), dim=-1, eps=1e-8)
        return Rep(vector=torch.cat([vector, torch.ones_like(vector[..., :1])], dim=-1))

    def score(self, query: Rep, item: Rep, pair: Batch | None = None, mask: Tensor | None = None) -> Tensor:
        return masked(dot(query["vector"], item["vector"]), mask)

    def item_specs(self) -> tuple[RepSpec, ...]:
        return (RepSpec("vector", (self.dim + 1,)),)

    @property
    def flops_per_pair(self) -> int:
        return 2 * (self.dim + 1)


# cells -------------------------------------------------------------------------------------------------


def recipe_of(model: str, variant: Variant, seed: int) -> Recipe:
    name, config = MODELS[model]
    return Recipe.parse(
        {
            "name": "replication",
            "data": {"reader": "movielens"},
            "positive": {"label": "rating", "at_least": 4},
            "split": {"kind": "predefined"},
            "history": None,
            "models": {
                model: {
                    "model": name,
                    "config": config,
                    "features": [*FEATURES, *(STATISTICS if variant.has_statistics else ())],
                    "objective": {"kind": "pointwise"},
                    "train": TRAIN | (AS_PUBLISHED if model == "two-tower-published" else {}),
                }
            },
            "seed": seed,
        }
    )


@lru_cache(maxsize=1)
def prepared(name: str, data: Path, share: float) -> Prepared:
    """The variant's data, with a recipe that counts for nothing yet; ``share`` of all ratings, to try it."""
    plain = MovieLens().read(data)
    if share < 1:
        events = plain.events.sample(fraction=share, seed=SPLIT_SEED)
        plain = Dataset.build(plain.name, plain.schema, events, plain.queries, plain.items)
    dataset = protocol(plain, VARIANTS[name])
    recipe = recipe_of("two-tower", VARIANTS[name], seed=0)
    parts = split(dataset, recipe.split)
    return Prepared(recipe, dataset, parts, Features.fit(dataset, parts.train))


def run_cell(path: Path, variant: str, model: str, seed: int, data: Path, share: float) -> None:
    """Train one model and measure it once on test; the result is a file."""
    made = prepared(variant, data, share)
    made = Prepared(recipe_of(model, VARIANTS[variant], seed), made.dataset, made.split, made.features)
    started = time.perf_counter()
    trained, result = train_model(made, model)
    parts = made.split
    measured = {
        name: LabelledEvents(made, part, parts.train).measure(trained)
        for name, part in (("valid", parts.valid), ("test", parts.test))
    }
    about = {"variant": variant, "model": model, "seed": seed, "share_of_rows": share}
    write_json(
        path,
        about
        | measured
        | {
            "config": made.recipe.models[model].plain(),
            "rows": {name: len(parts.part(name)) for name in ("train", "valid", "test")},
            "best_epoch": result.best_epoch,
            "seconds": round(time.perf_counter() - started, 1),
            "parameters": sum(p.numel() for p in trained.parameters()),
            "bytes_per_item": trained.bytes_per_item,
            "machine": machine(),
        },
    )
    print(path.name, measured["test"], flush=True)


def measure_statistics(path: Path, variant: str, data: Path, share: float) -> None:
    """How far the statistics alone go, without any model: the mean of the user plus that of the movie."""
    made = prepared(variant, data, share)
    tables = made.dataset.queries, made.dataset.items
    keys = made.interactions(made.split.test)
    labels, overall = keys.labels, float(made.split.train.select(LABEL.mean()).item())
    assert labels is not None
    columns = [
        torch.from_numpy(table[name].fill_null(overall).to_numpy().copy())[key]
        for table, name, key in zip(tables, STATISTICS, (keys.query_keys, keys.item_keys), strict=True)
    ]
    scores = {"user": columns[0], "movie": columns[1], "user + movie": columns[0] + columns[1]}
    write_json(
        path,
        {
            "variant": variant,
            "model": "statistics",
            "share_of_rows": share,
            "test": {f"AUC of {name}": auc(score, labels) for name, score in scores.items()},
            "positives": float(labels.mean()),
            "test_rows": {
                "all": len(made.split.test),
                "alone of their movie": _count(made.split.test, pl.len().over("movie_as_seen") == 1),
                "of users without a positive": _count(made.split.test, ~LABEL.any().over("user_as_seen")),
            },
            "machine": machine(),
        },
    )


def _count(events: pl.DataFrame, condition: pl.Expr) -> int:
    return events.filter(condition).height


def cells(variants: list[str], models: list[str], seeds: list[int]) -> Iterator[tuple[str, str, int]]:
    """Variant by variant, so that a process prepares few; all models of a seed before the next seed."""
    yield from ((v, m, s) for v in variants for s in seeds for m in models)


def table(here: Path) -> str:
    """Mean and spread over seeds by variant and model, from the files that are there."""
    lines = [
        "| variant | model | test AUC | log loss | valid AUC | seeds |",
        "| --- | --- | --: | --: | --: | --: |",
    ]
    for variant in VARIANTS:
        alone = here / f"{variant}-statistics.json"
        if alone.exists():
            value = read_json(alone)["test"]["AUC of user + movie"]
            lines.append(f"| {variant} | the two means, no model | {value:.4f} | - | - | - |")
        for model in MODELS:
            found = [read_json(path) for path in sorted(here.glob(f"{variant}-{model}-[0-9]*.json"))]
            if found:
                columns = [
                    _spread([cell[part][name] for cell in found])
                    for part, name in (("test", "AUC"), ("test", "log loss"), ("valid", "AUC"))
                ]
                lines.append(f"| {variant} | {model} | {' | '.join(columns)} | {len(found)} |")
    return "\n".join(lines)


def missing(here: Path, variant: str) -> list[str]:
    """Models of which a variant has fewer seeds than asked."""
    counts = {model: len(list(here.glob(f"{variant}-{model}-[0-9]*.json"))) for model in MODELS}
    return [
        f"`{model}` ({count} of {len(SEEDS)} seeds)" for model, count in counts.items() if count < len(SEEDS)
    ]


def _spread(values: list[float]) -> str:
    mean = f"{statistics.mean(values):.4f}"
    return f"{mean} ± {statistics.stdev(values):.4f}" if len(values) > 1 else mean


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=data_root() / "ml-1m")
    parser.add_argument("--variants", nargs="*", choices=list(VARIANTS), default=list(VARIANTS))
    parser.add_argument("--models", nargs="*", choices=MODELS, default=list(MODELS))
    parser.add_argument("--seeds", nargs="*", type=int, default=list(SEEDS))
    parser.add_argument("--share", type=float, default=1.0, help="of the ratings, to try it out (with --out)")
    parser.add_argument("--out", type=Path, default=HERE)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--table", action="store_true")
    options = parser.parse_args()
    if options.share < 1 and options.out == HERE:
        parser.error("results of a share of the data do not belong among the others: name --out")
    if not options.table:
        about = options.data, options.share
        alone: list[Task] = [
            (f"{v}-statistics", measure_statistics, (options.out / f"{v}-statistics.json", v, *about))
            for v in options.variants
            if VARIANTS[v].has_statistics
        ]
        trained: list[Task] = [
            (f"{v}-{m}-{s}", run_cell, (options.out / f"{v}-{m}-{s}.json", v, m, s, *about))
            for v, m, s in cells(options.variants, options.models, options.seeds)
        ]
        missing = [task for task in (*alone, *trained) if not task[2][0].exists()]
        if run_all(missing, options.jobs):
            raise SystemExit(1)
    print(table(options.out))


if __name__ == "__main__":
    main()
