"""A data set and the features that encode it: what a request needs, in a run as in a bundle."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Literal

import polars as pl
import torch
from torch import Tensor

from twotower.config import nearest
from twotower.data.collection import GRADE, Collection
from twotower.data.dataset import Dataset
from twotower.data.features import Features, FeatureSpec
from twotower.data.golden import GoldenRows
from twotower.data.history import History, HistoryColumn
from twotower.data.interactions import Interactions, number_array
from twotower.data.positives import Positive
from twotower.data.values import value_of
from twotower.errors import ConfigError, StorageError
from twotower.pipeline.recipe import Recipe
from twotower.schema import Schema
from twotower.types import Batch

TABLES = ("events", "queries", "items")


def positive_rule(recipe: Recipe) -> Positive:
    """The recipe's rule of a positive event; of a collection, if it names no label: a grade from 1."""
    rule = recipe.positive
    if rule.label is not None or not isinstance(recipe.data, Collection):
        return rule
    return rule.model_copy(update={"label": GRADE})


class Encoded:
    """A data set after the recipe's rules, fitted features, and the tensors both make; no split."""

    def __init__(self, recipe: Recipe, dataset: Dataset, features: Features) -> None:
        self.recipe, self.dataset, self.features = recipe, dataset, features

    @classmethod
    def read(cls, recipe: Recipe, directory: Path) -> Encoded:
        """What `Prepared.save` wrote, whose golden rows are replayed: features must encode as they did.

        Raises
        ------
        StorageError
            A file is missing or not readable.
        MismatchError
            The golden rows are encoded to something else than they were.
        """
        try:
            about = json.loads((directory / "dataset.json").read_text(encoding="utf-8"))
            tables = {name: pl.read_parquet(directory / f"{name}.parquet", glob=False) for name in TABLES}
        except (OSError, ValueError, pl.exceptions.PolarsError) as error:
            raise StorageError(f"{directory}: no readable prepared data ({error})") from error
        schema = Schema.parse(about["schema"], where=str(directory / "dataset.json"))
        dataset = Dataset(about["name"], schema, **tables, notes=tuple(about["notes"]))
        features = Features.load(directory / "features")
        GoldenRows.load(directory / "golden").replay(features)
        return Encoded(recipe, dataset, features)

    @cached_property
    def queries(self) -> Batch:
        """Encoded query columns by query key."""
        return self.features.encode_queries(self.dataset.queries)

    @cached_property
    def item_rows(self) -> Tensor:
        """(N,) int64 vocabulary row of each item's id: what histories are made of."""
        return self.features.item_index_of_keys(self.dataset.items)

    @cached_property
    def items(self) -> Batch:
        """Encoded item columns by item key."""
        return self.features.encode_items(self.dataset.items)

    @property
    def n_items(self) -> int:
        return len(self.dataset.items)

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

    @cached_property
    def positive(self) -> Positive:
        return positive_rule(self.recipe)

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
        positive = torch.from_numpy(self.positive.mask(events).to_numpy().copy())
        weights = plain.weights
        if self.recipe.weights is not None:
            rule = self.recipe.weights.of(events)
            weights = rule if weights is None else weights * rule
        return replace(plain, labels=positive.float(), weights=weights)

    def values(self, events: pl.DataFrame) -> Tensor:
        """(n,) float32 what each event is worth: the recipe's value, or 1 for a positive."""
        if self.recipe.value:
            return value_of(events, self.dataset.schema, self.recipe.value)
        return torch.from_numpy(self.positive.mask(events).to_numpy().copy()).float()

    def positives(self, events: pl.DataFrame) -> Interactions:
        """The positive events among them."""
        return self.interactions(events.filter(self.positive.mask(events)))

    def gains(self, events: pl.DataFrame) -> Tensor | None:
        """(n,) float64 what each positive event is worth: its grade in a collection; else None, 1 each."""
        if not isinstance(self.recipe.data, Collection):
            return None
        return torch.from_numpy(number_array(events.filter(self.positive.mask(events))[GRADE])).double()

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
        if option.elapsed and self.dataset.schema.time is None:
            raise ConfigError("history.elapsed: the data declares no time field")
        history = self.history(events, option.events)
        return HistoryColumn(option.name, history, self.item_rows, option.max_length, option.elapsed)

    def history(self, events: pl.DataFrame, which: Literal["positive", "all", "events"]) -> History:
        kept = self.positives(events) if which == "positive" else self.interactions(events)
        return History.of(kept, len(self.dataset.queries))

    def known_columns(self, keys: Tensor) -> Batch:
        """The query columns of known queries beside missing context; no history."""
        return self.queries.take(keys).join(self.missing_context(len(keys)))

    def missing_context(self, rows: int) -> Batch:
        """Context columns of so many requests of which nothing is known."""
        missing = self.features.encode_context(self.dataset.events.clear(1))
        return missing.take(torch.zeros(rows, dtype=torch.int64))

    def request_columns(
        self,
        keys: Tensor,
        before: pl.DataFrame,
        targets: Interactions | None = None,
        times: Tensor | None = None,
    ) -> Batch:
        """What models are shown of known queries: their columns, missing context, and their history.

        They are asked at ``times`` (Q,), or when their first target happened. With a strict-time history,
        events at that target's time are no history of it.
        """
        query = self.known_columns(keys)
        past = self.past(before)
        if past is None:
            return query
        positions = None
        if targets is not None:
            first = torch.full((past.history.n_queries,), torch.inf, dtype=torch.float64)
            times = first.scatter_reduce(0, targets.query_keys, targets.times.double(), "amin")[keys]
        if targets is not None and self.strict_time:
            positions = torch.full((past.history.n_queries,), torch.iinfo(torch.int64).max)
            own = past.history.position_of(targets, strict_time=True)
            positions = positions.scatter_reduce(0, targets.query_keys, own, "amin")[keys]
        return past.join(query, keys, positions, times)
