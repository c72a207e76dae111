"""Which plan is chosen, by hand-made costs and qualities."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from twotower.errors import ConfigError
from twotower.pipeline.planning.choice import Limits, Point, choose, front_of, points_of
from twotower.pipeline.planning.costs import Costs, Line

QUERIES = 400
DEPTHS = (10, 20, 50, 100)


@pytest.fixture
def values() -> Tensor:
    """Quality rises with depth: much, a little for one query in ten, and not at all."""
    base = torch.rand(QUERIES, generator=torch.Generator().manual_seed(0), dtype=torch.float64) / 2
    little = base + 0.004 * (torch.arange(QUERIES) % 10 == 0)
    return torch.stack([base * 0.7, base, little, little])


@pytest.fixture
def points(values: Tensor) -> list[Point]:
    lines = {
        "retrieve": {"-": Line(1.0, 0.0, 0.0)},
        "rank": {"ids": Line(0.0, 0.02, 0.0), "first_layer": Line(0.0, 0.01, 0.0)},
    }
    kept = {"retrieve": {"-": 64.0}, "rank": {"ids": 8.0, "first_layer": 256.0}}
    grid = [{"retrieve": k, "rank": 10} for k in DEPTHS]
    return points_of(Costs(lines, kept, 0.5, "wall"), grid, values)


def depth_and_store(points: list[Point], values: Tensor, **limits: object) -> tuple[int, str]:
    chosen = choose(points, values, Limits.parse(limits)).point
    return chosen.depths["retrieve"], chosen.stores["rank"]


def test_points_are_all_depths_at_all_stores(points: list[Point]) -> None:
    assert len(points) == 8
    assert {(p.depths["retrieve"], p.stores["rank"]): round(p.ms, 6) for p in points} == {
        (k, store): 1.5 + each * k for k in DEPTHS for store, each in (("ids", 0.02), ("first_layer", 0.01))
    }
    assert {p.bytes_per_item for p in points} == {72, 320}


def test_of_equals_the_cheapest_is_the_best(points: list[Point], values: Tensor) -> None:
    assert depth_and_store(points, values, rule="best") == (50, "first_layer")


def test_safe_gives_up_what_is_shown_to_be_little(points: list[Point], values: Tensor) -> None:
    assert depth_and_store(points, values) == (20, "first_layer")
    assert depth_and_store(points, values, margin=0.0001) == (50, "first_layer")
    assert depth_and_store(points, values, margin=0.5) == (10, "first_layer")
    choice = choose(points, values, Limits())
    assert choice.best.depths["retrieve"] == 50
    assert choice.interval is not None
    assert -0.005 < choice.interval.low < choice.interval.high < 0


def test_equal_gives_up_nothing_that_is_shown_to_be_something(points: list[Point], values: Tensor) -> None:
    assert depth_and_store(points, values, rule="equal") == (50, "first_layer")
    noisy = values.clone()
    noisy[1] += 0.05 * torch.randn(QUERIES, generator=torch.Generator().manual_seed(1))
    noisy[1] -= (noisy[1] - values[2]).mean() + 0.001
    again = [Point(**{**vars(p), "quality": float(noisy[p.row].mean())}) for p in points]
    assert depth_and_store(again, noisy, rule="equal") == (20, "first_layer")


def test_limits_are_kept(points: list[Point], values: Tensor) -> None:
    assert depth_and_store(points, values, ms=1.75, rule="best") == (20, "first_layer")
    assert depth_and_store(points, values, bytes_per_item=100, rule="best") == (50, "ids")
    assert depth_and_store(points, values, bytes_per_item=100, ms=2.0, rule="best") == (20, "ids")


def test_a_floor_asks_for_the_cheapest_with_it(points: list[Point], values: Tensor) -> None:
    low, middle, high = (float(values[row].mean()) for row in (0, 1, 2))
    assert depth_and_store(points, values, floor=low) == (10, "first_layer")
    assert depth_and_store(points, values, floor=(low + middle) / 2) == (20, "first_layer")
    assert depth_and_store(points, values, floor=high) == (50, "first_layer")


@pytest.mark.parametrize(
    ("limits", "says"),
    [
        ({"ms": 1.0}, r"at most 1 ms; the fastest takes 1\.6 \(retrieve 10, rank 10\)"),
        ({"bytes_per_item": 10}, "at most 10 bytes per item; the smallest keeps 72"),
        ({"floor": 0.9}, r"reaches 0\.9; the best has 0\.2\d+ and takes 2 ms"),
        ({"ms": -1}, "greater than 0"),
        ({"rule": "boldest"}, "safe"),
    ],
)
def test_what_cannot_be_is_refused(
    points: list[Point], values: Tensor, limits: dict[str, object], says: str
) -> None:
    with pytest.raises(ConfigError, match=says):
        choose(points, values, Limits.parse(limits))


@given(st.lists(st.tuples(st.integers(1, 6), st.integers(0, 6)), min_size=1, max_size=20))
def test_the_front_is_what_nothing_beats(pairs: list[tuple[int, int]]) -> None:
    points = [Point({"retrieve": 10}, {}, float(ms), 0, float(quality), 0) for ms, quality in pairs]
    naive = {(m, q) for m, q in pairs if not any((x <= m and y >= q and (x, y) != (m, q)) for x, y in pairs)}
    front = front_of(points)
    assert [(p.ms, p.quality) for p in front] == sorted(naive)
