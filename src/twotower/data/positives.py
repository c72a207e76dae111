"""Which events are positive, and which take no part at all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import polars as pl

from twotower.config import Config, nearest
from twotower.data.dataset import Dataset
from twotower.errors import ConfigError, DataError
from twotower.schema import ROW


class Drop(Config):
    """Events whose label equals a value are left out before the split."""

    label: str
    equals: float


class Positive(Config):
    """The rule of a positive event: ``label >= at_least``; without a label every event is positive.

    >>> events = pl.DataFrame({"rating": [5, 3, 4]})
    >>> Positive(label="rating", at_least=4).mask(events).to_list()
    [True, False, True]
    """

    label: str | None = None
    at_least: float = 1.0
    drop: Drop | None = None

    def mask(self, events: pl.DataFrame) -> pl.Series:
        """(n,) bool, true where the event is positive; a missing label is a `DataError`."""
        if self.label is None:
            return pl.Series("positive", [True]).new_from_index(0, len(events))
        return (_label(events, self.label) >= self.at_least).rename("positive")

    def apply(self, dataset: Dataset) -> Dataset:
        """The data set without the dropped events; notes say how many went and how many are positive.

        Both side tables stay whole: an item all of whose events were dropped is still in the catalogue.
        """
        known = [field.name for field in dataset.schema.labels]
        for name in filter(None, (self.label, self.drop.label if self.drop else None)):
            if name not in known:
                raise ConfigError(f"positive: {name!r} is no label of the data{nearest(name, known)}")
        events, notes = dataset.events, [*dataset.notes]
        ids = (dataset.schema.query, dataset.schema.item)
        if self.drop is not None:
            rule = f"{self.drop.label} = {self.drop.equals:g}"
            events = events.filter(_label(events, self.drop.label, ids) != self.drop.equals)
            notes.append(f"{len(dataset.events) - len(events):,} events left out by the rule {rule}")
            if events.is_empty():
                raise DataError(f"the rule {rule} left no event at all", remedy="drop another value")
        if self.label is not None:
            count = int((_label(events, self.label, ids) >= self.at_least).sum())
            notes.append(
                f"{count:,} of {len(events):,} events are positive ({self.label} >= {self.at_least:g})"
            )
        return replace(dataset, events=events, notes=tuple(notes))


def _label(events: pl.DataFrame, name: str, ids: Sequence[str] = ()) -> pl.Series:
    """(n,) float; of a missing one is said which event it is, as no data set knows files and lines."""
    values = events[name].cast(pl.Float64)
    missing = values.is_null() | values.is_nan().fill_null(True)
    if missing.any():
        count, first = int(missing.sum()), int(missing.arg_max() or 0)
        number = int(events[ROW][first]) + 1 if ROW in events.columns else first + 1
        who = ", ".join(f"{id} {events[id][first]!r}" for id in ids)
        which = f"event {number:,}" + (f" ({who})" if who else "")
        found = f"{which} has no label" if count == 1 else f"{count:,} events have no label, first {which}"
        raise DataError(found, column=name, remedy="repair or leave out these rows")
    return values
