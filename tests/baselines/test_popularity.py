"""Counts, and counts of the last days."""

from __future__ import annotations

import pytest
import torch

from twotower.baselines.popularity import SECONDS_PER_DAY, Popularity, RecentPopularity
from twotower.errors import ConfigError
from twotower.types import Ragged


def test_popularity_counts_every_interaction() -> None:
    model = Popularity().fit(Ragged.of([[0, 1, 1], [1], [], [2]]), n_items=4)
    assert model.scores(Ragged.of([[], [1]])).tolist() == [[1, 3, 1, 0]] * 2


def test_only_the_last_days_count_and_the_cut_is_open() -> None:
    days = torch.tensor([0.0, 7.0, 7.5, 10.0])
    model = RecentPopularity(days=3).fit(Ragged.of([[0, 1], [2, 3]]), 4, days * SECONDS_PER_DAY)
    assert model.scores(Ragged.of([[]])).tolist() == [[0, 0, 1, 1]]


def test_the_cut_is_exact_to_the_second_with_a_part_of_a_day():
    end = 1_700_000_000
    times = torch.tensor([end - 129_601, end - 129_600, end - 129_599, end])
    model = RecentPopularity(days=1.5).fit(Ragged.of([[0, 1], [2, 3]]), 4, times)
    assert model.scores(Ragged.of([[]])).tolist() == [[0, 0, 1, 1]]


def test_times_and_days_are_asked_for() -> None:
    with pytest.raises(ConfigError, match="needs the times"):
        RecentPopularity().fit(Ragged.of([[0]]), 1)
    with pytest.raises(ConfigError, match="days must be above 0"):
        RecentPopularity(days=0)
