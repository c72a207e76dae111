"""Features: from tables of values to tensors, fitted on training data, one code path offline and online."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import polars as pl
from torch import Tensor

from twotower.config import nearest
from twotower.data.dataset import Dataset
from twotower.data.encoders import (
    ENCODERS,
    Buckets,
    Encoder,
    OneOf,
    SomeOf,
    fit_encoder,
    flatten,
    grow_encoder,
)
from twotower.data.spec import Column, FeatureSpec, Side, digest
from twotower.data.text.encoders import TEXT_ENCODERS, Pieces, Words, fit_texts
from twotower.data.text.tokenizer import Tokenizer
from twotower.data.vocabulary import Vocabulary
from twotower.errors import ConfigError, DataError, MismatchError, StorageError
from twotower.schema import SIDES, Field, Schema
from twotower.types import Batch

__all__ = ["Column", "FeatureSpec", "Features"]


class Features:
    """The fitted transform of a data set's fields.

    >>> schema = Schema(query="user", item="movie", fields=(
    ...     Field(name="user", kind="id", role="query"), Field(name="movie", kind="id", role="item"),
    ...     Field(name="year", kind="number", role="item")))
    >>> events = pl.DataFrame({"user": [7, 7, 8], "movie": ["a", "b", "a"]})
    >>> movies = pl.DataFrame({"movie": ["a", "b", "c"], "year": [1990, 2000, None]})
    >>> dataset = Dataset.build("tiny", schema, events, items=movies)
    >>> features = Features.fit(dataset, train=dataset.events)
    >>> {name: tensor.tolist() for name, tensor in features.encode_items(dataset.items).items()}
    {'movie': [2, 3, 1], 'year': [[-1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]}
    >>> features.encode_request({"user": 8})["user"].tolist()
    [3]
    """

    def __init__(self, schema: Schema, encoders: Mapping[str, Encoder], notes: tuple[str, ...] = ()) -> None:
        self.schema = schema
        self.notes = notes
        self._encoders = dict(encoders)
        self.spec = FeatureSpec(columns=tuple(_column(schema[name], e) for name, e in encoders.items()))

    @classmethod
    def fit(cls, dataset: Dataset, train: pl.DataFrame, use: Sequence[str] | None = None) -> Features:
        """Learn vocabularies, means and widths from the training events and the entities in them.

        Vocabularies count training events (an item of 50 events counts 50 times towards ``min_count``);
        statistics of numbers see every training entity once. Words are counted in the texts of the training
        queries and of all items, which are no labels. ``use`` names the fields to encode; by default all of
        query, item and context except texts without a tokenizer.

        Raises
        ------
        ConfigError
            ``use`` names a field that does not exist or cannot be encoded.
        DataError
            No training event, or a column that does not hold what its kind says.
        """
        if train.is_empty():
            raise DataError("no training events to fit the features on", remedy="look at the split's report")
        chosen = _chosen(dataset.schema, use)
        encoders: dict[str, Encoder] = {}
        notes: list[str] = []
        for tokenizer in dict.fromkeys(f.tokenizer for f in chosen if f.kind == "text"):
            texts = [f for f in chosen if f.tokenizer == tokenizer]
            encoders |= fit_texts(texts, {f.name: _texts(dataset, train, f) for f in texts})
        for field in chosen:
            if field.kind not in ("sequence", "text"):
                encoders[field.name] = fit_encoder(field, *_training_values(dataset, train, field))
            if field.kind == "bag":
                width = encoders[field.name].width
                cut = int((flatten(_table(dataset, field)[field.name])[1] > width).sum())
                notes += [f"{field.name}: {cut:,} lists cut to {width} values"] if cut else []
        encoders |= {f.name: _sequence(f, encoders) for f in chosen if f.kind == "sequence"}
        return cls(dataset.schema, {f.name: encoders[f.name] for f in chosen}, tuple(notes))

    def grow(self, dataset: Dataset, train: pl.DataFrame) -> Features:
        """These features with vocabularies grown by new training events; all else, texts too, stays.

        For a warm start: old values keep their rows, and `rows_in` says where the others begin.
        """
        encoders = dict(self._encoders)
        for name, encoder in encoders.items():
            if self.spec[name].kind not in ("sequence", "text"):
                field = self.schema[name]
                encoders[name] = grow_encoder(encoder, field, *_training_values(dataset, train, field))
        for column in self.spec.columns:
            if column.kind == "sequence":
                encoders[column.name] = _sequence(self.schema[column.name], encoders)
        return Features(self.schema, encoders, self.notes)

    def rows_in(self, older: Features) -> dict[str, np.ndarray]:
        """For each embedded column of both, which older row each row starts from (see `Vocabulary.rows_in`).

        Raises
        ------
        MismatchError
            A column that both know is of another kind in the older features.
        """
        rows: dict[str, np.ndarray] = {}
        for column in self.spec.columns:
            mine, theirs = self._encoders[column.name], older._encoders.get(column.name)
            if theirs is None or column.of is not None:
                continue
            match mine, theirs:
                case (OneOf(new), OneOf(old)) | (SomeOf(new, _), SomeOf(old, _)):
                    rows[column.name] = new.rows_in(old)
                case _ if type(mine) is not type(theirs):
                    was = older.spec[column.name].kind
                    raise MismatchError(f"column {column.name!r} is {column.kind}, but was {was}")
        return rows

    def vocabulary(self, name: str) -> Vocabulary:
        """The vocabulary of an id, category, bag or sequence column, or of a text in words or stems."""
        encoder = self._encoders.get(name)
        if isinstance(encoder, OneOf | SomeOf | Words):
            return encoder.vocabulary
        known = [n for n, each in self._encoders.items() if isinstance(each, OneOf | SomeOf | Words)]
        raise ConfigError(f"no column {name!r} with a vocabulary{nearest(name, known)}")

    def encode_queries(self, table: pl.DataFrame) -> Batch:
        """(N, ...) tensors of the query table; histories are made of events and not among them."""
        return self._encode("query", table)

    def encode_items(self, table: pl.DataFrame) -> Batch:
        """(N, ...) tensors of the item table."""
        return self._encode("item", table)

    def encode_context(self, events: pl.DataFrame) -> Batch:
        """(N, ...) tensors of the events' own columns; empty when the schema has no context."""
        return self._encode("context", events)

    def encode_request(self, values: Mapping[str, Any]) -> Batch:
        """(1, ...) tensors of the query and context columns of one request, given as plain data.

        What is not given is missing. A sequence may be given as values of its ``of`` field, oldest first
        (the most recent ``width`` are kept); if it is not, it is left to the history store. A text that is
        read ``of`` another is given under the other's name; halves of characters in it (lone surrogates)
        are replaced by U+FFFD.

        Raises
        ------
        ConfigError
            A name that is no query or context field of the schema.
        DataError
            A value of the wrong type.
        """
        known = [f.name for f in self.schema.fields if f.role in ("query", "context") and not _derived(f)]
        for name in values:
            if name not in known:
                raise ConfigError(f"request: unknown field {name!r}{nearest(name, known)}")
        batch = Batch()
        for column in (*self.spec.side("query"), *self.spec.side("context")):
            source = self.schema[column.name].source
            value = values.get(source)
            if column.kind == "text" and isinstance(value, str):
                value = value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
            if column.kind == "sequence":
                if value is None:
                    continue
                value = list(value)[-column.width :]
            batch[column.name] = self._encoders[column.name].encode(_one_row(source, value))
        return batch

    def item_index_of_keys(self, items: pl.DataFrame, column: str | None = None) -> Tensor:
        """(n_items,) int64, item key -> vocabulary row of its id, UNKNOWN for cold items: for histories.

        ``items`` is the item table in key order; ``column`` another id or category field of the items.
        """
        name = column or self.schema.item
        encoder = self._encoders.get(name)
        if isinstance(encoder, OneOf) and self.spec[name].side == "item":
            return encoder.encode(items[name])
        raise ConfigError(f"histories need the item field {name!r}, which is not among the encoded ones")

    def digest(self) -> str:
        """Hex hash of everything fitted: equal digests encode equally."""
        return digest(self._content())

    def save(self, directory: str | Path) -> None:
        """Write ``features.json`` and one folder per vocabulary or tokenizer."""
        directory = Path(directory)
        try:
            directory.mkdir(parents=True, exist_ok=True)
            for number, (name, encoder) in enumerate(self._encoders.items()):
                folder = directory / f"vocabulary-{number:02d}"
                if isinstance(encoder, OneOf | SomeOf | Words) and self.spec[name].of is None:
                    encoder.vocabulary.save(folder)
                elif isinstance(encoder, Pieces):
                    encoder.tokenizer.save(folder)
            text = json.dumps({**self._content(), "notes": self.notes}, indent=2, ensure_ascii=False)
            (directory / "features.json").write_text(text + "\n", encoding="utf-8")
        except OSError as error:
            raise StorageError(f"{directory}: features not written: {error}") from error

    @classmethod
    def load(cls, directory: str | Path) -> Features:
        """Read what `save` wrote; a missing, cut or altered file is a `StorageError`."""
        directory = Path(directory)
        try:
            saved = json.loads((directory / "features.json").read_text(encoding="utf-8"))
            schema, notes = Schema.parse(saved["schema"]), tuple(saved.pop("notes"))
            own: dict[str, Encoder] = {}
            for number, (name, state) in enumerate(saved["encoders"].items()):
                if schema[name].kind != "sequence":
                    own[name] = _restore(state, directory / f"vocabulary-{number:02d}")
            encoders = {name: own.get(name) or _sequence(schema[name], own) for name in saved["encoders"]}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise StorageError(f"{directory}: no readable features: {error}") from error
        features = cls(schema, encoders, notes)
        if features.digest() != digest(saved):
            raise StorageError(f"{directory}: features.json and the vocabularies were not written together")
        return features

    def _content(self) -> dict[str, Any]:
        encoders = {name: encoder.plain() for name, encoder in self._encoders.items()}
        return {"schema": self.schema.plain(), "encoders": encoders}

    def _encode(self, side: Side, table: pl.DataFrame) -> Batch:
        batch = Batch()
        for column in self.spec.side(side):
            if column.kind == "sequence":
                continue
            source = self.schema[column.name].source
            if source not in table.columns:
                raise DataError(f"the {side} table lacks it", column=source)
            batch[column.name] = self._encoders[column.name].encode(table[source])
        return batch


def _chosen(schema: Schema, use: Sequence[str] | None) -> tuple[Field, ...]:
    possible = {
        f.name: f for f in schema.fields if f.role in SIDES and (f.kind != "text" or f.tokenizer is not None)
    }
    for name in use or ():
        if name not in possible:
            raise ConfigError(f"use: no field {name!r} that can be encoded{nearest(name, possible)}")
    return tuple(field for name, field in possible.items() if use is None or name in use)


def _column(field: Field, encoder: Encoder) -> Column:
    return Column(
        name=field.name,
        kind="category" if isinstance(encoder, Buckets) else field.kind,
        side=cast(Side, field.role),
        size=encoder.size,
        width=encoder.width,
        dropout=field.dropout,
        of=field.of if field.kind == "sequence" else None,
        tokenizer=field.tokenizer,
        special=encoder.tokenizer.special if isinstance(encoder, Pieces) else None,
    )


def _derived(field: Field) -> bool:
    """Read from the column of another field."""
    return field.source != field.name


def _table(dataset: Dataset, field: Field) -> pl.DataFrame:
    return {"query": dataset.queries, "item": dataset.items}.get(field.role, dataset.events)


def _training_values(
    dataset: Dataset, train: pl.DataFrame, field: Field
) -> tuple[pl.Series, pl.Series | None]:
    """Values of the training entities, once each, beside their numbers of events; or of the events."""
    if field.role == "context":
        return train[field.name], None
    key = dataset.schema.query if field.role == "query" else dataset.schema.item
    events = train.group_by(pl.col(key).alias("key")).agg(pl.len().alias("events"))
    table = _table(dataset, field)
    counts = table.select(key=key).join(events, on="key", how="left", maintain_order="left")["events"]
    seen = counts.is_not_null()
    return table[field.name].filter(seen), counts.filter(seen)


def _texts(dataset: Dataset, train: pl.DataFrame, field: Field) -> pl.Series:
    """The texts a vocabulary may be made of: all items', the training queries', the training events'."""
    if field.role == "item":
        return dataset.items[field.source]
    if field.role == "context":
        return train[field.source]
    key = dataset.schema.query
    return dataset.queries.join(train.select(key), on=key, how="semi")[field.source]


def _sequence(field: Field, encoders: Mapping[str, Encoder]) -> Encoder:
    shared = encoders.get(str(field.of))
    if not isinstance(shared, OneOf):
        raise ConfigError(f"sequence {field.name!r} needs the id or category field {field.of!r} to be used")
    return SomeOf(shared.vocabulary, field.max_length)


def _one_row(name: str, value: Any) -> pl.Series:
    try:
        if isinstance(value, list | tuple) and any(isinstance(each, float) for each in value):
            value = [None if each is None else float(each) for each in value]  # JSON writes 1 for 1.0
        return pl.Series(name, [value])
    except (TypeError, ValueError, OverflowError, pl.exceptions.PolarsError) as error:
        raise DataError(f"cannot read {value!r}: {error}", column=name) from None


def _restore(state: Mapping[str, Any], directory: Path) -> Encoder:
    values = {key: value for key, value in state.items() if key != "encoder"}
    if "vocabulary" in values:
        values["vocabulary"] = Vocabulary.load(directory)
    if state["encoder"] == Pieces.__name__:
        values["tokenizer"] = Tokenizer.load(directory, state["tokenizer"])
    if "edges" in values:
        values["edges"] = tuple(values["edges"])
    return {**ENCODERS, **TEXT_ENCODERS}[state["encoder"]](**values)
