"""Beyond accuracy: closed forms after RecBole's test_topk_metrics (MIT), and edges."""

import math

import pytest
import torch

from twotower.errors import DataError
from twotower.metrics.beyond import coverage, exposure, gini, mean_shown, popularity_rank, self_information

LISTS = torch.tensor([[5, 7, 3], [4, 5, 2], [2, 3, 5], [1, 4, 6], [5, 3, 7]]) - 1  # keys 0..7 for items 1..8
COUNTS = torch.tensor([0, 1, 2, 3, 4, 5, 0, 0])


def test_coverage_is_seven_of_eight():
    assert coverage(LISTS, n_items=8, k=3) == 7 / 8
    assert coverage(LISTS, n_items=8, k=1) == 4 / 8


def test_gini_counts_items_never_shown():
    shown = exposure(LISTS, n_items=8, k=3)
    assert shown.tolist() == [1, 2, 3, 2, 4, 1, 2, 0]
    expected = (-7 * 0 - 5 * 1 - 3 * 1 - 1 * 2 + 1 * 2 + 3 * 2 + 5 * 3 + 7 * 4) / (8 * (3 * 5))
    assert gini(shown) == pytest.approx(expected)


def test_gini_equals_mean_absolute_difference():
    x = torch.rand(30, generator=torch.Generator().manual_seed(0)).double()
    naive = (x[:, None] - x[None, :]).abs().mean() / (2 * x.mean())
    assert gini(x) == pytest.approx(naive.item())
    assert math.isnan(gini(torch.zeros(3)))


def test_average_popularity():
    expected = [[4, 4 / 2, 6 / 3], [3, 7 / 2, 8 / 3], [1, 3 / 2, 7 / 3], [0, 3 / 2, 8 / 3], [4, 6 / 2, 6 / 3]]
    found = torch.stack([mean_shown(LISTS, COUNTS, k) for k in (1, 2, 3)], dim=1)
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))


def test_tail_share():
    tail = torch.arange(8) == 0
    found = torch.stack([mean_shown(LISTS, tail, k) for k in (1, 2, 3)], dim=1)
    expected = torch.zeros(5, 3, dtype=torch.float64)
    expected[3] = torch.tensor([1, 1 / 2, 1 / 3])
    torch.testing.assert_close(found, expected)


def test_popularity_rank_shares_ties_and_novelty_falls_with_popularity():
    assert popularity_rank(COUNTS).tolist() == [7, 5, 4, 3, 2, 1, 7, 7]
    bits = self_information(COUNTS, n_queries=5)
    assert bits[5] == 0
    assert bits[0] == bits[1] == pytest.approx(math.log2(5))
    assert (bits[1:5].diff() < 0).all()


def test_empty_slots_are_nobody():
    lists = torch.tensor([[2, -1], [-1, -1]])
    assert exposure(lists, n_items=3, k=5).tolist() == [0, 0, 1]
    values = mean_shown(lists, torch.tensor([1.0, 2.0, 3.0]), k=5)
    assert values[0] == 3
    assert values[1].isnan()


def test_keys_outside_the_catalogue_are_refused():
    with pytest.raises(DataError, match="outside the catalogue of 3"):
        coverage(torch.tensor([[3]]), n_items=3, k=1)
