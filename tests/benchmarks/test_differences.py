"""Differences between ways to learn: means over seeds, then paired over queries."""

import numpy as np
import polars as pl
from benchmarks.pre_ranking.differences import MEASURES, differences


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


def test_without_cells_there_is_no_table(tmp_path):
    assert differences(tmp_path) == ""
