"""Known figures on real data: MovieLens 1M, leave-last-out by (timestamp, row), whole catalogue."""

from __future__ import annotations

import os
from pathlib import Path

import polars as pl
import pytest
import torch

from twotower.baselines.base import Baseline
from twotower.baselines.ease import EASE
from twotower.baselines.popularity import Popularity
from twotower.types import Ragged

pytestmark = pytest.mark.data


@pytest.fixture(scope="module")
def leave_last_out() -> tuple[Ragged, torch.Tensor, int]:
    ratings = pl.read_csv(Path(os.environ["TWOTOWER_DATA"]) / "ml-1m" / "ratings.csv.gz")
    events = ratings.select(
        pl.col("user_id").rank("dense").cast(pl.Int64) - 1,
        pl.col("movie_id").rank("dense").cast(pl.Int64) - 1,
    ).with_columns(ratings["timestamp"])
    events = events.with_row_index("row").sort("user_id", "timestamp", "row")
    last = events.group_by("user_id", maintain_order=True).last()
    lengths = events.group_by("user_id", maintain_order=True).len()["len"].to_torch().long()
    rest = events.join(last.select("row"), on="row", how="anti", maintain_order="left")
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), (lengths - 1).cumsum(0)])
    return (
        Ragged(rest["movie_id"].to_torch(), offsets),
        last["movie_id"].to_torch(),
        events["movie_id"].n_unique(),
    )


@pytest.mark.parametrize(
    ("baseline", "recall", "ndcg"),
    [(Popularity(), 0.0364, 0.0179), (EASE(l2=300), 0.1084, 0.0536)],
    ids=["popularity", "ease"],
)
def test_known_figures(
    baseline: Baseline,
    recall: float,
    ndcg: float,
    leave_last_out: tuple[Ragged, torch.Tensor, int],
) -> None:
    history, target, n_items = leave_last_out
    assert (len(history), n_items) == (6040, 3706)
    found = baseline.fit(history, n_items).search(history, 10, exclude=history)
    hit = (found.keys == target[:, None]).double()
    assert float(hit.sum(1).mean()) == pytest.approx(recall, abs=2e-4)  # popularity has ties
    gain = hit / (torch.arange(10) + 2).log2()
    assert float(gain.sum(1).mean()) == pytest.approx(ndcg, abs=2e-4)
