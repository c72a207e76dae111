"""What each model keeps of the candidates it would serve: the set metrics of a cell.

On data split by time, one retriever hands on 500 candidates of the catalogue and one ranker orders them; both
are trained once (seed 1) and stay below `runs/served`. Every model of the tables, trained on exposures alone,
then orders the same candidates of the same test queries: users with a positive training row.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from benchmarks.machine import machine
from benchmarks.pre_ranking.data import DATA, Shuffled, data_root
from benchmarks.pre_ranking.files import RESULTS, write_json
from twotower.cascade.cascade import Cascade
from twotower.cascade.rank import Rank
from twotower.data.movielens import MovieLens
from twotower.metrics.consistency import measure_served
from twotower.metrics.ranking import average
from twotower.models.base import Model
from twotower.pipeline.pipeline import Pipeline
from twotower.pipeline.recipe import Recipe
from twotower.pipeline.served import ServedValidation
from twotower.types import Candidates

RETRIEVED, KEPT, RANKED = 500, 100, 20
STAGE_SEED = 1  # of the retriever and the ranker, which all models share
RUNS = Path("runs") / "served"
STAGES = {"ml-1m-time": "movielens-1m.yaml", "synthetic": "synthetic.yaml"}
"""Data set -> the committed recipe from which its retriever and ranker come."""


def stages_of(plain: dict[str, Any], directory: Path, data: Path | None, shuffled: bool = False) -> Pipeline:
    """The trained retriever and ranker of a recipe; a second call finds them trained.

    They read positives alone, whose times are all exact. ``shuffled`` is for models that are to learn from
    the negatives of the same data, beside a history: see `Shuffled`.
    """
    plain = plain | {"seed": STAGE_SEED, "baselines": []}
    plain["cascade"][0]["k"], plain["cascade"][1]["k"] = RETRIEVED, RANKED
    recipe = Recipe.parse(plain)
    if shuffled and isinstance(recipe.data, MovieLens):
        recipe = recipe.model_copy(update={"data": Shuffled(**recipe.data.plain())})
    pipeline = Pipeline(recipe, directory, data=data, say=lambda line: print(line, flush=True))
    pipeline.prepare()
    pipeline.train()
    return pipeline


def split_cascade(pipeline: Pipeline) -> tuple[Cascade, Rank]:
    """The stages before a pre-ranker, and the ranker behind it."""
    cascade = pipeline.cascade()
    assert cascade is not None
    retrieve, ranker = cascade.stages
    assert isinstance(ranker, Rank)
    return Cascade(retrieve), ranker


@lru_cache(maxsize=1)
def judge(data: str) -> ServedValidation:
    """The served candidates of the test queries of a data set, with the ranker's order."""
    about = DATA[data]
    plain = Recipe.load(Path(__file__).parents[2] / "recipes" / STAGES[data]).plain() | about.recipe
    pipeline = stages_of(plain, RUNS / data, data_root() / about.folder if about.folder else None)
    before, ranker = split_cascade(pipeline)
    found = ServedValidation(pipeline.prepared, before, pipeline.prepared.task("test"), KEPT, ranker)
    path = RESULTS / "served" / f"{data}.json"
    if not path.exists():
        orders = {
            "the retriever's order": own_order(found, ranker=False),
            "the ranker's order": own_order(found, ranker=True),
        }
        metrics = {name: _means(values) for name, values in orders.items()}
        path.parent.mkdir(parents=True, exist_ok=True)
        content = {"data": data, "metrics": metrics, "queries": len(found.task), "machine": machine()}
        write_json(path, content)
    return found


def served(data: str, model: Model) -> dict[str, float]:
    """The set metrics of a trained model."""
    return _means(judge(data).per_query(model))


def own_order(found: ServedValidation, *, ranker: bool) -> dict[str, torch.Tensor]:
    """The measures of the served lists as the retriever left them, or as the ranker orders them."""
    lists = found.served
    if ranker:
        assert found.reference is not None
        places = torch.arange(lists.keys.shape[1], 0, -1.0).expand(lists.keys.shape)
        lists = Candidates(found.reference, places)
    return measure_served(lists, found.task.relevant, found.reference, depths=[found.depth], k=found.k)


def _means(values: dict[str, torch.Tensor]) -> dict[str, float]:
    return {name: average(v).value for name, v in values.items()}
