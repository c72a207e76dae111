"""Medians and tails."""

import math

import pytest

from twotower.timing import Stopwatch


@pytest.mark.parametrize(
    ("durations", "percent", "value"),
    [
        ([5.0], 50, 5.0),
        ([1.0, 2.0], 50, 1.0),
        ([3.0, 1.0, 2.0], 50, 2.0),
        ([3.0, 1.0, 2.0], 99, 3.0),
        ([3.0, 1.0, 2.0], 0, 1.0),
        ([float(n) for n in range(1, 201)], 99, 198.0),
        ([float(n) for n in range(1, 201)], 100, 200.0),
    ],
)
def test_percentiles_are_nearest_rank(durations, percent, value):
    watch = Stopwatch()
    for duration in durations:
        watch.record(duration)
    assert watch.percentile(percent) == value


def test_nothing_recorded_is_nan():
    assert math.isnan(Stopwatch().percentile(50))


def test_measures_in_milliseconds_even_what_fails():
    watch = Stopwatch()
    with pytest.raises(KeyError), watch.measure():
        raise KeyError
    with watch.measure():
        sum(range(100_000))
    failed, worked = watch.durations_ms
    assert 0 <= failed < worked < 10_000
