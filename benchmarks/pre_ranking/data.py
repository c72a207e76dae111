"""The data sets, as recipes without models.

Labels of all MovieLens data: rating 3 is left out, 4 and 5 are positive (the published protocol). A history
holds the user's positive *training* rows strictly before the event's own second, also where the split is by
hash. In our copy of MovieLens 1M, 14 % of the times are estimates, all of ratings 1 to 3, and all those of a
user are the same moment: as they stand they tell the label to any model that reads a history. They are
therefore drawn anew (`ExactOrDrawn`).
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from twotower.config import load_yaml
from twotower.data.dataset import Dataset
from twotower.data.movielens import MovieLens
from twotower.data.rows import OnError
from twotower.pipeline.prepared import Prepared
from twotower.pipeline.recipe import Recipe
from twotower.schema import TIME_EXACT

LAST_ESTIMATED = 975_768_738  # every rating after this moment has its exact time
RATINGS = {"label": "rating", "at_least": 4, "drop": {"label": "rating", "equals": 3}}
HISTORY = {"max_length": 50, "strict_time": True}


class ExactOrDrawn(MovieLens):
    """MovieLens with each estimated time drawn from the exact times of the same user.

    A drawn moment is one at which the user rated something, so where an event lies in its user's history says
    nothing about whether its time, and hence its rating, is one of the estimated.
    """

    def read(self, path: Path, on_error: OnError = "raise") -> Dataset:
        dataset = super().read(path, on_error)
        if TIME_EXACT not in dataset.events.columns:
            return dataset
        note = "estimated times were drawn from the exact times of the same user"
        return replace(dataset, events=draw_times(dataset.events), notes=(*dataset.notes, note))


def draw_times(events: pl.DataFrame, seed: int = 0) -> pl.DataFrame:
    """Each estimated time becomes one of the user's exact times in the estimated period, if there is one."""
    users, times = events["user"].to_numpy(), events["timestamp"].to_numpy().copy()
    exact = events[TIME_EXACT].to_numpy()
    known = np.flatnonzero(exact & (times <= LAST_ESTIMATED))
    known = known[np.argsort(users[known], kind="stable")]
    wanted = np.flatnonzero(~exact)
    first = np.searchsorted(users[known], users[wanted], side="left")
    count = np.searchsorted(users[known], users[wanted], side="right") - first
    place = (np.random.default_rng(seed).random(len(wanted)) * count).astype(np.int64)
    drawn = count > 0
    times[wanted[drawn]] = times[known[(first + place)[drawn]]]
    return events.with_columns(pl.Series("timestamp", times, dtype=events.schema["timestamp"]))


@dataclass(frozen=True)
class DataSet:
    """One data set of the benchmark."""

    title: str
    recipe: dict[str, Any]
    folder: str | None = None  # below the data root; none is generated
    train: dict[str, Any] = field(
        default_factory=dict
    )  # changes to `models.TRAIN`, for sizes far from ML-1M's
    crosses: tuple[tuple[str, str], ...] = ()  # [query field, item field] pairs, for models of crosses
    category: str | None = None  # item field of which some models align the values
    note: str = ""

    @property
    def has_history(self) -> bool:
        return self.recipe["history"] is not None


CROSSES = (
    ("user", "genres"),
    ("user", "year"),
    ("gender", "movie"),
    ("age", "movie"),
    ("occupation", "movie"),
)
SYNTHETIC_CROSSES = (
    ("user", "category"),
    ("user", "brand"),
    ("age", "category"),
    ("country", "brand"),
    ("country", "item"),
)
BANDIT_CROSSES = (
    ("visitor_0", "item"),
    ("visitor_1", "item"),
    ("visitor_2", "item"),
    ("visitor_3", "item"),
    ("position", "item"),
)


def _movielens(split: dict[str, Any]) -> dict[str, Any]:
    return {"data": {"reader": "movielens"}, "positive": RATINGS, "split": split, "history": HISTORY}


def _recipe(name: str) -> dict[str, Any]:
    """The part of a recipe file that says what the data are."""
    content = load_yaml(Path(__file__).parent / "recipes" / f"{name}.yaml")
    return {key: content[key] for key in ("data", "positive", "split", "history")}


DATA: dict[str, DataSet] = {
    "ml-1m-hash": DataSet(
        "MovieLens 1M, hash split",
        _movielens({"kind": "hash-random"}),
        "ml-1m",
        crosses=CROSSES,
        category="genres",
    ),
    "ml-1m-time": DataSet(
        "MovieLens 1M, split by time",
        _movielens({"kind": "time"}),
        "ml-1m",
        crosses=CROSSES,
        category="genres",
        note="Most users of the test part are new: what a model knows of them is gender, age and occupation.",
    ),
    "ml-100k": DataSet(
        "MovieLens 100K, hash split",
        _recipe("ml-100k"),
        "ml-100k",
        {"batch_size": 1024},
        CROSSES,
        "genres",
    ),
    "synthetic": DataSet(
        "The synthetic world",
        {
            "data": {"reader": "synthetic", "n_queries": 2000, "n_items": 3000},
            "positive": {"label": "click"},
            "split": {"kind": "time"},
            "history": HISTORY,
        },
        train={"batch_size": 1024},
        crosses=SYNTHETIC_CROSSES,
        category="category",
        note=(
            "The true probability of a click, times that of looking at its position, is known: its figures "
            "are the ceiling. Models are told the position as context."
        ),
    ),
    "open-bandit": DataSet(
        "Open Bandit, small version",
        _recipe("open-bandit"),
        "open-bandit-small",
        {"batch_size": 1024},
        BANDIT_CROSSES,
        "campaign",
        note="A few dozen clicks in the test part: no difference between models can be told from luck.",
    ),
}


def data_root() -> Path:
    """The folder that holds the data sets."""
    return Path(os.environ.get("TWOTOWER_DATA", "."))


@lru_cache(maxsize=1)
def _read(name: str, root: Path) -> Prepared:
    """The data depend on neither model nor seed: a process reads them once."""
    about = DATA[name]
    recipe = recipe_of(name, {"model": "two-tower", "objective": {"kind": "pointwise"}}, seed=0)
    if isinstance(recipe.data, MovieLens):
        recipe = recipe.model_copy(update={"data": ExactOrDrawn(**recipe.data.plain())})
    return Prepared.make(recipe, root / about.folder if about.folder else None, "raise")


def recipe_of(name: str, model: dict[str, Any], seed: int) -> Recipe:
    """The recipe of one model, called ``model``, on a data set."""
    return Recipe.parse({"name": name, **DATA[name].recipe, "models": {"model": model}, "seed": seed})


def prepared_for(name: str, model: dict[str, Any], seed: int, root: Path | None = None) -> Prepared:
    """The prepared data with a recipe of one model, called ``model``."""
    made = _read(name, root or data_root())
    return Prepared(recipe_of(name, model, seed), made.dataset, made.split, made.features)
