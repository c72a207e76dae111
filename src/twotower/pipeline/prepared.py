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
from twotower.data.features import Features, FeatureSpec
from twotower.data.golden import GoldenRows
from twotower.data.history import History, HistoryColumn
from twotower.data.interactions import Interactions
from twotower.data.leakage import LeakageReport
from twotower.data.splits import HeldOut, Split, split
from twotower.data.synthetic import Synthetic
from twotower.data.values import value_of
from twotower.errors import ConfigError, MismatchError, StorageError
from twotower.evaluate.task import Task, make_task
from twotower.pipeline.recipe import Recipe
from twotower.schema import Field, Schema
from twotower.types import Batch

TABLES = ("events", "queries", "items")


@dataclass(frozen=True)
class Prepared:
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
            about = json.loads((directory / "dataset.json").read_text(encoding="utf-8"))
            tables = {name: pl.read_parquet(directory / f"{name}.parquet") for name in TABLES}
        except (OSError, ValueError, pl.exceptions.PolarsError) as error:
            raise StorageError(
                f"{directory}: no readable prepared data ({error}); {_again(directory)}"
            ) from error
        schema = Schema.parse(about["schema"], where=str(directory / "dataset.json"))
        dataset = Dataset(about["name"], schema, **tables, notes=tuple(about["notes"]))
        try:
            features = Features.load(directory / "features")
            GoldenRows.load(directory / "golden").replay(features)
        except (StorageError, MismatchError) as error:
            raise type(error)(f"{error}; {_again(directory)}") from error
        return cls(recipe, dataset, split(dataset, recipe.split), features)

    @cached_property
    def leakage(self) -> LeakageReport:
        return LeakageReport.of(self.split, self.recipe.positive)

    @cached_property
    def queries(self) -> Batch:
        """Encoded query columns by query key."""
        return self.features.encode_queries(self.dataset.queries)

    @cached_property
    def items(self) -> Batch:
        """Encoded item columns by item key."""
        return self.features.encode_items(self.dataset.items)

    @property
    def n_items(self) -> int:
        return len(self.dataset.items)

    @cached_property
    def item_counts(self) -> Tensor:
        """(n_items,) positive training events of each item."""
        return torch.bincount(self.positives(self.split.train).item_keys, minlength=self.n_items)

    def spec(self, use: tuple[str, ...] | None) -> FeatureSpec:
        """What a model is told of the columns it reads."""
        columns = self.features.spec.columns
        if use is None:
            return self.features.spec
        known = [column.name for column in columns]
        for name in use:
            if name not in known:
                raise ConfigError(f"features: no field {name!r} that can be encoded{nearest(name, known)}")
        chosen = [column.plain() for column in columns if column.name in use]
        return FeatureSpec.parse({"columns": chosen}, where="features")

    @property
    def strict_time(self) -> bool:
        """Whether a history ends before the target's own second."""
        return self.recipe.history is not None and self.recipe.history.strict_time

    def interactions(self, events: pl.DataFrame) -> Interactions:
        """Events with keys, encoded context and, as label, whether they are positive."""
        d = self.dataset
        plain = Interactions.of(
            events,
            d.schema,
            d.query_catalogue,
            d.item_catalogue,
            context=self.features.encode_context(events),
        )
        positive = torch.from_numpy(self.recipe.positive.mask(events).to_numpy().copy())
        weights = plain.weights
        if self.recipe.weights is not None:
            rule = self.recipe.weights.of(events)
            weights = rule if weights is None else weights * rule
        return replace(plain, labels=positive.float(), weights=weights)

    def values(self, events: pl.DataFrame) -> Tensor:
        """(n,) float32 what each event is worth: the recipe's value, or 1 for a positive."""
        if self.recipe.value:
            return value_of(events, self.dataset.schema, self.recipe.value)
        return torch.from_numpy(self.recipe.positive.mask(events).to_numpy().copy()).float()

    def positives(self, events: pl.DataFrame) -> Interactions:
        """The positive events among them."""
        return self.interactions(events.filter(self.recipe.positive.mask(events)))

    def past(self, events: pl.DataFrame) -> HistoryColumn | None:
        """The history column made of these events; None when the recipe has no history."""
        option = self.recipe.history
        if option is None:
            return None
        if option.only is not None:
            if events.schema.get(option.only) != pl.Boolean:
                raise ConfigError(
                    f"history.only: {option.only!r} is no yes/no column of the events; "
                    f"known: {[n for n, t in events.schema.items() if t == pl.Boolean]}"
                )
            events = events.filter(pl.col(option.only))
        index = self.features.item_index_of_keys(self.dataset.items)
        return HistoryColumn(option.name, self.history(events, option.events), index, option.max_length)

    def history(self, events: pl.DataFrame, which: Literal["positive", "all", "events"]) -> History:
        kept = self.positives(events) if which == "positive" else self.interactions(events)
        return History.of(kept, len(self.dataset.queries))

    def task(self, held_out: HeldOut) -> Task:
        """Every query with a held-out positive, its past up to the cut, and what is to be found.

        Context columns belong to a request, not to a query: they are missing here.
        """
        target = self.positives(self.split.part(held_out))
        keys = torch.unique(target.query_keys)
        before = self.split.history(held_out)
        if self.recipe.evaluate.queries == "warm":
            keys = keys[torch.isin(keys, self.positives(before).query_keys)]
        return make_task(
            keys,
            self.request_columns(keys, before, target),
            self.history(before, "positive").lists().take(keys),
            self.history(before, self.recipe.evaluate.seen).seen().take(keys),
            History.of(target, len(self.dataset.queries)).lists().take(keys),
            self.n_items,
        )

    def known_columns(self, keys: Tensor) -> Batch:
        """The query columns of known queries beside missing context; no history."""
        return self.queries.take(keys).join(self.missing_context(len(keys)))

    def missing_context(self, rows: int) -> Batch:
        """Context columns of so many requests of which nothing is known."""
        missing = self.features.encode_context(self.dataset.events.clear(1))
        return missing.take(torch.zeros(rows, dtype=torch.int64))

    def request_columns(
        self, keys: Tensor, before: pl.DataFrame, targets: Interactions | None = None
    ) -> Batch:
        """What models are shown of known queries: their columns, missing context, and their history.

        With a strict-time history, events at the time of a query's first target are no history of it.
        """
        query = self.known_columns(keys)
        past = self.past(before)
        if past is None:
            return query
        if targets is None or not self.strict_time:
            return past.join(query, keys)
        positions = torch.full((past.history.n_queries,), torch.iinfo(torch.int64).max)
        own = past.history.position_of(targets, strict_time=True)
        return past.join(query, keys, positions.scatter_reduce(0, targets.query_keys, own, "amin")[keys])


def _again(directory: Path) -> str:
    return f"remove {directory} and run prepare again"


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
