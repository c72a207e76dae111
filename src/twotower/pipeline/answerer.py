"""Answer for one query from a finished run: known by id, or described by its features."""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor

from twotower.cascade.attributes import Attributes
from twotower.cascade.cascade import Cascade
from twotower.cascade.deadline import Budget
from twotower.cascade.filter import both_allow
from twotower.cascade.funnel_log import FunnelLog
from twotower.cascade.funnel_rows import Ids
from twotower.cascade.fuse import Fuse
from twotower.cascade.predicates import Predicate
from twotower.cascade.stage import Request
from twotower.cascade.trace import Trace
from twotower.config import nearest
from twotower.data.collection import Collection
from twotower.data.elapsed import elapsed_name
from twotower.data.funnel_part import FunnelAbout, FunnelSampling
from twotower.errors import ConfigError
from twotower.pipeline.answer import Answer
from twotower.pipeline.encoded import Encoded
from twotower.pipeline.known_by import known_by
from twotower.pipeline.pipeline import Pipeline
from twotower.types import PAD, UNKNOWN, Batch, Ragged

Where = Predicate | Mapping[str, Any]
"""Items that may be shown, as a predicate or the data of one."""


class Answerer:
    """A loaded cascade with the catalogue and the histories behind it.

    Parameters
    ----------
    allow
        (N,) bool by item key: what may be shown at all; None allows everything.
    attributes
        Of the items, where somebody has them already.
    """

    def __init__(
        self,
        prepared: Encoded,
        cascade: Cascade,
        allow: Tensor | None = None,
        attributes: Attributes | None = None,
    ) -> None:
        self.prepared, self.cascade, self.allow = prepared, cascade, allow
        self.events = prepared.dataset.events
        self.log: FunnelLog | None = None
        """Where answers are logged, see `logging`."""
        self._attributes = attributes

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
        where: Where | None = None,
        budget: Budget | None = None,
    ) -> Answer:
        """The k best items for a known id, or for the features and history of someone unseen.

        A known query's history is everything in the data, and what it has seen is not shown again; but what
        was judged for a query of a collection was not seen.

        Parameters
        ----------
        depths
            Candidates that stages or sources hand on, by name; those not named go as deep as the recipe says,
            and at least to k.
        where
            What alone may be shown to this query, such as ``{"not": {"ids": [7, 9]}}``.
        budget
            Of this request, in place of the recipe's.

        Raises
        ------
        ConfigError
            Neither or both of user and features, an unknown id or field, or an unknown stage in ``depths`` or
            ``budget``.
        """
        began = time.perf_counter()
        request, who = self.request(user=user, features=features, history=history)
        id = None if user is None else self.prepared.dataset.query_catalogue.ids(self._key(user))[0]
        return self._answer(self._asked(request, where, budget, began), who, id, k, depths)

    def search(
        self,
        text: str,
        *,
        field: str | None = None,
        k: int = 10,
        depths: Mapping[str, int] | None = None,
        where: Where | None = None,
        budget: Budget | None = None,
    ) -> Answer:
        """The k best items for the words of a query that need not be known; nothing counts as seen.

        ``field`` names the text of the query that the words are; None: its only one. The rest as `answer`.

        Raises
        ------
        ConfigError
            No words, queries without a text that is encoded or with several, or an unknown stage.
        """
        began = time.perf_counter()
        if not text.strip():
            raise ConfigError("the query is empty: say what to search for")
        request, _ = self._unseen({self._searched(field): text}, ())
        texts = [c.name for c in self.prepared.features.spec.columns if c.kind == "text"]
        known = any(bool((request.query[name] > UNKNOWN).any()) for name in texts if name in request.query)
        request = replace(request, allow=self.allow)
        answer = self._answer(self._asked(request, where, budget, began), text, None, k, depths)
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
            names = ", ".join(read)
            raise ConfigError(f"the query has the texts {names}: say which one the words are (--field)")
        if field is not None and field not in read:
            raise ConfigError(f"{field!r} is no text of the query that is read{nearest(field, read)}")
        return field or read[0]

    def logging(
        self,
        directory: str | Path,
        sampling: FunnelSampling | None = None,
        *,
        items: Ids | None = None,
        produced_by: str = "",
    ) -> FunnelLog:
        """Log the funnel of every answer from now on, or of a sample; close the log when all is answered.

        ``items`` knows the ids of items by key; None: the catalogue.

        Raises
        ------
        ConfigError
            ``sampling`` names a stage that does not exist.
        StorageError
            The directory cannot be made.
        """
        schema = self.prepared.dataset.schema
        about = FunnelAbout.parse(
            {
                "stages": [stage.name for stage in self.cascade.stages],
                "query": schema.query,
                "item": schema.item,
                "time": schema.time or "time",
                "sampling": (sampling or FunnelSampling()).plain(),
                "produced_by": produced_by,
            },
            where="the log of served requests",
        )
        self.log = FunnelLog(directory, about, items or self.prepared.dataset.item_catalogue)
        return self.log

    def _asked(self, request: Request, where: Where | None, budget: Budget | None, began: float) -> Request:
        """The request with what this caller wants of it."""
        if where is not None:
            predicate = where if isinstance(where, Predicate) else Predicate.parse(where, where="where")
            if self._attributes is None:
                self._attributes = Attributes.of(self.prepared.dataset)
            mask = self._attributes.once(predicate, "where")
            request = replace(request, allow=both_allow(request.allow, mask))
        return replace(request, budget=budget, began=began)

    def _answer(
        self, request: Request, who: str, id: int | str | None, k: int, depths: Mapping[str, int] | None
    ) -> Answer:
        now = time.time()
        asked = replace(
            request,
            depths=self._depths(k) | dict(depths or {}),
            time=torch.tensor([now], dtype=torch.float64),
        )
        candidates, trace = self.cascade(asked)
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
        limited_by = self._limits(trace, k, asked.depths) if len(items) < k else {}
        name = None
        if self.log is not None:
            name = uuid.uuid4().hex
            self.log.record(trace, requests=[name], queries=[id], times=[int(now)], shown=len(items))
        ranked = items.with_row_index("rank", offset=1)
        return Answer(who, ranked, trace, request=name, limited_by=limited_by)

    def _depths(self, k: int) -> dict[str, int]:
        """Of stages and sources: their own, but no less than k, which is what the last one hands on."""
        first, last = self.cascade.stages[0], self.cascade.stages[-1]
        sources = first.sources if isinstance(first, Fuse) else ()
        return {each.name: max(each.k, k) for each in (*sources, *self.cascade.stages)} | {last.name: k}

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
        if user is None and features is None and history:
            raise ConfigError(
                "a history needs the features of the user it belongs to: {} where none are known, on the "
                "command line --features '{}'"
            )
        if (user is None) == (features is None):
            raise ConfigError("name a known user, or give the features of an unseen one")
        if user is not None and history:
            raise ConfigError("a known user's history is known; give a history only with features")
        request, who = self._known(user) if user is not None else self._unseen(features or {}, history)
        return replace(request, allow=self.allow), who

    def _key(self, user: str | int) -> np.ndarray:
        """(1,) the key of a known query."""
        key = self.prepared.dataset.query_catalogue.keys(pl.Series([str(user)]))
        if key[0] < 0:
            raise ConfigError(
                f"no {self.prepared.dataset.schema.query} has the id {user!r}; describe an unseen one with "
                "its features instead"
            )
        return key

    def _events_of(self, key: int) -> pl.DataFrame:
        """A query's events, in their order."""
        row, first = self._by_query
        return self.events[row[first[key] : first[key + 1]]]

    @cached_property
    def _by_query(self) -> tuple[np.ndarray, np.ndarray]:
        """Rows of the events, those of a query side by side, and where each query's begin."""
        catalogue = self.prepared.dataset.query_catalogue
        keys = catalogue.keys(self.events[catalogue.name])
        return keys.argsort(kind="stable"), np.searchsorted(np.sort(keys), np.arange(len(catalogue) + 1))

    def _known(self, user: str | int) -> tuple[Request, str]:
        prepared = self.prepared
        schema, key = prepared.dataset.schema, self._key(user)
        keys = torch.from_numpy(key.copy())
        own = self._events_of(int(key[0]))
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
            recent = prepared.item_rows[keys[-past.max_length :]]
            column = torch.zeros(1, past.max_length, dtype=torch.int64)
            column[0, : len(recent)] = recent
            query = Batch({**query, past.name: column})
            if past.elapsed:  # of a history given as items, no times are known
                query[elapsed_name(past.name)] = torch.where(column == PAD, PAD, UNKNOWN)
        own = Ragged(keys, torch.tensor([0, len(keys)]))
        return Request(query, own, own), "unseen query"
