"""Learning by counting: one pass over the events, no gradient."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Protocol, runtime_checkable

from torch import Tensor

from twotower.data.interactions import Interactions
from twotower.errors import ConfigError, DataError
from twotower.models.base import Model
from twotower.train.run import FitResult
from twotower.types import Batch


@runtime_checkable
class Counter(Protocol):
    """A model whose whole state is sums over events."""

    def update(self, items: Batch, labels: Tensor, times: Tensor, weights: Tensor | None = None) -> None: ...


def learns_by_counting(cls: type) -> bool:
    """Whether models of a class can be shown to `count`."""
    return issubclass(cls, Counter)


def count(
    model: Model,
    events: Interactions,
    items: Batch,
    validate: Callable[[Model], Mapping[str, float]],
    metric: str | None = None,
    rows: int = 1 << 20,
) -> FitResult:
    """Show ``model`` all events, in pieces of ``rows``; ``items`` (n_items, ...) are encoded columns by key.

    ``metric`` names the value of ``validate`` that is reported, null the first; nothing is selected by it.

    Raises
    ------
    ConfigError
        The model learns by gradients, or validation does not measure ``metric``.
    DataError
        The events have no labels to count.
    """
    if not isinstance(model, Counter):
        raise ConfigError(
            f"{type(model).__name__} learns by gradients; objective: counts is for models that count"
        )
    if events.labels is None:
        raise DataError("there is nothing to count", remedy="declare a positive rule")
    start = time.perf_counter()
    for first in range(0, len(events), rows):
        piece = slice(first, first + rows)
        model.update(
            items.take(events.item_keys[piece]),
            events.labels[piece],
            events.times[piece],
            None if events.weights is None else events.weights[piece],
        )
    model.eval()
    seconds = time.perf_counter() - start
    measured = validate(model)
    chosen = metric or next(iter(measured))
    if chosen not in measured:
        raise ConfigError(f"metric is {chosen!r}, but validation measures {sorted(measured)}")
    return FitResult(
        best_value=measured[chosen],
        best_epoch=1,
        steps=1,
        history=({"epoch": 1, "step": 1, **measured},),
        seconds=time.perf_counter() - start,
        examples_per_second=len(events) / max(seconds, 1e-9),
        stopped_because="every event was counted",
        best_path=None,
    )
