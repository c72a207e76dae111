"""What each stage of a cascade costs on this machine, as a function of the candidates it is given.

Stages are timed inside whole requests, one query at a time on one thread, so that each finds the caches as
it will when serving. All depths and all storage depths take turns with the same query, in a new order each
round: whatever else the machine does meets them alike. A median for each number of candidates, and a line
through the medians.

Letters: K candidates a stage is given; for the first stage, which is given none, those it is asked for. Of
several sources each has its own line, by what it is asked for; that of their stage is of uniting them, by
what all of them are asked for.
"""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from twotower.cascade.cascade import Cascade
from twotower.cascade.fuse import Fuse, Scorer
from twotower.cascade.stage import Request, Stage
from twotower.errors import ConfigError
from twotower.evaluate.latency import one_thread
from twotower.pipeline.planning.storage import AS_IT_IS, Variants
from twotower.types import Candidates

Clock = Literal["wall", "cpu"]
CLOCKS: dict[Clock, Callable[[], float]] = {"wall": time.perf_counter, "cpu": time.thread_time}
"""``cpu`` is the time of the measuring thread alone: for a busy machine, where nothing waits for a disk."""


DOUBTFUL = 0.15
"""Shares of a time above which a prediction is doubted."""


@dataclass(frozen=True)
class Line:
    """Milliseconds of a stage: ``fixed_ms + each_ms * K``. ``misfit`` is the largest relative deviation.

    >>> line = Line.fit({10: 0.7, 100: 1.6, 1000: 10.6})
    >>> round(line.fixed_ms, 6), round(line.each_ms, 6), round(line(500), 6)
    (0.6, 0.01, 5.6)
    """

    fixed_ms: float
    each_ms: float
    misfit: float

    def __call__(self, k: float) -> float:
        return self.fixed_ms + self.each_ms * k

    @classmethod
    def fit(cls, measured: Mapping[int, float]) -> Line:
        """Least squares of relative deviations from K -> ms, neither part below zero."""
        k, ms = np.array(list(measured), dtype=float), np.array(list(measured.values()))
        columns = np.stack([1 / ms, k / ms], 1)
        fixed, each = np.linalg.lstsq(columns, np.ones(len(k)), rcond=None)[0] if len(k) > 1 else (-1.0, -1.0)
        if each < 0:
            fixed, each = columns[:, 0].sum() / (columns[:, 0] ** 2).sum(), 0.0
        elif fixed < 0:
            fixed, each = 0.0, columns[:, 1].sum() / (columns[:, 1] ** 2).sum()
        misfit = float(np.abs(columns @ (fixed, each) - 1).max())
        return cls(float(fixed), float(each), misfit)


@dataclass(frozen=True)
class Costs:
    """The lines of all stages, by storage depth, and the bytes each keeps per item."""

    lines: dict[str, dict[str, Line]]  # stage -> storage depth -> line, stages in their order
    bytes_per_item: dict[str, dict[str, float]]
    around_ms: float  # of a request, outside its stages
    clock: Clock
    sources: Mapping[str, int] = field(default_factory=dict)  # of the first stage, and their own depths
    waited: float = 0.0  # share of a request's time that its thread did not run

    def ms(self, depths: Mapping[str, int], stores: Mapping[str, str]) -> float:
        """Predicted milliseconds of one request; ``stores`` names a depth where a stage offers several."""
        asked = {name: depths.get(name, k) for name, k in self.sources.items()}
        total = self.around_ms + sum(self.lines[name][AS_IT_IS](k) for name, k in asked.items())
        given = sum(asked.values()) if asked else None
        for stage, lines in self.lines.items():
            if stage not in asked:
                total += lines[stores.get(stage, AS_IT_IS)](depths[stage] if given is None else given)
                given = depths[stage]
        return total

    def bytes(self, stores: Mapping[str, str]) -> float:
        """Bytes per item of all stages together."""
        return sum(kept[stores.get(stage, AS_IT_IS)] for stage, kept in self.bytes_per_item.items())

    @property
    def doubts(self) -> list[str]:
        """Why the milliseconds should not be believed, in words; nothing where they may be."""
        found = []
        if self.clock == "wall" and self.waited > DOUBTFUL:
            found.append(
                f"requests waited {self.waited:.0%} of their time for the processor or a disk: plan on a "
                "quiet machine, or by --clock cpu"
            )
        for name, own in self.lines.items():
            misfit = max(line.misfit for line in own.values())
            if misfit > DOUBTFUL:
                found.append(
                    f"the time of {name} is no line, {misfit:.0%} off at one depth, and so may predictions "
                    "be: measure more --rounds, or try other --depth"
                )
        return found


