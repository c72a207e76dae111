"""The prepared data of a run: read, cut and encoded once, and everything later steps ask of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import polars as pl
import torch
from torch import Tensor

from twotower.config import nearest
from twotower.data.dataset import Dataset
from twotower.data.features import Features
from twotower.data.golden import GoldenRows
from twotower.data.interactions import Interactions
from twotower.data.leakage import LeakageReport
from twotower.data.splits import HeldOut, Split, split
from twotower.data.synthetic import Synthetic
from twotower.errors import ConfigError, MismatchError, StorageError
from twotower.evaluate.task import Task, make_task
from twotower.pipeline.encoded import TABLES, Encoded, positive_rule
from twotower.pipeline.recipe import Recipe
from twotower.schema import Field, Schema
from twotower.types import Ragged


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
        dataset = positive_rule(recipe).apply(replace(dataset, schema=_schema(dataset.schema, recipe)))
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
        return LeakageReport.of(self.split, self.positive)

    @cached_property
    def item_counts(self) -> Tensor:
        """(n_items,) positive training events of each item."""
        return torch.bincount(self.positives(self.split.train).item_keys, minlength=self.n_items)

    def task(self, held_out: HeldOut) -> Task:
        """Every query with a held-out positive, its past up to the cut, and what is to be found.

        Context columns belong to a request, not to a query: they are missing here. A collection's grades are
        the gains of what is to be found.
        """
        events = self.split.part(held_out)
        target, gains = self.positives(events), self.gains(events)
        keys = torch.unique(target.query_keys)
        before = self.split.history(held_out)
        if self.recipe.evaluate.queries == "warm":
            keys = keys[torch.isin(keys, self.positives(before).query_keys)]
        wanted, worth = _by_query(target, gains, len(self.dataset.queries))
        time = None
        if self.dataset.schema.time is not None:  # of the first event that is to be found
            last = torch.full((len(self.dataset.queries),), torch.inf, dtype=torch.float64)
            time = last.scatter_reduce(0, target.query_keys, target.times.double(), "amin")[keys]
        return make_task(
            keys,
            self.request_columns(keys, before, target),
            self.history(before, "positive").lists().take(keys),
            self.history(before, self.recipe.evaluate.seen).seen().take(keys),
            wanted.take(keys),
            self.n_items,
            time,
            None if worth is None else worth.take(keys).values,
        )


def _by_query(target: Interactions, gains: Tensor | None, n_queries: int) -> tuple[Ragged, Ragged | None]:
    """The items of each query's events, and what they are worth."""
    order = target.query_keys.argsort(stable=True)
    counts = torch.bincount(target.query_keys, minlength=n_queries)
    offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    worth = None if gains is None else Ragged(gains[order], offsets)
    return Ragged(target.item_keys[order], offsets), worth


def _schema(schema: Schema, recipe: Recipe) -> Schema:
    """The reader's schema with the recipe's changes, further readings of texts, and the history column."""
    known = [field.name for field in schema.fields]
    fields = [_changed(field, recipe.fields.get(field.name, {}), field.name) for field in schema.fields]
    for name, changes in recipe.fields.items():
        if name not in known:
            fields.append(_further(schema, name, changes))
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


def _changed(field: Field, changes: Mapping[str, Any], name: str) -> Field:
    """The field with some options changed; what nobody set stays open to the defaults of its new kind."""
    own = field.model_dump(mode="json", exclude_unset=True)
    return Field.parse({**own, **changes, "name": name}, where=f"fields.{name}")


def _further(schema: Schema, name: str, changes: Mapping[str, Any]) -> Field:
    """One more reading of a text that is there: ``of`` names it, and ``tokenizer`` says how it is read."""
    texts = [field.name for field in schema.having(kind="text") if field.source == field.name]
    of = changes.get("of")
    if of in texts:
        return _changed(schema[of], changes, name)
    known = [field.name for field in schema.fields]
    if of is None:
        more = "; one more reading of a text names it with of" if texts else ""
        raise ConfigError(f"fields: the data has no field {name!r}{nearest(name, known)}{more}")
    raise ConfigError(f"fields.{name}: of={of!r} is no text of the data{nearest(str(of), texts)}")
