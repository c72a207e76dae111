"""Answer for one query from a finished run: known by id, or described by its features."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import polars as pl
import torch
from torch import Tensor

from twotower.cascade.cascade import Cascade
from twotower.cascade.fuse import Fuse
from twotower.cascade.stage import Request
from twotower.cascade.trace import Trace
from twotower.config import nearest
from twotower.data.collection import Collection
from twotower.data.elapsed import elapsed_name
from twotower.errors import ConfigError
from twotower.metrics.table import Column, Table
from twotower.pipeline.encoded import Encoded
from twotower.pipeline.known_by import known_by
from twotower.pipeline.pipeline import Pipeline
from twotower.types import PAD, UNKNOWN, Batch, Ragged

_WIDTH = 90
"""Characters of a text in a printed answer; longer ones are cut."""


@dataclass(frozen=True)
class Answer:
    """Items best first, with their texts and the score each stage gave them."""

    query: str
    items: pl.DataFrame  # rank, item id, text fields, one score per stage
    trace: Trace
    remark: str | None = None  # what one should know of the query
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


class Answerer:
    """A loaded cascade with the catalogue and the histories behind it."""

    def __init__(self, prepared: Encoded, cascade: Cascade, allow: Tensor | None = None) -> None:
        self.prepared, self.cascade = prepared, cascade
        self.allow = allow  # (N,) bool by item key: what may be shown at all; None allows everything
        self.events = prepared.dataset.events

    @classmethod
    def open(cls, directory: str | Path) -> Answerer:
        pipeline = Pipeline.open(directory)
        cascade = pipeline.cascade()
        if cascade is None:
            raise ConfigError(f"{directory}: the recipe has no cascade to answer with")
        return cls(pipeline.prepared, cascade)

    def answer(
        self,
        *,
        user: str | int | None = None,
        features: Mapping[str, Any] | None = None,
        history: Sequence[str | int] = (),
        k: int = 10,
        depths: Mapping[str, int] | None = None,
    ) -> Answer:
        """The k best items for a known id, or for the features and history of someone unseen.

        A known query's history is everything in the data, and what it has seen is not shown again; but what
        was judged for a query of a collection was not seen.

        Raises
        ------
        ConfigError
            Neither or both of user and features, an unknown id or field, or an unknown stage in ``depths``.
        """
        return self._answer(*self.request(user=user, features=features, history=history), k, depths)

    def search(
        self,
        text: str,
        *,
        field: str | None = None,
        k: int = 10,
        depths: Mapping[str, int] | None = None,
    ) -> Answer:
        """The k best items for the words of a query that need not be known; nothing counts as seen.

        ``field`` names the text of the query that the words are; None: its only one.

        Raises
        ------
        ConfigError
            No words, queries without a text that is encoded or with several, or an unknown stage.
        """
        if not text.strip():
            raise ConfigError("the query is empty: say what to search for")
        request, _ = self._unseen({self._searched(field): text}, ())
        texts = [c.name for c in self.prepared.features.spec.columns if c.kind == "text"]
        known = any(bool((request.query[name] > UNKNOWN).any()) for name in texts if name in request.query)
        answer = self._answer(replace(request, allow=self.allow), text, k, depths)
        return answer if known else replace(answer, remark="training knew none of these words")

    def _searched(self, field: str | None) -> str:
        """The text of the query that is searched by."""
        schema = self.prepared.dataset.schema
        texts = [f for f in schema.having(kind="text") if f.role in ("query", "context")]
        read = list(dict.fromkeys(f.source for f in texts if f.tokenizer is not None))
        if not texts:
            raise ConfigError("queries have no text to search by; twotower recommend asks by id or features")
        if not read:
            names = ", ".join(f.name for f in texts)
            raise ConfigError(f"nothing reads a text of the query ({names}): give it a tokenizer in fields:")
        if field is None and len(read) > 1:
            raise ConfigError(f"the query has the texts {', '.join(read)}: say which one the words are")
        if field is not None and field not in read:
            raise ConfigError(f"{field!r} is no text of the query that is read{nearest(field, read)}")
        return field or read[0]

    def _answer(self, request: Request, who: str, k: int, depths: Mapping[str, int] | None) -> Answer:
        last = self.cascade.stages[-1].name
        chosen = (
            {stage.name: max(stage.k, k) for stage in self.cascade.stages} | {last: k} | dict(depths or {})
        )
        now = torch.tensor([time.time()], dtype=torch.float64)
        candidates, trace = self.cascade(replace(request, depths=chosen, time=now))
        best = candidates.best(k)
        real = best.mask[0]
        keys = best.keys[0][real].numpy()
        schema = self.prepared.dataset.schema
        items = self.prepared.dataset.items.select(schema.item, *self._shown)[keys]
        scores = {  # a stage that ran out of time gave none
            f"{s.name} score": best.pair[f"{s.name}_score"][0][real].numpy()
            for s in self.cascade.stages
            if f"{s.name}_score" in best.pair
        }
        items = items.with_columns(pl.Series(name, values) for name, values in scores.items())
        limited_by = self._limits(trace, k, chosen) if len(items) < k else {}
        return Answer(who, items.with_row_index("rank", offset=1), trace, limited_by=limited_by)

    def _limits(self, trace: Trace, k: int, depths: Mapping[str, int]) -> dict[str, int]:
        """The depths below k that were used up: of stages, and of the sources of the first."""
        used = [(step.stage, step.asked, step.n_out) for step in trace.steps]
        stage, first = self.cascade.stages[0], trace.steps[0].output
        if isinstance(stage, Fuse) and used[0][2] < used[0][1]:  # all that the sources found
            for source in stage.sources:
                found = int(first.pair[f"from_{source.name}"][first.mask].sum())
                used.append((source.name, depths.get(source.name, source.k), found))
        full = min(k, len(self.prepared.dataset.items))
        return {name: depth for name, depth, found in used if found >= depth and depth < full}

    @cached_property
    def _shown(self) -> list[str]:
        return known_by(self.prepared.dataset)

    def request(
        self,
        *,
        user: str | int | None = None,
        features: Mapping[str, Any] | None = None,
        history: Sequence[str | int] = (),
    ) -> tuple[Request, str]:
        """What the cascade is asked for them, and who they are in words; arguments as `answer`."""
        if (user is None) == (features is None):
            raise ConfigError("name a known user, or give the features of an unseen one")
        if user is not None and history:
            raise ConfigError("a known user's history is known; give a history only with features")
        request, who = self._known(user) if user is not None else self._unseen(features or {}, history)
        return replace(request, allow=self.allow), who

    def _known(self, user: str | int) -> tuple[Request, str]:
        prepared = self.prepared
        schema = prepared.dataset.schema
        key = prepared.dataset.query_catalogue.keys(pl.Series([str(user)]))
        if key[0] < 0:
            raise ConfigError(
                f"no {schema.query} has the id {user!r}; describe an unseen one with its features instead"
            )
        keys = torch.from_numpy(key.copy())
        own = self.events.filter(pl.col(schema.query) == prepared.dataset.query_catalogue.ids(key)[0])
        if isinstance(prepared.recipe.data, Collection):
            own = own.clear()  # judgements are no history: nobody was shown these documents
        seen = prepared.history(own, prepared.recipe.evaluate.seen).seen().take(keys)
        history = prepared.history(own, "positive").lists().take(keys)
        query = prepared.request_columns(keys, own, times=torch.tensor([time.time()], dtype=torch.float64))
        return Request(query, history, seen), f"{schema.query} {user}"

    def _unseen(self, features: Mapping[str, Any], history: Sequence[str | int]) -> tuple[Request, str]:
        prepared = self.prepared
        catalogue = prepared.dataset.item_catalogue
        ids = pl.Series([str(item) for item in history], dtype=pl.String)
        keys = torch.from_numpy(catalogue.keys(ids).copy())
        if (keys < 0).any():
            unknown = [str(i) for i, key in zip(history, keys.tolist(), strict=True) if key < 0]
            raise ConfigError(f"the catalogue holds no {catalogue.name} {', '.join(unknown)}")
        past = prepared.recipe.history
        if past is not None and past.name in features:
            raise ConfigError(f"the field {past.name!r} is made of a history of items; give that instead")
        query = prepared.features.encode_request(features)
        if past is not None:
            index = prepared.features.item_index_of_keys(prepared.dataset.items)
            recent = index[keys[-past.max_length :]]
            column = torch.zeros(1, past.max_length, dtype=torch.int64)
            column[0, : len(recent)] = recent
            query = Batch({**query, past.name: column})
            if past.elapsed:  # of a history given as items, no times are known
                query[elapsed_name(past.name)] = torch.where(column == PAD, PAD, UNKNOWN)
        own = Ragged(keys, torch.tensor([0, len(keys)]))
        return Request(query, own, own), "unseen query"
