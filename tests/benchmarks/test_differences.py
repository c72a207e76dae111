"""Differences between ways to learn: means over seeds, then paired over queries."""

import numpy as np
import polars as pl
import pytest
from benchmarks.pre_ranking.differences import MEASURES, difference_of, differences


def test_a_difference_is_that_of_the_means_over_seeds(tmp_path):
    draw = np.random.default_rng(0)
    base = draw.random(200)
    for system, gain in (("exposures", 0.0), ("full-stage+distil", 0.25)):
        for seed in (1, 2):
            values = base + gain + (seed - 1.5) * 0.1  # the seeds' shifts cancel in their mean
            frame = pl.DataFrame(dict.fromkeys(MEASURES, values))
            frame.write_parquet(tmp_path / f"shop-{system}-{seed}.parquet")
    text = differences(tmp_path)
    assert "| shop | `full-stage+distil` - `exposures` | +0.250 [+0.250, +0.250] |" in text
    assert text.count("| shop |") == 1


def test_a_seed_that_differs_widens_a_difference():
    theirs = [np.zeros(50)] * 3
    same = difference_of([np.full(50, 0.2)] * 3, theirs)
    assert (same.low, same.high) == pytest.approx((0.2, 0.2))
    apart = difference_of([np.full(50, value) for value in (0.1, 0.2, 0.3)], theirs)
    assert (apart.low, apart.high) == pytest.approx((0.2 - 0.2484, 0.2 + 0.2484), abs=1e-4)


def test_without_cells_there_is_no_table(tmp_path):
    assert differences(tmp_path) == ""
