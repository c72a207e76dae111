"""Encoding a whole catalogue: in chunks that suit the model, and with word of how far it is."""

from __future__ import annotations

import time
from collections.abc import Callable

from twotower.index.item_table import CHUNK, RAGGED_CHUNK, Progress
from twotower.index.ragged_rows import joined
from twotower.models.base import Model
from twotower.train.events import Encoding, Listener
from twotower.types import Batch, Rep

TOKENS = {"cpu": 2**16, "other": 2**21}
"""Tokens of texts in one chunk: what a crash may cost, and how often there is news; yet enough to find 4096
tokens of one length (on a CPU, of 5,183 abstracts, 2.2 % of what is computed is padding)."""
SILENT_S, EVERY_S = 2.0, 1.0


def items_at_once(model: Model) -> int:
    """How many items a model encodes at once: as many as ever, or fewer long texts.

    It follows from the features and the kind of device alone, so that a build which is gone on with cuts the
    catalogue where the first one did.
    """
    most = RAGGED_CHUNK if any(spec.ragged for spec in model.item_specs()) else CHUNK
    width = sum(column.width for column in model.spec.side("item") if column.kind == "text")
    tokens = TOKENS["cpu" if model.device.type == "cpu" else "other"]
    return max(1, min(most, tokens // max(width, 1)))


def encode_all(model: Model, items: Batch, progress: Progress | None = None) -> Rep:
    """All ``items`` (C, ...), wherever they lie, to their representation on the model's device."""
    chunk, parts = items_at_once(model), []
    if progress is not None:
        progress(0, items.rows)
    for start in range(0, max(items.rows, 1), chunk):
        some = items.slice(start, min(start + chunk, items.rows))
        parts.append(model.encode_item(some.to(model.device)))
        if progress is not None:
            progress(start + some.rows, items.rows)
    return parts[0] if len(parts) == 1 else joined(parts)


class Meter:
    """Makes events of what a long encoding says: none in the first two seconds, then one a second at most.

    A call with 0 items, or with those an earlier build had encoded, starts it; the last one is always told of
    if any other was.

    >>> clock = iter([0.0, 1.0, 4.0])
    >>> meter = Meter(lambda event: print(event.per_second, event.eta_s), "items", lambda: next(clock))
    >>> meter(0, 1000), meter(100, 1000), meter(400, 1000)
    100.0 6.0
    (None, None, None)
    """

    def __init__(self, events: Listener, what: str, clock: Callable[[], float] = time.perf_counter) -> None:
        self.events, self.what, self._clock = events, what, clock
        self._first: int | None = None
        self._begun = self._due = 0.0

    def __call__(self, done: int, total: int) -> None:
        now = self._clock()
        if self._first is None:
            self._first, self._begun, self._due = done, now, now + SILENT_S
        elif now >= self._due or (done == total and self._due > self._begun + SILENT_S):
            self._due = now + EVERY_S
            seconds = max(now - self._begun, 1e-9)
            speed = (done - self._first) / seconds
            self.events(
                Encoding(
                    what=self.what,
                    done=done,
                    total=total,
                    resumed_at=self._first,
                    seconds=seconds,
                    per_second=speed,
                    eta_s=(total - done) / speed if speed else None,
                )
            )
