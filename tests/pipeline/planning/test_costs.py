"""Lines through measured times, and the predictions made of them."""

from __future__ import annotations

import time

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from twotower.cascade.stage import Request, Stage
from twotower.errors import ConfigError
from twotower.pipeline.planning import costs as plan_costs
from twotower.pipeline.planning.costs import Costs, Line, measure_costs
from twotower.types import Batch, Candidates


class Watch:
    """A clock that stands still unless somebody works."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


class Working(Stage):
    """Takes ``fixed + each * candidates`` milliseconds, and hands on as many as it may."""

    def __init__(self, name: str, k: int, watch: Watch, fixed: float, each: float, kept: float = 0) -> None:
        super().__init__(name, k)
        self.watch, self.fixed, self.each, self.kept = watch, fixed, each, kept

    def run(self, request: Request, candidates: Candidates | None, k: int) -> Candidates:
        keys = torch.arange(k)[None] if candidates is None else candidates.keys[:, :k]
        given = k if candidates is None else candidates.keys.shape[1]
        self.watch.seconds += (self.fixed + self.each * given) / 1e3
        return Candidates(keys, torch.zeros(keys.shape))

    @property
    def bytes_per_item(self) -> float:
        return self.kept


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Watch:
    watch = Watch()
    monkeypatch.setitem(plan_costs.CLOCKS, "wall", watch)
    return watch


def costs_of(watch: Watch, levels: list[dict[str, int]]) -> Costs:
    variants: dict[str, dict[str, Stage]] = {
        "retrieve": {"-": Working("retrieve", 9, watch, 1.0, 0.01, kept=64)},
        "rank": {
            "ids": Working("rank", 9, watch, 0.5, 0.04, kept=8),
            "first_layer": Working("rank", 9, watch, 0.25, 0.02, kept=256),
        },
        "rules": {"-": Working("rules", 9, watch, 0.125, 0.0)},
    }
    request = Request(Batch(user=torch.arange(3)))
    return measure_costs(variants, request, levels, rounds=2, warm_up=1)


LEVELS = [{"retrieve": k, "rank": k // 2, "rules": 5} for k in (10, 100, 400)]


def test_costs_are_found_again_and_predict_depths_that_were_not_measured(watch: Watch) -> None:
    costs = costs_of(watch, LEVELS)
    assert costs.lines["rank"]["ids"].fixed_ms == pytest.approx(0.5)
    assert costs.lines["rank"]["first_layer"].each_ms == pytest.approx(0.02)
    depths = {"retrieve": 250, "rank": 30, "rules": 5}
    # retrieval by what is asked of it, later stages by what they are given
    assert costs.ms(depths, {"rank": "ids"}) == pytest.approx(1 + 2.5 + 0.5 + 10 + 0.125)
    assert costs.ms(depths, {"rank": "first_layer"}) == pytest.approx(1 + 2.5 + 0.25 + 5 + 0.125)
    assert costs.bytes({"rank": "ids"}) == 72
    assert costs.bytes({"rank": "first_layer"}) == 320


def test_measuring_leaves_no_trace(watch: Watch) -> None:
    threads = torch.get_num_threads()
    costs_of(watch, LEVELS)
    assert torch.get_num_threads() == threads


def test_one_depth_gives_a_constant(watch: Watch) -> None:
    line = costs_of(watch, LEVELS[:1]).lines["rank"]["ids"]
    assert (line.fixed_ms, line.each_ms) == (pytest.approx(0.9), 0.0)


def test_nothing_to_measure_is_refused(watch: Watch) -> None:
    with pytest.raises(ConfigError, match="0 depths"):
        costs_of(watch, [])


def test_real_clocks_run() -> None:
    for clock in plan_costs.CLOCKS.values():
        start = clock()
        assert torch.randn(300, 300).matmul(torch.randn(300, 300)).isfinite().all()
        assert clock() > start


@given(
    st.dictionaries(st.integers(1, 5000), st.floats(0.01, 50), min_size=1, max_size=6),
)
def test_a_line_is_never_below_zero_and_names_its_worst_deviation(measured: dict[int, float]) -> None:
    line = Line.fit(measured)
    assert line.fixed_ms >= 0
    assert line.each_ms >= 0
    assert line.misfit == pytest.approx(max(abs(line(k) / ms - 1) for k, ms in measured.items()))


@given(st.floats(0, 5), st.floats(0, 0.1))
def test_a_true_line_is_found(fixed: float, each: float) -> None:
    line = Line.fit({k: fixed + each * k + 1e-3 for k in (10, 70, 300, 1500)})
    assert line.misfit < 1e-6
    assert line(800) == pytest.approx(fixed + each * 800 + 1e-3, rel=1e-6)


def test_the_stages_of_a_cascade_keep_their_names(watch: Watch) -> None:
    costs = costs_of(watch, LEVELS)
    assert list(costs.lines) == ["retrieve", "rank", "rules"]
    assert costs.around_ms == pytest.approx(0)


def test_what_makes_predictions_doubtful_is_said(watch: Watch) -> None:
    straight, bent = Line(1.0, 0.1, misfit=0.1), Line(1.0, 0.1, misfit=0.3)

    def doubts(line: Line, waited: float, clock: plan_costs.Clock = "wall") -> list[str]:
        lines = {"retrieve": {"-": straight}, "rank": {"ids": straight, "wide": line}}
        return Costs(lines, {}, 0.1, clock, waited=waited).doubts

    assert doubts(straight, 0.1) == []
    assert doubts(straight, 0.4, "cpu") == []
    (busy,) = doubts(straight, 0.4)
    assert "waited 40% of their time" in busy
    (off,) = doubts(bent, 0.4, "cpu")
    assert "the time of rank is no line, 30% off" in off
    measured = costs_of(watch, LEVELS)  # its clock ran while the processor hardly did
    assert measured.waited > 0.5
    assert len(measured.doubts) == 1


def test_a_machine_that_runs_waits_for_nothing() -> None:
    class Busy(Stage):
        bytes_per_item = 0.0

        def run(self, request: Request, candidates: Candidates | None, k: int) -> Candidates:
            start = time.thread_time()
            while time.thread_time() < start + 0.002:
                pass
            return Candidates(torch.arange(k)[None], torch.zeros(1, k))

    class Asleep(Busy):
        def run(self, request: Request, candidates: Candidates | None, k: int) -> Candidates:
            time.sleep(0.01)
            return super().run(request, candidates, k)

    request = Request(Batch(user=torch.arange(3)))
    waited = [
        measure_costs({"it": {"-": stage("it", 5)}}, request, [{"it": 5}], rounds=5, clock="cpu").waited
        for stage in (Busy, Asleep)
    ]
    assert waited[0] < waited[1]
    assert waited[1] > 0.5
