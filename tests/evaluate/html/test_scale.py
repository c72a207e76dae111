"""Axes and the places of labels."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twotower.evaluate.html.scale import Scale, spread


@given(st.lists(st.floats(0, 300), max_size=8))
def test_labels_never_touch_and_stay_in_order(places):
    moved = spread(places, 30, 0, 300)
    order = sorted(range(len(places)), key=lambda i: places[i])
    for one, other in itertools.pairwise(order):
        assert moved[other] - moved[one] >= 30 - 1e-6
    assert all(0 <= place <= 300 for place in moved)


def test_labels_with_room_stay():
    assert spread([10.0, 100.0, 55.0], 30, 0, 200) == [10.0, 100.0, 55.0]
    assert spread([], 30, 0, 200) == []


@pytest.mark.parametrize("high", [0.03, 1, 7, 12, 99, 1e6])
def test_ticks_are_few_and_inside(high):
    ticks = Scale(0, high, 0, 1).ticks(4)
    assert 2 <= len(ticks) <= 6
    assert ticks[0] == 0
    assert ticks[-1] <= high * (1 + 1e-9)


def test_a_scale_without_width_does_not_divide_by_it():
    assert Scale(3, 3, 10, 20)(3) == 10
    assert Scale(3, 3, 10, 20).ticks() == [3]
