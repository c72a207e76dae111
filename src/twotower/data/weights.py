"""How much each event counts in training, by the value of one of its columns."""

from __future__ import annotations

import polars as pl
import torch
from pydantic import Field as Option
from pydantic import field_validator
from torch import Tensor

from twotower.config import Config, nearest
from twotower.errors import ConfigError


class SampleWeights(Config):
    """Weights by value: by position to undo who was looked at, by label to let a purchase count more.

    Multiplies whatever the schema's own weight column says. With the share of requests that look at each
    position p, weights 1 / p are inverse propensity weights (Joachims et al., WSDM 2017).

    >>> rule = SampleWeights(field="position", values={"0": 1.0, "1": 1.4}, default=2.0)
    >>> rule.of(pl.DataFrame({"position": [1, 0, 7, None]})).tolist()
    [1.399..., 1.0, 2.0, 2.0]
    """

    field: str = Option(description="a context, label or weight column of the events")
    values: dict[str, float] = Option(description="weight of each value")
    default: float = Option(1.0, ge=0, description="weight of every other value, and of a missing one")

    @field_validator("values")
    @classmethod
    def _check(cls, values: dict[str, float]) -> dict[str, float]:
        if not values or min(values.values()) < 0:
            raise ValueError("needs at least one value, and no weight below 0")
        return values

    def of(self, events: pl.DataFrame) -> Tensor:
        """(n,) float32 weights of the events."""
        if self.field not in events.columns:
            raise ConfigError(f"weights: no column {self.field!r}{nearest(self.field, events.columns)}")
        column, keys = events[self.field], pl.Series(list(self.values), dtype=pl.String)
        if column.dtype.is_float():  # so that 1.0 is found under "1"
            keys = keys.cast(pl.Float64, strict=False)
            if keys.null_count():
                wrong = list(self.values)[int(keys.is_null().arg_true()[0])]
                raise ConfigError(f"weights: {self.field!r} holds numbers, and {wrong!r} is none")
            if keys.is_duplicated().any():
                raise ConfigError(f"weights: two values of {self.field!r} are the same number")
            column = column.cast(pl.Float64)
        else:
            column = column.cast(pl.String)
        found = column.replace_strict(
            keys, list(self.values.values()), default=self.default, return_dtype=pl.Float32
        )
        return torch.from_numpy(found.fill_null(self.default).to_numpy().copy())
