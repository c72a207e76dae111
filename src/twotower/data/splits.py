"""Train, valid, test: five ways to cut the events, one order. See "Protocols" in the architecture.

Events are ordered by (time, row) everywhere; without a time, by row.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import polars as pl
from pydantic import Field as Option
from pydantic import model_validator

from twotower.config import Config
from twotower.data.dataset import Dataset
from twotower.data.hashing import stable_hash
from twotower.errors import ConfigError, DataError
from twotower.schema import PART, ROW, Schema

HeldOut = Literal["valid", "test"]
PARTS = ("train", "valid", "test")


class SplitConfig(Config):
    """How to split.

    ``time``: the earliest ``fractions[0]`` of the events train, and so on; events at the moment of a cut
    belong to the earlier part. ``leave-last-out``: of each query the last event is test and the last but
    one valid; queries with fewer than three events only train. ``by-user``: queries are dealt to the parts
    by hash; the first ``fold_in`` of a held-out query's events are given as its history, the others are to
    be found. ``predefined``: the events' column ``column`` names the part. ``hash-random``: each
    (query, item) pair by ``xxh64("query:item") % 10``, 0-7 train, 8 valid, 9 test.
    """

    kind: Literal["time", "leave-last-out", "by-user", "predefined", "hash-random"] = "time"
    fractions: tuple[float, float, float] = Option((0.8, 0.1, 0.1), description="time, by-user: shares")
    fold_in: float = Option(0.8, gt=0, lt=1, description="by-user: share of events given as history")
    seed: int = Option(0, ge=0, description="by-user: another seed deals other queries")
    column: str = Option(PART, description="predefined: column of the events")

    @model_validator(mode="after")
    def _check(self) -> SplitConfig:
        if min(self.fractions) < 0 or self.fractions[0] == 0 or not math.isclose(sum(self.fractions), 1):
            raise ValueError(f"fractions {self.fractions} must sum to 1, with something to train on")
        return self


@dataclass(frozen=True)
class Split:
    """The parts of a data set's events, each ordered by (time, row).

    ``fold_in`` holds, for a split by user, the events given of held-out queries; ``cuts`` the time of the
    last training and of the last valid event of a split by time.
    """

    config: SplitConfig
    schema: Schema
    train: pl.DataFrame
    valid: pl.DataFrame
    test: pl.DataFrame
    fold_in: dict[HeldOut, pl.DataFrame] = field(default_factory=dict)
    cuts: tuple[float, ...] = ()
    notes: tuple[str, ...] = ()

    def part(self, name: str) -> pl.DataFrame:
        return {"train": self.train, "valid": self.valid, "test": self.test}[name]

    def history(self, held_out: HeldOut) -> pl.DataFrame:
        """Events that may be known when a part is scored, ordered; of them, only those before the target.

        Training events, and for the test part those of valid too, unless the split is random: there only
        training rows may feed a history. By user: also the fold-in events of that part's queries.
        """
        frames = [self.train]
        if held_out in self.fold_in:
            frames.append(self.fold_in[held_out])
        elif held_out == "test" and self.config.kind != "hash-random":
            frames.append(self.valid)
        return pl.concat(frames).sort(order(self.schema))

    def __repr__(self) -> str:
        sizes = ", ".join(f"{name} {len(self.part(name)):,}" for name in PARTS)
        return f"Split({self.config.kind}: {sizes})"


def split(dataset: Dataset, config: SplitConfig | None = None) -> Split:
    """Cut the events into train, valid and test.

    Raises
    ------
    ConfigError
        The split needs a time or a column that the data set lacks.
    DataError
        A part that should hold events is empty.
    """
    config, schema = config or SplitConfig(), dataset.schema
    events = dataset.events.sort(order(schema))
    cuts: tuple[float, ...] = ()
    notes: tuple[str, ...] = ()
    match config.kind:
        case "time":
            cuts = _time_cuts(events, schema, config)
            part = sum(((events[str(schema.time)] > cut).cast(pl.Int8) for cut in cuts), start=_zeros(events))
        case "leave-last-out":
            part = _leave_last_out(events, schema)
            few = events.filter(pl.len().over(schema.query) < 3)[schema.query].n_unique()
            notes = (f"{few:,} queries with fewer than three events only train",) if few else ()
        case "by-user":
            part = _by_user(events, schema, config)
        case "predefined":
            part = _predefined(events, config)
        case "hash-random":
            pairs = pl.select(pl.concat_str(events[schema.query], events[schema.item], separator=":"))
            part = pl.Series(np.digitize(stable_hash(pairs.to_series()) % 10, [8, 9]))
    train, valid, test, *given = (events.filter(part == number) for number in range(5))
    fold_in: dict[HeldOut, pl.DataFrame] = {}
    if config.kind == "by-user":
        fold_in = {"valid": given[0], "test": given[1]}
    for name, frame, wanted in zip(PARTS, (train, valid, test), _wanted(config), strict=True):
        if wanted and frame.is_empty():
            raise DataError(
                f"split {config.kind}: the part {name!r} of {len(events):,} events is empty",
                remedy="choose other fractions, or another kind of split"
                if config.kind != "predefined"
                else "name events of it in the column; or give the reader of a collection folds: 5",
            )
    return Split(config, schema, train, valid, test, fold_in, cuts, notes)


def order(schema: Schema) -> list[str]:
    """The columns that order events: the time, where there is one, and the row."""
    return [*filter(None, [schema.time]), ROW]


def _wanted(config: SplitConfig) -> tuple[bool, ...]:
    """Which parts may not be empty."""
    if config.kind in ("time", "by-user"):
        return tuple(fraction > 0 for fraction in config.fractions)
    return (True, config.kind != "predefined", config.kind != "predefined")


def _zeros(events: pl.DataFrame) -> pl.Series:
    return pl.Series(np.zeros(len(events), dtype=np.int8))


def _time_cuts(events: pl.DataFrame, schema: Schema, config: SplitConfig) -> tuple[float, float]:
    """The least times up to which the wanted shares of the events have happened."""
    if schema.time is None:
        raise ConfigError("a split by time needs a field of the role time, and the schema has none")
    train, valid, _ = config.fractions
    # 0.7 * 10 is a little more than 7: without rounding, ceil would take an eighth event
    last = [max(0, math.ceil(round(share * len(events), 6)) - 1) for share in (train, train + valid)]
    first, second = events[schema.time].gather(last)
    return first, second


def _leave_last_out(events: pl.DataFrame, schema: Schema) -> pl.Series:
    events_of_query = pl.len().over(schema.query)
    from_end = events_of_query - 1 - pl.int_range(pl.len()).over(schema.query)
    part = pl.when((events_of_query < 3) | (from_end > 1)).then(0).otherwise(2 - from_end)
    return events.select(part.cast(pl.Int8)).to_series()


def _by_user(events: pl.DataFrame, schema: Schema, config: SplitConfig) -> pl.Series:
    """0-2 the parts, 3 and 4 the fold-in of valid and test."""
    queries = events[schema.query].unique()
    place = stable_hash(queries.cast(pl.String), config.seed) / 2.0**64
    edges = np.round(np.cumsum(config.fractions[:2]), 12)  # .9 + .1 is to be 1
    dealt = pl.Series(np.digitize(place, edges), dtype=pl.Int64)
    part = events[schema.query].replace_strict(queries, dealt)
    of_query = pl.len().over(schema.query)
    given = (config.fold_in * of_query).floor().clip(lower_bound=1).clip(upper_bound=of_query - 1)
    is_given = events.select(pl.int_range(pl.len()).over(schema.query) < given).to_series()
    return part + 2 * (is_given & (part > 0)).cast(pl.Int64)


def _predefined(events: pl.DataFrame, config: SplitConfig) -> pl.Series:
    if config.column not in events.columns:
        raise ConfigError(f"a predefined split needs the column {config.column!r}, which the events lack")
    names = events[config.column].cast(pl.String)
    strange = names.filter(names.is_null() | ~names.is_in(PARTS)).unique().sort()
    if len(strange):
        found = ", ".join(repr(name) for name in strange.head(5))
        raise DataError(f"found {found}; expected {', '.join(PARTS)}", column=config.column)
    return names.replace_strict(PARTS, (0, 1, 2), return_dtype=pl.Int8)
