"""Matching histograms against counting by hand."""

import math

import pytest
import torch

from twotower.nn.histogram import EXACT, matching_histogram


def naive(row, real, bins):
    counts = [0.0] * bins
    for m, r in zip(row, real, strict=True):
        if r:
            inside = min(max(math.floor((m + 1) * (bins - 1) / 2), 0), bins - 2)
            counts[bins - 1 if m >= EXACT else inside] += 1
    return counts


@pytest.mark.parametrize("bins", [2, 5, 30])
def test_counts_are_those_of_a_loop(bins):
    matrix = torch.rand(2, 3, 4, 7, generator=torch.Generator().manual_seed(0)) * 2 - 1
    matrix[0, 1, 2, :3] = torch.tensor([1.0, -1.0, 1 - 1e-7])
    real = torch.rand(1, 3, 7, generator=torch.Generator().manual_seed(1)) < 0.6
    found = matching_histogram(matrix, real, bins)
    assert found.shape == (2, 3, 4, bins)
    for q in range(2):
        for k in range(3):
            for i in range(4):
                expected = naive(matrix[q, k, i].tolist(), real[0, k].tolist(), bins)
                assert found[q, k, i].tolist() == expected


def test_rounding_beyond_one_stays_inside():
    cosines = torch.tensor([[1 + 1e-6, -1 - 1e-6]])
    assert matching_histogram(cosines, torch.tensor([True, True]), 3).tolist() == [[1, 0, 1]]


def test_nothing_to_count_is_zero():
    for places in (0, 2):
        found = matching_histogram(torch.zeros(2, places), torch.zeros(places, dtype=torch.bool), 3)
        assert found.tolist() == [[0.0] * 3] * 2
