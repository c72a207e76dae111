"""Learning rates at the steps where they can be told by hand."""

import pytest

from twotower.errors import ConfigError
from twotower.train.schedule import rate_factor


def test_constant_stays_after_the_warm_up():
    assert [rate_factor(s, "constant", 4) for s in range(6)] == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    assert rate_factor(10**9, "constant") == 1.0


def test_linear_and_cosine_fall_from_one_to_zero():
    for kind in ("linear", "cosine"):
        values = [rate_factor(step, kind, 0, 10) for step in range(11)]
        assert values[0] == 1.0
        assert values[5] == pytest.approx(0.5)
        assert values[10] == pytest.approx(0.0)
        assert values == sorted(values, reverse=True)


def test_cosine_quarter_points():
    assert rate_factor(1, "cosine", 0, 4) == pytest.approx((1 + 2**-0.5) / 2)


def test_past_the_end_stays_at_zero():
    assert rate_factor(99, "linear", 2, 10) == 0.0


def test_warm_up_longer_than_the_run():
    assert rate_factor(3, "linear", 8, 4) == 0.5


def test_a_falling_schedule_needs_an_end():
    with pytest.raises(ConfigError, match="max_steps"):
        rate_factor(0, "cosine", 0, None)
