"""Bootstrap: coverage of the interval, agreement with theory, and exact edge cases."""

import numpy as np
import pytest
import torch

from twotower.errors import ConfigError, DataError
from twotower.metrics import significance
from twotower.metrics.significance import bootstrap_mean, paired_bootstrap


def test_interval_of_a_mean_agrees_with_the_normal_theory():
    values = np.random.default_rng(0).normal(3, 2, 2_000)
    found = bootstrap_mean(values, samples=4_000)
    half = 1.96 * values.std() / np.sqrt(len(values))
    assert found.mean == pytest.approx(values.mean())
    assert found.low == pytest.approx(values.mean() - half, abs=0.05 * half)
    assert found.high == pytest.approx(values.mean() + half, abs=0.05 * half)


def test_intervals_hold_the_truth_as_often_as_they_say():
    rng = np.random.default_rng(1)
    held = 0
    for seed in range(200):
        a, b = rng.normal(0.5, 1, 100), rng.normal(0.3, 1, 100)
        found = paired_bootstrap(a, b, samples=500, seed=seed, confidence=0.9)
        held += found.low <= 0.2 <= found.high
    assert 168 <= held <= 194  # 180 expected, standard deviation 4.2


def test_pairing_removes_what_both_share():
    hard = np.random.default_rng(2).normal(0, 10, 500)
    found = paired_bootstrap(hard + 0.1, hard)
    assert found.low == pytest.approx(0.1)
    assert found.high == pytest.approx(0.1)
    assert found.p == pytest.approx(2 / 10_001)


def test_no_difference_has_p_one_and_a_mirror_image_the_same_p():
    values = np.random.default_rng(3).random(50)
    same = paired_bootstrap(values, values)
    assert (same.mean, same.low, same.high, same.p) == (0, 0, 0, 1)
    other = values + np.random.default_rng(4).normal(0.02, 0.1, 50)
    one, two = paired_bootstrap(values, other, seed=5), paired_bootstrap(other, values, seed=5)
    assert one.p == two.p
    assert one.low == pytest.approx(-two.high)


def test_relative_is_a_ratio_of_means():
    b = np.random.default_rng(6).random(300)
    found = paired_bootstrap(b * 1.1, b, relative=True)
    assert [found.mean, found.low, found.high] == pytest.approx([0.1, 0.1, 0.1])
    assert np.isnan(paired_bootstrap(np.zeros(3), np.zeros(3), relative=True).mean)


def test_queries_without_a_value_are_left_out_together():
    a = torch.tensor([1.0, float("nan"), 0.0, 1.0])
    b = torch.tensor([0.0, 0.0, 0.0, float("nan")])
    found = paired_bootstrap(a, b)
    assert (found.mean, found.counted, found.left_out) == (0.5, 2, 2)
    assert bootstrap_mean(a).counted == 3


def test_same_seed_same_interval_and_generators_are_taken():
    values = np.random.default_rng(7).random(40)
    assert bootstrap_mean(values, seed=1) == bootstrap_mean(values, seed=np.random.default_rng(1))
    assert bootstrap_mean(values, seed=1) != bootstrap_mean(values, seed=2)


@pytest.mark.parametrize("cells", [1, 100, 4_000])
def test_the_size_of_a_block_changes_nothing(cells, monkeypatch):
    values = np.random.default_rng(8).random(40)
    whole = bootstrap_mean(values, samples=300)
    monkeypatch.setattr(significance, "_CELLS", cells)
    assert bootstrap_mean(values, samples=300) == whole


def test_bad_input_is_explained():
    with pytest.raises(DataError, match="at least one query"):
        bootstrap_mean(np.array([np.nan]))
    with pytest.raises(DataError, match="shapes"):
        paired_bootstrap(np.zeros(3), np.zeros(4))
    with pytest.raises(ConfigError, match="confidence"):
        bootstrap_mean(np.zeros(3), confidence=95)
    with pytest.raises(ConfigError, match="samples"):
        bootstrap_mean(np.zeros(3), samples=0)
