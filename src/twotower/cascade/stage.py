"""What a stage is asked and what it promises.

Letters: Q queries of one request, K candidates.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from twotower.cascade.deadline import Budget, Deadline
from twotower.types import Batch, Candidates, Ragged, Rep

if TYPE_CHECKING:
    from twotower.cascade.cascade import Cascade
    from twotower.models.base import Model


@dataclass(frozen=True)
class Request:
    """What is asked: Q encoded queries, and what must not be shown to each.

    ``query`` holds encoded columns (Q, ...), the history included; ``history`` the raw item keys of each
    query's past, oldest first, for sources that work on items alone; ``depths`` overrides a stage's k by
    the stage's name, for this request only. ``allow`` says by item key what may be shown at all, to all
    queries (N,) or to each (Q, N); None allows everything. ``time`` says when each query is asked, for rules
    on how old an item is. ``budget`` is the time this request may take, if it is not the cascade's own,
    counted from when it ``began``; ``deadline`` the running stage's, set by the cascade.
    """

    query: Batch
    history: Ragged | None = None
    exclude: Ragged | None = None
    depths: Mapping[str, int] = field(default_factory=dict)
    allow: Tensor | None = None  # (N,) or (Q, N) bool by item key: what may be shown at all
    time: Tensor | None = None  # (Q,) seconds since 1970, as events have them
    budget: Budget | None = None
    began: float | None = (
        None  # seconds of `time.perf_counter` when it arrived; None: as the cascade is asked
    )
    deadline: Deadline | None = None
    _encoded: dict[Model, tuple[Batch, Rep]] = field(default_factory=dict, repr=False, compare=False)

    def __len__(self) -> int:
        return self.query.rows if self.query else len(self.history or ())

    def rows(self, start: int, stop: int) -> Request:
        """The queries start..stop as a request of their own."""
        rows = torch.arange(start, min(stop, len(self)))
        return replace(
            self,
            query=self.query.slice(start, stop),
            history=None if self.history is None else self.history.take(rows),
            exclude=None if self.exclude is None else self.exclude.take(rows),
            allow=self.allow if self.allow is None or self.allow.dim() == 1 else self.allow[start:stop],
            time=None if self.time is None else self.time[start:stop],
        )

    def encoded(self, model: Model) -> Rep:
        """The query's side of a model, encoded once for all that ask for it."""
        query, rep = self._encoded.get(model, (None, None))
        if rep is None or query is not self.query:
            rep = model.encode_query(self.query)
            self._encoded[model] = self.query, rep
        return rep

    def check_time(self) -> None:
        """Raise `twotower.cascade.deadline.Late` when the running stage is out of time."""
        if self.deadline is not None:
            self.deadline.check()


class Stage(ABC):
    """Takes candidates, returns the best k of them, best first; equal scores by rising key.

    Only a retriever invents candidates, and what `adds`. A stage returns no more than it was given or asked
    for, and works on an empty candidate list. One that can stop half-way calls ``request.check_time()``
    between pieces of work.
    """

    adds: bool = False
    """Whether it may hand on items that it was not given, as a pin that inserts does."""
    allow: Tensor | None = None
    """(N,) bool by item key: all that the stage ever lets through; None, everything. `Cascade` tells the
    stages before it, so that they look for as many items as are wanted among those alone."""

    def __init__(self, name: str, k: int) -> None:
        self.name, self.k = name, k

    @abstractmethod
    def run(self, request: Request, candidates: Candidates | None, k: int) -> Candidates:
        """The best ``k`` for each query. ``candidates`` is None for the first stage."""

    def retrieve(self, request: Request, k: int) -> tuple[Candidates, tuple[str, ...]]:
        """The answer as first stage, where nothing can stand for it: it runs to its end, whatever the time.

        Beside it the names of stages within it that were left out because time had passed.
        """
        return self.run(replace(request, deadline=None), None, k), ()

    def fallback(self, request: Request, given: Candidates, k: int) -> Candidates:
        """What stands for this stage's answer where it has no time: the order it was given, cut to ``k``.

        Order may suffer, what may be shown may not: a stage that keeps items from being shown keeps them back
        here too, by work cheap enough to be done late.
        """
        return given.best(k)

    @property
    @abstractmethod
    def bytes_per_item(self) -> float:
        """What the stage keeps in memory for each item of the catalogue."""

    @property
    def reads(self) -> tuple[str, ...]:
        """The pair fields of earlier stages that this one cannot do without."""
        return ()

    @property
    def names(self) -> tuple[str, ...]:
        """Its own name and those of stages within it: each may be given a depth by a request."""
        return (self.name,)

    def depth(self, request: Request) -> int:
        return request.depths.get(self.name, self.k)

    def __rshift__(self, other: Stage | Cascade) -> Cascade:
        from twotower.cascade.cascade import Cascade

        return Cascade(self) >> other

    def __repr__(self) -> str:
        return f"{self.name}({self.k})"


def rank_pair(name: str, candidates: Candidates) -> Candidates:
    """Hand the stage's score and rank (from 0) to later stages: ``<name>_score`` and ``<name>_rank``."""
    rank = torch.arange(candidates.keys.shape[1], device=candidates.keys.device)
    scores = candidates.scores.masked_fill(~candidates.mask, 0.0)  # an empty slot must not poison an average
    return candidates.with_pair(**{f"{name}_score": scores, f"{name}_rank": rank.expand_as(scores).float()})


def no_candidates(queries: int, device: torch.device | str = "cpu") -> Candidates:
    keys: Tensor = torch.empty(queries, 0, dtype=torch.int64, device=device)
    return Candidates(keys, torch.empty(queries, 0, device=device))
