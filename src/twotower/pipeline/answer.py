"""What one query is answered with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import polars as pl

from twotower.cascade.trace import Trace
from twotower.metrics.table import Column, Table

_WIDTH = 90
"""Characters of a text in a printed answer; longer ones are cut."""


@dataclass(frozen=True)
class Answer:
    """Items best first, with their texts and the score each stage gave them."""

    query: str
    items: pl.DataFrame  # rank, item id, text fields, one score per stage
    trace: Trace
    remark: str | None = None  # what one should know of the query
    request: str | None = None  # what the log of served requests calls it, if it may be logged
    limited_by: Mapping[str, int] = field(default_factory=dict)  # depths that made them fewer than asked

    @property
    def who(self) -> str:
        """The query, and the remark on it in brackets."""
        return f"{self.query} ({self.remark})" if self.remark else self.query

    def plain(self) -> dict[str, Any]:
        steps = [
            {"stage": s.stage, "in": s.n_in, "out": s.n_out, "ms": round(s.took_ms, 3)}
            for s in self.trace.steps
        ]
        content = {"query": self.query, "items": self.items.to_dicts(), "trace": steps}
        told = {
            "remark": self.remark,
            "request": self.request,
            "degraded": list(self.trace.degraded),
            "limited_by": dict(self.limited_by),
        }
        return content | {name: value for name, value in told.items() if value}

    def text(self) -> str:
        # an id is a name, not an amount: without this it would be shown with thousands separators
        items = self.items.with_columns(pl.col(self.items.columns[1]).cast(pl.String))
        words = pl.col(pl.String)
        cut = words.str.head(_WIDTH - 1) + "\u2026"
        items = items.with_columns(pl.when(words.str.len_chars() > _WIDTH).then(cut).otherwise(words))
        table = Table(tuple(Column(name) for name in items.columns), tuple(items.rows()))
        depths = ", ".join(f"{name}={depth}" for name, depth in self.limited_by.items())
        limits = f"\nfewer than asked for, limited by depth: {depths}" if depths else ""
        return f"{self.who}\n{table.text()}\n\n{self.trace}{limits}"
