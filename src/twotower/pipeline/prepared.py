"""The prepared data of a run: read, cut and encoded once, and everything later steps ask of it."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

import polars as pl
import torch
from torch import Tensor

from twotower.config import nearest
from twotower.data.dataset import Dataset
from twotower.data.features import Features
from twotower.data.golden import GoldenRows
from twotower.data.history import History
from twotower.data.leakage import LeakageReport
from twotower.data.splits import HeldOut, Split, split
from twotower.data.synthetic import Synthetic
from twotower.errors import ConfigError, MismatchError, StorageError
from twotower.evaluate.task import Task, make_task
from twotower.pipeline.encoded import TABLES, Encoded
from twotower.pipeline.recipe import Recipe
from twotower.schema import Field, Schema


@dataclass(frozen=True)
class Prepared(Encoded):
    """A data set after the recipe's rules, its split, and features fitted on the training part."""

    recipe: Recipe
    dataset: Dataset
    split: Split
    features: Features

    @classmethod
    def make(
        cls,
        recipe: Recipe,
        path: Path | None,
        on_error: Literal["raise", "skip"],
        older: Features | None = None,
    ) -> Prepared:
        """Read the data, apply the positive rule, split, and fit the features on the training events.

        ``older`` features are grown instead of fitted anew: known values keep their rows.
        """
        if isinstance(recipe.data, Synthetic):
            dataset = recipe.data.read()
        elif path is None:
            raise ConfigError(f"the {recipe.data.reader} reader reads files: say where with --data")
        else:
            dataset = recipe.data.read(path, on_error)
        dataset = recipe.positive.apply(replace(dataset, schema=_schema(dataset.schema, recipe)))
        parts = split(dataset, recipe.split)
        features = Features.fit(dataset, parts.train) if older is None else older.grow(dataset, parts.train)
        return cls(recipe, dataset, parts, features)

    def save(self, directory: Path) -> None:
        """Write the tables as Parquet, the features, and golden rows to check them by when loaded."""
        about = {
            "name": self.dataset.name,
            "schema": self.dataset.schema.plain(),
            "notes": list(self.dataset.notes),
        }
        try:
            directory.mkdir(parents=True, exist_ok=True)
            for name in TABLES:
                getattr(self.dataset, name).write_parquet(directory / f"{name}.parquet")
            (directory / "dataset.json").write_text(json.dumps(about, indent=2), encoding="utf-8")
            (directory / "leakage.json").write_text(
                json.dumps(self.leakage.plain(), indent=2), encoding="utf-8"
            )
        except (OSError, pl.exceptions.PolarsError) as error:  # polars wraps a full disk in its own error
            raise StorageError(f"{directory}: the prepared data could not be written: {error}") from error
        self.features.save(directory / "features")
        GoldenRows.take(self.features, self.dataset).save(directory / "golden")

    @classmethod
    def load(cls, recipe: Recipe, directory: Path) -> Prepared:
        """Read what `save` wrote, and replay the golden rows: the features must encode as they did."""
        try:
            found = Encoded.read(recipe, directory)
        except (StorageError, MismatchError) as error:
            raise type(error)(f"{error}; remove {directory} and run prepare again") from error
        return cls(recipe, found.dataset, split(found.dataset, recipe.split), found.features)

    @cached_property
    def leakage(self) -> LeakageReport:
        return LeakageReport.of(self.split, self.recipe.positive)

    @cached_property
    def item_counts(self) -> Tensor:
        """(n_items,) positive training events of each item."""
        return torch.bincount(self.positives(self.split.train).item_keys, minlength=self.n_items)

    def task(self, held_out: HeldOut) -> Task:
        """Every query with a held-out positive, its past up to the cut, and what is to be found.

        Context columns belong to a request, not to a query: they are missing here.
        """
        target = self.positives(self.split.part(held_out))
        keys = torch.unique(target.query_keys)
        before = self.split.history(held_out)
        if self.recipe.evaluate.queries == "warm":
            keys = keys[torch.isin(keys, self.positives(before).query_keys)]
        time = None
        if self.dataset.schema.time is not None:  # of the first event that is to be found
            last = torch.full((len(self.dataset.queries),), torch.inf, dtype=torch.float64)
            time = last.scatter_reduce(0, target.query_keys, target.times.double(), "amin")[keys]
        return make_task(
            keys,
            self.request_columns(keys, before, target),
            self.history(before, "positive").lists().take(keys),
            self.history(before, self.recipe.evaluate.seen).seen().take(keys),
            History.of(target, len(self.dataset.queries)).lists().take(keys),
            self.n_items,
            time,
        )


def _schema(schema: Schema, recipe: Recipe) -> Schema:
    """The reader's schema with the recipe's changes and the history column."""
    known = [field.name for field in schema.fields]
    for name in recipe.fields:
        if name not in known:
            raise ConfigError(f"fields: the data has no field {name!r}{nearest(name, known)}")
    fields = [
        Field.parse({**field.plain(), **recipe.fields.get(field.name, {})}, where=f"fields.{field.name}")
        for field in schema.fields
    ]
    if recipe.history is not None:
        option = recipe.history
        fields.append(
            Field(
                name=option.name,
                kind="sequence",
                role="query",
                of=schema.item,
                max_length=option.max_length,
            )
        )
    return Schema(query=schema.query, item=schema.item, fields=tuple(fields))
