"""Learning to pre-rank: what a pre-ranker learns from, judged on the candidates that it serves.

One retriever (500 candidates) and one ranker per data set; between them the same two-tower model, keeping
100, trained in several ways. All of them choose their epoch by the positives they keep on the same validation
queries, of which none taught the ranker; test queries are read once, at the end. A cell is one way with one
seed: a JSON file with means, and a Parquet file with the value of each query for paired intervals.

    pointwise          BCE on every training exposure, as rating models are trained
    exposures          BCE on what was shown at the replayed requests
    full-stage         and the positives against what was ranked, pre-ranked, retrieved, or never retrieved
    full-stage+distil  and the ranker's scores on all that it was served

    python -m benchmarks.pre_ranking.learning [--data ml-1m synthetic] [--seeds 1 2 3]
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import polars as pl
import torch

from benchmarks.machine import machine
from benchmarks.pre_ranking.data import data_root
from benchmarks.pre_ranking.files import RESULTS, write_json
from benchmarks.pre_ranking.served import KEPT, RANKED, STAGE_SEED, own_order, split_cascade, stages_of
from twotower.data.batches import EventBatches
from twotower.data.full_stage import FullStage
from twotower.metrics.ranking import average
from twotower.models.base import Model
from twotower.models.catalogue import make_model
from twotower.pipeline.prepared import Prepared
from twotower.pipeline.preranking import train_on_stages
from twotower.pipeline.recipe import Recipe
from twotower.pipeline.replay import replay
from twotower.pipeline.served import ServedValidation, dealt
from twotower.train.events import Event, Validated
from twotower.train.fit import fit
from twotower.train.lists import FullStageConfig, ListsConfig
from twotower.train.objectives import PointwiseConfig, make_objective
from twotower.train.settings import TrainSettings

CELLS = RESULTS / "learning"
RECIPES = Path(__file__).parents[2] / "recipes"
UNSHOWN: dict[str, Any] = {"ranked": 0, "preranked": 0, "retrieved": 0, "random": 0}

SYSTEMS: dict[str, dict[str, Any] | None] = {
    "pointwise": None,
    "exposures": {"softmax": 0.0, "sample": UNSHOWN},
    "full-stage": {},
    "full-stage+distil": {"teacher": "ranker", "distil": {"loss": "kl", "temperature": 2.0}},
}
"""Name -> what differs from the full-stage objective's defaults; None is plain BCE on all exposures."""

DATA: dict[str, dict[str, Any]] = {
    "ml-1m": {
        "recipe": "movielens-1m.yaml",
        "change": {},
        "features": ("user", "gender", "age", "occupation", "history", "movie", "year", "genres"),
        "requests": 2,
    },
    "synthetic": {
        "recipe": "synthetic.yaml",
        "change": {"data": {"reader": "synthetic", "n_queries": 8000, "n_items": 3000}},
        "features": (
            "user",
            "country",
            "age",
            "history",
            "item",
            "category",
            "brand",
            "tags",
            "price",
            "quality",
        ),
        "requests": 1,
    },
}
TOWER = {"embedding": 16, "layers": [128, 64], "dropout": 0.2, "history": {"kind": "mean"}}
LISTS = TrainSettings(
    epochs=12, batch_size=64, learning_rate=0.002, embedding_weight_decay=1e-4, clip_norm=1.0, patience=2
)
EVENTS = LISTS.model_copy(update={"batch_size": 2048, "learning_rate": 0.003})


