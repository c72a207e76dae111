"""The data of the published IntTower protocol, each of its leaks by itself: which labels a row is shown.

Rows of different parts are shown different statistics of one user or movie. So each is an entity per *view*:
user 7 as training rows see him stands in another row of the table than user 7 as he is tested.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import polars as pl

from twotower.data.dataset import Dataset
from twotower.schema import PART, Field, Schema

SPLIT_SEED, FOLDS = 1023, 10  # the published script's seed; the last fold is the random tenth


@dataclass(frozen=True)
class Variant:
    """Which rows the label statistics of a row are computed from, and which rows choose the epoch."""

    seen: Literal["none", "own", "out-of-fold"]  # statistics of the rows outside test
    test: Literal["none", "train", "test"]  # statistics of test rows
    valid: Literal["tenth", "movies"]

    @property
    def has_statistics(self) -> bool:
        return self.test != "none"


VARIANTS: dict[str, Variant] = {
    "published": Variant("own", "test", "movies"),
    "clean": Variant("none", "none", "tenth"),
    "out-of-fold": Variant("out-of-fold", "train", "tenth"),
    "own-label": Variant("own", "train", "tenth"),
    "test-statistics": Variant("out-of-fold", "test", "tenth"),
    "unseen-movies": Variant("none", "none", "movies"),
}
"""Name in files and tables -> protocol; `replication` says what each stands for."""

FEATURES = ("user", "gender", "age", "occupation", "movie", "genres")
STATISTICS = ("user_mean", "movie_mean")
LABEL = pl.col("rating") >= 4
SCHEMA = Schema(
    query="user_as_seen",
    item="movie_as_seen",
    fields=(
        Field(name="user_as_seen", kind="id", role="query"),
        *(Field(name=name, kind="category", role="query") for name in FEATURES[:4]),
        Field(name="user_mean", kind="number", role="query"),
        Field(name="movie_as_seen", kind="id", role="item"),
        Field(name="movie", kind="id", role="item"),
        Field(name="genres", kind="bag", role="item"),
        Field(name="movie_mean", kind="number", role="item"),
        Field(name="rating", kind="number", role="label"),
    ),
)


def protocol(plain: Dataset, variant: Variant) -> Dataset:
    """The data set of a variant: parts, and both sides with the statistics each row is shown."""
    events = with_views(with_parts(plain.events.filter(pl.col("rating") != 3), variant), variant)
    sides = {}
    for side, table in (("user", plain.queries), ("movie", plain.items)):
        shown = means(events, side, variant)
        seen = pl.concat_str(side, "view", separator="@").alias(f"{side}_as_seen")
        events = events.with_columns(seen)
        sides[side] = shown.join(table, on=side, how="left", maintain_order="left").with_columns(seen)
    return Dataset.build("replication", SCHEMA, events, sides["user"], sides["movie"])


def with_parts(events: pl.DataFrame, variant: Variant) -> pl.DataFrame:
    """Events with their part, and, outside test, one of `FOLDS` random folds.

    The test rows are the same in every variant.
    """
    draw = np.random.default_rng(SPLIT_SEED)
    order = draw.permutation(len(events))
    is_test = np.zeros(len(events), dtype=bool)
    is_test[order[: round(0.2 * len(events))]] = True
    fold = draw.integers(FOLDS, size=len(events))
    if variant.valid == "tenth":
        is_valid = ~is_test & (fold == FOLDS - 1)
    else:
        rest = np.flatnonzero(~is_test)
        by_movie = rest[np.argsort(events["movie"].to_numpy()[rest], kind="stable")]
        is_valid = np.zeros(len(events), dtype=bool)
        is_valid[by_movie[int(len(by_movie) * 0.8) :]] = True
    part = np.select([is_test, is_valid], ["test", "valid"], "train")
    return events.with_columns(pl.Series(PART, part), pl.Series("fold", fold))


def with_views(events: pl.DataFrame, variant: Variant) -> pl.DataFrame:
    """Events with the name of the statistics they are shown."""
    if variant.seen == "out-of-fold":
        train = pl.format("all but {}", "fold")
    else:
        train = pl.lit("train")
    test = pl.lit("test" if variant.test == "test" else "train")
    by_part = pl.when(pl.col(PART) == "train").then(train).when(pl.col(PART) == "test").then(test)
    return events.with_columns(view=by_part.otherwise(pl.lit("train")))


def means(events: pl.DataFrame, side: str, variant: Variant) -> pl.DataFrame:
    """For each entity and view in the events, the mean of the labels the view is made of; null for none.

    Columns: the side's id, ``view``, ``<side>_mean``. With the row's own label, validation rows are part of
    what they are shown, as published; else all means come from training rows.
    """
    shown = events.select(side, "view").unique(maintain_order=True)
    if not variant.has_statistics:
        return shown.with_columns(pl.lit(None, dtype=pl.Float64).alias(f"{side}_mean"))
    train = events.filter(pl.col(PART).is_in(["train", "valid"] if variant.seen == "own" else ["train"]))
    sources = {"train": train, "test": events.filter(pl.col(PART) == "test")}
    sources |= {f"all but {fold}": train.filter(pl.col("fold") != fold) for fold in range(FOLDS)}
    found = [
        source.group_by(side).agg(LABEL.mean().alias(f"{side}_mean")).with_columns(view=pl.lit(view))
        for view, source in sources.items()
    ]
    return shown.join(pl.concat(found), on=[side, "view"], how="left", maintain_order="left")
