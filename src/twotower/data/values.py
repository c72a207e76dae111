"""What an event is worth when there are several labels: a weighted sum, as a list of terms."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl
import torch
from pydantic import Field as Option
from torch import Tensor

from twotower.config import Config, nearest
from twotower.data.interactions import broken_numbers, number_array
from twotower.errors import ConfigError, DataError
from twotower.schema import Schema


class ValueTerm(Config):
    """``weight`` times the label, or times 1 where the label reaches ``at_least``."""

    label: str
    at_least: float | None = Option(None, description="null: the label's own number counts")
    weight: float = Option(1.0, ge=0)


def value_of(events: pl.DataFrame, schema: Schema, terms: Sequence[ValueTerm]) -> Tensor:
    """(n,) float32 the sum of the terms for every event.

    >>> from twotower.schema import Field
    >>> labels = [Field(name=n, kind="number", role="label") for n in ("click", "buy")]
    >>> ids = [Field(name="user", kind="id", role="query"), Field(name="item", kind="id", role="item")]
    >>> schema = Schema(query="user", item="item", fields=(*ids, *labels))
    >>> events = pl.DataFrame({"click": [1, 1, 0], "buy": [0, 1, 0]})
    >>> value_of(events, schema, [ValueTerm(label="click"), ValueTerm(label="buy", weight=5)]).tolist()
    [1.0, 6.0, 0.0]

    Raises
    ------
    ConfigError
        A term names what is no label of the schema.
    DataError
        A label is missing, not finite or, as a value, negative.
    """
    total = torch.zeros(len(events), dtype=torch.float64)
    known = [field.name for field in schema.labels]
    for term in terms:
        if term.label not in known:
            raise ConfigError(f"value: {term.label!r} is no label of the data{nearest(term.label, known)}")
        column = events[term.label]
        broken = int(broken_numbers(column).sum())
        if broken:
            raise DataError(
                f"{broken:,} values are missing or not finite",
                column=term.label,
                remedy="repair or leave out these rows",
            )
        label = torch.from_numpy(number_array(column)).double()
        if term.at_least is not None:
            label = (label >= term.at_least).double()
        elif len(label) and label.min() < 0:
            raise DataError(
                f"a gain cannot be negative, found {label.min():g}",
                column=term.label,
                remedy="count the label by a threshold, at_least",
            )
        total += term.weight * label
    return total.float()