class Bench:
    """What all systems of a data set share: stages, replayed requests, and who judges."""

    def __init__(self, data: str, root: Path, runs: Path) -> None:
        self.data = data
        plain = Recipe.load(RECIPES / DATA[data]["recipe"]).plain() | DATA[data]["change"]
        self.pipeline = stages_of(plain, runs / data, root / data if data == "ml-1m" else None, shuffled=True)
        self.prepared: Prepared = self.pipeline.prepared
        recipe = self.pipeline.recipe
        self.before, ranker = split_cascade(self.pipeline)
        self.samples: FullStage = replay(
            self.prepared,
            self.before,
            ranker,
            requests=DATA[data]["requests"],
            ranked=RANKED,
            preranked=KEPT,
        )
        objective = recipe.models[recipe.cascade[-1].model].objective
        assert isinstance(objective, ListsConfig)
        _, choosing = dealt(self.prepared, self.prepared.task("valid"), objective.share)
        self.valid = ServedValidation(self.prepared, self.before, choosing, KEPT, ranker)
        self.test = ServedValidation(self.prepared, self.before, self.prepared.task("test"), KEPT, ranker)
        print(f"{data}: {len(self.samples):,} requests, {len(choosing)} choose, {len(self.test.task)} judge")

    def train(self, system: str, seed: int, listen: Any) -> Model:
        prepared, changes = self.prepared, SYSTEMS[system]
        with torch.random.fork_rng():
            torch.manual_seed(seed + 1)
            model = make_model("two-tower", prepared.spec(DATA[self.data]["features"]), TOWER)
        if changes is not None:
            train_on_stages(
                prepared,
                model,
                self.samples,
                FullStageConfig.parse(changes, where=system),
                LISTS.model_copy(update={"seed": seed}),
                validate=self.valid,
                events=listen,
            )
            return model.eval()
        train = prepared.split.train
        source = EventBatches(
            prepared.interactions(train),
            prepared.queries,
            batch_size=EVENTS.batch_size,
            past=prepared.past(train),
            strict_time=prepared.strict_time,
            seed=seed,
        )
        objective = make_objective(PointwiseConfig(), prepared.items, prepared.item_counts, seed)
        settings = EVENTS.model_copy(update={"seed": seed})
        fit(model, source, objective, settings, validate=self.valid, events=listen)
        return model.eval()

    def run_cell(self, system: str, seed: int) -> None:
        path = CELLS / f"{self.data}-{system}-{seed}.json"
        if path.exists():
            return
        epochs: list[dict[str, float]] = []

        def listen(event: Event) -> None:
            if isinstance(event, Validated):
                epochs.append({"epoch": event.epoch, **event.metrics})

        about, cpu = machine(), time.process_time()
        model = self.train(system, seed, listen)
        cpu = time.process_time() - cpu
        values = self.test.per_query(model)
        self._write(path, system, seed, values, {"valid": epochs, "cpu_seconds": round(cpu, 1)}, about)

    def run_own_orders(self) -> None:
        """The retriever's own order, and the ranker's: what no pre-ranker, and the best one, would keep."""
        for system, stage in (("retriever's order", None), ("ranker itself", "ranker")):
            path = CELLS / f"{self.data}-{system.replace(' ', '-').replace(chr(39), '')}-{STAGE_SEED}.json"
            if path.exists():
                continue
            values = own_order(self.test, ranker=stage is not None)
            self._write(path, system, STAGE_SEED, values, {}, machine())

    def _write(
        self,
        path: Path,
        system: str,
        seed: int,
        values: dict[str, torch.Tensor],
        more: dict[str, Any],
        about: dict[str, Any],
    ) -> None:
        CELLS.mkdir(parents=True, exist_ok=True)
        frame = pl.DataFrame({name: v.float().numpy() for name, v in values.items()})
        frame.write_parquet(path.with_suffix(".parquet"), compression_level=19)
        metrics = {name: average(v).value for name, v in values.items()}
        cell = {"data": self.data, "system": system, "seed": seed, "metrics": metrics}
        cell |= {"queries": len(self.test.task), "requests": len(self.samples), **more, "machine": about}
        write_json(path, cell)
        print(
            f"{self.data} {system} {seed}: " + ", ".join(f"{n} {v:.4f}" for n, v in metrics.items()),
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", nargs="+", default=list(DATA), choices=DATA)
    parser.add_argument("--systems", nargs="+", default=list(SYSTEMS), choices=SYSTEMS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--runs", type=Path, default=Path("runs") / "learning", help="kept between runs")
    options = parser.parse_args()
    torch.set_num_threads(1)
    for data in options.data:
        bench = Bench(data, data_root(), options.runs)
        bench.run_own_orders()
        for seed in options.seeds:
            for system in options.systems:
                bench.run_cell(system, seed)


if __name__ == "__main__":
    main()
