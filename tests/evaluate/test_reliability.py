"""Bins of a reliability diagram."""

import math

import pytest
import torch

from twotower.errors import DataError
from twotower.evaluate.reliability import reliability
from twotower.metrics.rating import calibration_error


@pytest.mark.parametrize("rounded", [None, 1])
@pytest.mark.parametrize("bins", [1, 4, 15])
def test_gaps_weighted_by_rows_are_the_calibration_error(bins, rounded):
    draw = torch.Generator().manual_seed(bins)
    probs = torch.rand(300, generator=draw)
    if rounded is not None:
        probs = (probs * 10).round() / 10  # with many ties
    labels = (torch.rand(300, generator=draw) < probs * 0.7).long()
    found = reliability(probs, labels, bins)
    gap = sum(b.rows * abs(b.stated - b.seen) for b in found) / 300
    assert gap == pytest.approx(calibration_error(probs, labels, bins))
    assert sum(b.rows for b in found) == 300
    assert [b.stated for b in found] == sorted(b.stated for b in found)
    assert all(0 <= b.low <= b.seen <= b.high <= 1 for b in found)


def test_the_interval_is_wilsons():
    [found] = reliability(torch.full((10,), 0.3), torch.tensor([1, 1, 1, 0, 0, 0, 0, 0, 0, 0]), bins=5)
    z, p, n = 1.959964, 0.3, 10
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    scale, center = 1 + z * z / n, p + z * z / (2 * n)
    assert (found.low, found.high) == pytest.approx(((center - half) / scale, (center + half) / scale))


def test_no_rows_make_no_bins():
    assert reliability(torch.empty(0), torch.empty(0)) == ()


@pytest.mark.parametrize("probs", [torch.tensor([1.2]), torch.tensor([math.nan]), torch.tensor([0.1, 0.2])])
def test_what_is_no_probability_is_refused(probs):
    with pytest.raises(DataError):
        reliability(probs, torch.tensor([1]))
