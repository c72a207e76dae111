"""Quality of a cascade as a function of its depths, from one pass of the deepest one.

Most models score a candidate alone: at whatever depth it reaches them, they say the same of it. Such stages
are *steady*. They score all that the deepest retrieval finds, once; what they would hand on at any depths
follows by cutting the lists and sorting the remembered scores. A stage behind which that no longer holds runs
again for each way its candidates may have come: a list model, one that reads the rank in a later stage than
the first (ranks depend on who else came so far), retrieval by an approximate index, diversity, rules. Each of
several sources is asked once at each of its depths, and their lists united anew; behind sources that find
exactly and score whatever the others find, later stages may be steady as well. Either way the numbers are
those of the cascade run at these depths.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import groupby

import torch
from torch import Tensor

from twotower.cascade.cascade import Cascade
from twotower.cascade.fuse import Fuse, Scorer
from twotower.cascade.lexical import RetrieveLexical
from twotower.cascade.rank import Rank
from twotower.cascade.retrieve import Retrieve
from twotower.cascade.stage import Request, Stage, rank_pair
from twotower.errors import DataError
from twotower.evaluate.experiment import request_of
from twotower.evaluate.task import Task
from twotower.types import Batch, Candidates

Depths = Mapping[str, int]
"""Stage -> candidates it hands on, for every stage; and for each source of the first, where it is planned."""


def steady_stages(cascade: Cascade) -> int:
    """How many stages, from the first, say the same of a candidate at all depths."""
    first, *others = cascade.stages
    sources = first.sources if isinstance(first, Fuse) else (first,)
    if not all(_exact(source) for source in sources):
        return 0
    for number, stage in enumerate(others, start=1):
        alone = isinstance(stage, Rank) and stage.model.kind != "list"
        if not alone or not set(_said_by(cascade.stages[:number])).issuperset(stage.reads):
            return number
    return len(cascade.stages)


def quality_by_depths(
    cascade: Cascade,
    task: Task,
    grid: Sequence[Depths],
    measure: str = "nDCG@10",
    *,
    queries_at_once: int = 256,
    progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """(plans, Q) float64: the measure of every query at all the depths of the grid.

    ``progress(done, total)`` is called with queries after each chunk of them.

    Raises
    ------
    DataError
        The task is empty.
    """
    if not len(task):
        raise DataError(f"nothing to plan by: {task}", remedy="choose another split or positive rule")
    cascade = Cascade(*cascade.stages)  # a budget would cut what is to be measured
    request, steady = cascade.narrowed(request_of(task)), steady_stages(cascade)
    values = torch.zeros(len(grid), len(task), dtype=torch.float64)
    for start in range(0, len(task), queries_at_once):
        stop = min(start + queries_at_once, len(task))
        rows, asked = request.rows(start, stop), task.take(torch.arange(start, min(stop, len(task))))
        stages: tuple[Stage, ...] = cascade.stages
        first = cascade.stages[0]
        if isinstance(first, Fuse):
            kept = Fuse([Kept(source) for source in first.sources], first.by, first.k, first.name)
            known = _looked_up(cascade, steady, rows, grid) if steady > 1 else []
            stages = (kept, *known, *cascade.stages[1 + len(known) :])
        elif steady:
            stages = (*_recorded(cascade, steady, rows, grid), *cascade.stages[steady:])
        for plan, found in _explore(stages, rows, None, sorted(enumerate(grid), key=_deepest_first(stages))):
            values[plan, start:stop] = asked.measure(found.keys, [measure])[measure]
        if progress is not None:
            progress(stop, len(task))
    return values


class Recorded(Stage):
    """A first stage whose answers are known, to one request."""

    def __init__(self, candidates: Candidates, k: int, name: str) -> None:
        super().__init__(name, k)
        self.candidates = candidates

    def run(self, request: Request, candidates: Candidates | None, k: int) -> Candidates:
        return self.candidates.best(k)

    @property
    def bytes_per_item(self) -> float:
        return 0


class Remembered(Stage):
    """A later stage whose scores came along with the candidates: it sorts and cuts without its model."""

    def run(self, request: Request, candidates: Candidates | None, k: int) -> Candidates:
        assert candidates is not None
        scores = candidates.pair[f"{self.name}_score"]
        ordered = Candidates(candidates.keys, scores, candidates.pair).sorted().best(k)
        return rank_pair(self.name, ordered)

    @property
    def bytes_per_item(self) -> float:
        return 0


class LookedUp(Stage):
    """A later stage whose scores of all that the sources can find are known: keys and scores, (Q, T)."""

    def __init__(self, keys: Tensor, scores: Tensor, k: int, name: str) -> None:
        super().__init__(name, k)
        self.keys, order = keys.sort(dim=1)
        self.scores = scores.gather(1, order)

    def run(self, request: Request, candidates: Candidates | None, k: int) -> Candidates:
        assert candidates is not None
        if not candidates.keys.shape[1]:
            return rank_pair(self.name, candidates)
        place = torch.searchsorted(self.keys, candidates.keys.contiguous()).clamp(max=self.keys.shape[1] - 1)
        assert (self.keys.gather(1, place) == candidates.keys)[candidates.mask].all(), (
            "found by no deeper source"
        )
        scores = self.scores.gather(1, place).masked_fill(~candidates.mask, -torch.inf)
        return rank_pair(self.name, Candidates(candidates.keys, scores, candidates.pair).sorted().best(k))

    @property
    def bytes_per_item(self) -> float:
        return 0


class Kept(Stage):
    """A source that is asked once at each depth, by one request; then it remembers."""

    scores_of: Callable[[Request, Tensor], Tensor | None]  # where the source has it

    def __init__(self, source: Stage) -> None:
        super().__init__(source.name, source.k)
        self.source, self._found = source, dict[int, Candidates]()
        if isinstance(source, Scorer):
            self.scores_of = source.scores_of

    def run(self, request: Request, candidates: Candidates | None, k: int) -> Candidates:
        if k not in self._found:
            self._found[k] = self.source.run(request, candidates, k)
        return self._found[k]

    @property
    def bytes_per_item(self) -> float:
        return self.source.bytes_per_item


def _exact(source: Stage) -> bool:
    """Whether a retriever finds the best there are, at any depth, and scores what it did not find."""
    return isinstance(source, RetrieveLexical) or (isinstance(source, Retrieve) and source.index.exact)


def _said_by(stages: Sequence[Stage]) -> list[str]:
    """The pair fields of steady stages that are the same at all depths: what is fused depends on them."""
    first, *others = stages
    own = [source.name for source in first.sources] if isinstance(first, Fuse) else [first.name]
    ranks = [] if isinstance(first, Fuse) else [f"{first.name}_rank"]
    return [*ranks, *(f"{name}_score" for name in (*own, *(stage.name for stage in others)))]


def _looked_up(cascade: Cascade, steady: int, request: Request, grid: Sequence[Depths]) -> list[LookedUp]:
    """The steady stages behind several sources, with all they would say of what the deepest of these find."""
    first, *others = cascade.stages[:steady]
    assert isinstance(first, Fuse)
    deepest = {
        source.name: max(depths.get(source.name, source.k) for depths in grid) for source in first.sources
    }
    whole = dict.fromkeys((first.name, *(stage.name for stage in others)), sum(deepest.values()))
    found, _ = Cascade(first, *others)(replace(request, depths=deepest | whole))
    return [LookedUp(found.keys, found.pair[f"{stage.name}_score"], stage.k, stage.name) for stage in others]


def _recorded(cascade: Cascade, steady: int, request: Request, grid: Sequence[Depths]) -> list[Stage]:
    """The steady stages with all they would say of what the deepest retrieval finds."""
    first, *others = cascade.stages[:steady]
    deepest = max(depths[first.name] for depths in grid)
    depths = dict.fromkeys((first.name, *(stage.name for stage in others)), deepest)
    found, _ = Cascade(first, *others)(replace(request, depths=depths))
    # back into the order of retrieval: ranks are distinct, so this is exact
    pair = Batch((name, found.pair[name]) for name in _said_by(cascade.stages[:steady]))
    back = Candidates(found.keys, -pair[f"{first.name}_rank"], pair).sorted()
    scores = back.pair[f"{first.name}_score"].masked_fill(~back.mask, -torch.inf)
    known = Recorded(Candidates(back.keys, scores, back.pair), deepest, first.name)
    return [known, *(Remembered(stage.name, stage.k) for stage in others)]


def _explore(
    stages: Sequence[Stage], request: Request, given: Candidates | None, plans: list[tuple[int, Depths]]
) -> Iterator[tuple[int, Candidates]]:
    """(number of the plan, last candidates); plans that begin alike share their first stages' work.

    ``plans`` are sorted by depth, stage by stage, the deepest first; those of sources before their stage's.
    """
    if not stages:
        assert given is not None
        yield from ((number, given) for number, _ in plans)
        return
    stage = stages[0]
    for _, alike in groupby(plans, key=lambda plan: _of_sources(stage, plan[1])):
        group, ordered = list(alike), None
        asked = replace(request, depths=_of_sources(stage, group[0][1]))
        for k, same in groupby(group, key=lambda plan: plan[1][stage.name]):
            if isinstance(stage, Recorded | Remembered | LookedUp | Rank | Fuse):
                # cuts an order that does not depend on the cut
                ordered = stage.run(asked, given, k) if ordered is None else ordered.best(k)
                found = ordered
            else:
                found = stage.run(asked, given, k)
            yield from _explore(stages[1:], request, found, list(same))


def _of_sources(stage: Stage, depths: Depths) -> dict[str, int]:
    """The depths of the sources within a stage, where a plan names them."""
    sources = stage.sources if isinstance(stage, Fuse) else ()
    return {source.name: depths[source.name] for source in sources if source.name in depths}


def _deepest_first(stages: Sequence[Stage]) -> Callable[[tuple[int, Depths]], tuple[int, ...]]:
    def place(plan: tuple[int, Depths]) -> tuple[int, ...]:
        depths = plan[1]
        return tuple(
            -k for stage in stages for k in (*_of_sources(stage, depths).values(), depths[stage.name])
        )

    return place