def measure_costs(
    variants: Variants,
    request: Request,
    levels: Sequence[Mapping[str, int]],
    *,
    rounds: int = 40,
    warm_up: int = 5,
    clock: Clock = "wall",
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Costs:
    """Time single requests at several ``levels``, each a depth for every stage, and fit the lines.

    Round after round takes the next query of ``request``; the first ``warm_up`` are not counted.
    ``progress(done, total)`` is called with the rounds that are.

    Raises
    ------
    ConfigError
        There is no query, no round or no level.
    """
    if not len(request) or rounds < 1 or not levels:
        raise ConfigError(
            f"found {len(request)} queries, {rounds} rounds and {len(levels)} depths to measure costs at; "
            "expected at least one of each"
        )
    now = CLOCKS[clock]
    # as many cascades as the stage with the most storage depths has; the others' depths repeat
    cascades = [
        Cascade(*(_Timed(*list(own.items())[number % len(own)], now) for own in variants.values()))
        for number in range(max(map(len, variants.values())))
    ]
    turns = [(cascade, level) for cascade in cascades for level in levels]
    took: dict[tuple[str, str], dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    around, waited = list[float](), list[float]()
    draw = torch.Generator().manual_seed(seed)
    with one_thread():
        for number in range(warm_up + rounds):
            row = number % len(request)
            one = replace(request.rows(row, row + 1), budget=None)
            for turn in torch.randperm(len(turns), generator=draw).tolist():
                cascade, level = turns[turn]
                start, clocks = now(), [clock() for clock in CLOCKS.values()]
                cascade(replace(one, depths=level))
                whole = (now() - start) * 1e3
                wall, cpu = (clock() - began for clock, began in zip(CLOCKS.values(), clocks, strict=True))
                if number < warm_up:
                    continue
                waited.append(max(0.0, 1 - cpu / wall))
                timed = [each for s in cascade.stages if isinstance(s, _Timed) for each in (*s.sources, s)]
                around.append(whole - sum(stage.took_ms for stage in timed))
                for stage in timed:
                    took[stage.name, stage.store][stage.given].append(stage.took_ms)
            if progress is not None and number >= warm_up:
                progress(number + 1 - warm_up, rounds)
    lines = {
        name: {store: _line(took[name, store]) for store in own}
        for name, own in _with_sources(variants).items()
    }
    kept = {
        name: {store: _own_bytes(stage) for store, stage in own.items()}
        for name, own in _with_sources(variants).items()
    }
    first = next(iter(next(iter(variants.values())).values()))
    sources = {source.name: source.k for source in first.sources} if isinstance(first, Fuse) else {}
    return Costs(lines, kept, statistics.median(around), clock, sources, statistics.mean(waited))


def _line(took: Mapping[int, Sequence[float]]) -> Line:
    return Line.fit({k: statistics.median(ms) for k, ms in sorted(took.items())})


def _with_sources(variants: Variants) -> Variants:
    """The stages, with the sources of one in front of it as stages of their own."""
    found: Variants = {}
    for name, own in variants.items():
        for stage in own.values():
            sources = stage.sources if isinstance(stage, Fuse) else ()
            found |= {source.name: {AS_IT_IS: source} for source in sources}
        found[name] = own
    return found


def _own_bytes(stage: Stage) -> float:
    """What a stage keeps beside its sources."""
    return 0.0 if isinstance(stage, Fuse) else stage.bytes_per_item


class _Timed(Stage):
    """A stage that remembers how long its last run took, and with how many candidates; sources apart."""

    scores_of: Callable[[Request, Tensor], Tensor | None]  # where the stage has it

    def __init__(self, store: str, stage: Stage, now: Callable[[], float]) -> None:
        super().__init__(stage.name, stage.k)
        self.store, self.now = store, now
        self.sources: tuple[_Timed, ...] = ()
        if isinstance(stage, Fuse):
            self.sources = tuple(_Timed(AS_IT_IS, source, now) for source in stage.sources)
            stage = Fuse(self.sources, stage.by, stage.k, stage.name)
        self.stage, self.allow = stage, stage.allow
        if isinstance(stage, Scorer):
            self.scores_of = stage.scores_of
        self.took_ms, self.given = 0.0, 0

    def run(self, request: Request, candidates: Candidates | None, k: int) -> Candidates:
        start = self.now()
        output = self.stage.run(request, candidates, k)
        self.took_ms = (self.now() - start) * 1e3 - sum(source.took_ms for source in self.sources)
        if self.sources:
            self.given = sum(source.given for source in self.sources)
        else:
            self.given = k if candidates is None else candidates.keys.shape[1]
        return output

    @property
    def names(self) -> tuple[str, ...]:
        return self.stage.names

    @property
    def reads(self) -> tuple[str, ...]:
        return self.stage.reads

    @property
    def bytes_per_item(self) -> float:
        return self.stage.bytes_per_item
