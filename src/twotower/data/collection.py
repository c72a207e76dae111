"""A search collection: queries, documents and judgements become a `Dataset`, each of them accounted for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal

import polars as pl
from pydantic import Field as Option
from pydantic import model_validator

from twotower.config import Config
from twotower.data.dataset import Dataset
from twotower.data.hashing import stable_hash
from twotower.data.judgements import Judgements, notes_of
from twotower.data.rows import Raw
from twotower.data.splits import PARTS
from twotower.errors import ConfigError
from twotower.schema import PART, Field, Schema

Part = Literal["train", "valid", "test"]

GRADE = "grade"
"""The label that says how relevant a document was judged: 1 and more is relevant, and the gain of nDCG."""
SCHEMA = Schema(
    query="query",
    item="doc",
    fields=(
        Field(name="query", kind="id", role="query"),
        Field(name="query_text", kind="text", role="query"),
        Field(name="doc", kind="id", role="item"),
        Field(name="title", kind="text", role="item"),
        Field(name="text", kind="text", role="item"),
        Field(name=GRADE, kind="number", role="label"),
    ),
)
"""Of every collection. ``text`` is title and body with a blank between, stripped."""

_DEAL = 1  # seed of the hash that deals queries: training deals validation queries anew, by another one


class Collection(Config):
    """What a reader of a collection may be told: who teaches and who tests, where the files do not say.

    Queries are dealt by the hash of their id, so that the same query falls into the same part everywhere.
    """

    valid_share: float = Option(
        0.0, ge=0, lt=1, description="share of the train queries that become valid; for want of a dev part"
    )
    folds: int = Option(0, ge=0, description="deal all queries into so many folds, whatever their part was")
    fold: int = Option(0, ge=0, description="the fold that is test; the next one is valid, the others train")

    @model_validator(mode="after")
    def _check_folds(self) -> Collection:
        if self.folds in (1, 2):
            raise ValueError(f"folds must be 3 or more (train, valid, test), found {self.folds}")
        if self.fold and self.fold >= self.folds:
            raise ValueError(f"fold {self.fold} of {self.folds} folds; they count from 0")
        if self.folds and self.valid_share:
            raise ValueError("valid_share cuts a train part, which folds make anew: choose one of them")
        return self

    def collect(
        self,
        name: str,
        queries: pl.DataFrame,
        documents: pl.DataFrame,
        judged: Mapping[Part, Judgements],
        notes: tuple[str, ...] = (),
    ) -> Dataset:
        """The data set of ``queries`` (query, query_text), ``documents`` (doc, title, body) and judgements.

        A document without any text stays, for it may be retrieved by other means; it is counted.

        Raises
        ------
        ConfigError
            The options do not fit the parts there are.
        DataError
            A judgement of an unknown query or document, unless it is to be skipped.
        """
        judged = {part: each.known(queries["query"], documents["doc"]) for part, each in judged.items()}
        events = pl.concat(
            [each.frame.with_columns(pl.lit(part).alias(PART)) for part, each in judged.items()]
        )
        part, how = self._dealt(events)
        events = events.with_columns(part)
        title, body = (pl.col(column).fill_null("").str.strip_chars() for column in ("title", "body"))
        documents = documents.select(
            "doc",
            title.replace("", None),
            pl.concat_str(title, body, separator=" ").str.strip_chars().alias("text"),
        )
        counts = _counted(queries, documents, events)
        return Dataset.build(
            name, SCHEMA, events, queries, documents, (*notes, *notes_of(judged.values()), *how, *counts)
        )

    def _dealt(self, events: pl.DataFrame) -> tuple[pl.Series, tuple[str, ...]]:
        """The part of each event, and how it came about where the files did not say."""
        part, place = events[PART], stable_hash(events["query"], _DEAL)
        if self.folds:
            fold = pl.Series((place % self.folds).astype("int64"))
            valid = (self.fold + 1) % self.folds
            part = pl.select(
                pl.when(fold == self.fold)
                .then(pl.lit("test"))
                .when(fold == valid)
                .then(pl.lit("valid"))
                .otherwise(pl.lit("train"))
                .alias(PART)
            ).to_series()
            how = f"queries are dealt into {self.folds} folds by the hash of their id"
            return part, (f"{how}: fold {self.fold} is test, {valid} is valid, the others train",)
        if not self.valid_share:
            return part, ()
        if "valid" in part or "train" not in part:
            found = ", ".join(name for name in PARTS if name in part)
            raise ConfigError(
                f"valid_share makes a valid part of a train part, but the parts are {found}; drop valid_share"
            )
        chosen = (part == "train") & pl.Series(place / 2.0**64 < self.valid_share)
        queries = events["query"]
        many, of = queries.filter(chosen).n_unique(), queries.filter(part == "train").n_unique()
        note = f"{many:,} of {of:,} train queries became valid by the hash of their id"
        return part.set(chosen, "valid"), (f"{note} (valid_share {self.valid_share:g})",)


def blank_is_missing(raw: Raw, *columns: str) -> Raw:
    """The same rows, with null where one of the columns is empty or blank."""
    blank = pl.col(*columns).str.strip_chars() == ""
    values = pl.when(~blank).then(pl.col(*columns))
    return replace(raw, frame=raw.frame.with_columns(values))


def _counted(queries: pl.DataFrame, documents: pl.DataFrame, events: pl.DataFrame) -> tuple[str, ...]:
    """What a reader of the results should know of the collection."""
    grades = events["grade"].value_counts().sort("grade").rows()
    notes = ["judgements by grade: " + ", ".join(f"{grade}: {count:,}" for grade, count in grades)]
    silent = int((documents["text"] == "").sum())
    if silent:
        notes.append(f"{silent:,} of {len(documents):,} documents have no text; they are kept")
    unjudged = int((~queries["query"].is_in(events["query"].implode())).sum())
    if unjudged:
        notes.append(f"{unjudged:,} of {len(queries):,} queries have no judgement; they are kept")
    best = events.group_by(PART, "query").agg(pl.col("grade").max())
    for part in PARTS:
        nothing = len(best.filter((pl.col(PART) == part) & (pl.col("grade") < 1)))
        if nothing:
            notes.append(f"{nothing:,} {part} queries have no relevant document and are not averaged")
    return tuple(notes)
