"""The data sets, as recipes without models.

Labels of all MovieLens data: rating 3 is left out, 4 and 5 are positive (the published protocol). A history
holds the user's positive *training* rows strictly before the event's own second, also where the split is by
hash. In our copy of MovieLens 1M, 14 % of the times are estimates, all of ratings 1 to 3, and all those of a
user are the same moment: as they stand they tell the label to any model that reads a history. To draw the
estimates alone is not enough: an exact time stands among films of the same page of the rating form, a drawn
one does not, so that a candidate unlike the last events is a negative. The users that have some get all
their times of that period shuffled (`Shuffled`).
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


class Shuffled(MovieLens):
    """MovieLens without what estimated times tell of a rating.

    Where an event lies in its user's history, and which events lie beside it, says nothing about whether its
    time was estimated.
    """

    def read(self, path: Path, on_error: OnError = "raise") -> Dataset:
        dataset = super().read(path, on_error)
        if TIME_EXACT not in dataset.events.columns:
            return dataset
        note = "users with estimated times: those of the period they are of were drawn and shuffled"
        return replace(dataset, events=shuffle_times(dataset.events), notes=(*dataset.notes, note))


def shuffle_times(events: pl.DataFrame, seed: int = 0) -> pl.DataFrame:
    """The times of users that have estimated ones: without estimates, and without an order, in their period.

    Each estimate becomes one of the user's exact times of the period, if there is one; then all events of the
    user in the period exchange their times at random.
    """
    users, random = events["user"].to_numpy(), np.random.default_rng(seed)
    times = draw_times(events, random)
    early = events["timestamp"].to_numpy() <= LAST_ESTIMATED
    rows = np.flatnonzero(early & np.isin(users, users[~events[TIME_EXACT].to_numpy()]))
    in_order, at_random = (rows[np.lexsort((key, users[rows]))] for key in (rows, random.random(len(rows))))
    times[in_order] = times[at_random]
    return events.with_columns(pl.Series("timestamp", times, dtype=events.schema["timestamp"]))


def draw_times(events: pl.DataFrame, random: np.random.Generator) -> np.ndarray:
    """(n,) times, each estimate one of the user's exact times of the period, if there is one.

    By itself this hides nothing, see `benchmarks.pre_ranking.time_leak`.
    """
    users, times = events["user"].to_numpy(), events["timestamp"].to_numpy().copy()
    exact = events[TIME_EXACT].to_numpy()
    known = np.flatnonzero(exact & (times <= LAST_ESTIMATED))
    known = known[np.argsort(users[known], kind="stable")]
    wanted = np.flatnonzero(~exact)
    first = np.searchsorted(users[known], users[wanted], side="left")
    count = np.searchsorted(users[known], users[wanted], side="right") - first
    place = (random.random(len(wanted)) * count).astype(np.int64)
    drawn = count > 0
    times[wanted[drawn]] = times[known[(first + place)[drawn]]]
    return times


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
        recipe = recipe.model_copy(update={"data": Shuffled(**recipe.data.plain())})
    return Prepared.make(recipe, root / about.folder if about.folder else None, "raise")


def recipe_of(name: str, model: dict[str, Any], seed: int) -> Recipe:
    """The recipe of one model, called ``model``, on a data set."""
    return Recipe.parse({"name": name, **DATA[name].recipe, "models": {"model": model}, "seed": seed})


def prepared_for(name: str, model: dict[str, Any], seed: int, root: Path | None = None) -> Prepared:
    """The prepared data with a recipe of one model, called ``model``."""
    made = _read(name, root or data_root())
    return Prepared(recipe_of(name, model, seed), made.dataset, made.split, made.features)
