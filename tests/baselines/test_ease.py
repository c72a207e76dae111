"""EASE against its optimality conditions and a hand-made case."""

from __future__ import annotations

import pytest
import torch

from twotower.baselines.ease import EASE, MOST_ITEMS
from twotower.errors import ConfigError
from twotower.types import Ragged

pytest.importorskip("scipy")


def test_two_items_by_hand() -> None:
    """G = [[3 + 1, 1], [1, 2 + 1]]: the one weight of each regression is G_01 / G_00, or G_01 / G_11."""
    model = EASE(l2=1).fit(Ragged.of([[0, 1], [0], [0], [1]]), n_items=2)
    expected = torch.tensor([[0.0, 1 / 4], [1 / 3, 0.0]])
    scores = model.scores(Ragged.of([[0], [1]]))
    torch.testing.assert_close(scores, expected)


def test_each_column_is_the_ridge_regression_of_an_item_on_all_others() -> None:
    """Theorem of the paper: B minimises |X - XB|² + l2 |B|² under a zero diagonal."""
    generator = torch.Generator().manual_seed(0)
    x = (torch.rand(50, 8, generator=generator) < 0.4).double()
    rows = [row.nonzero()[:, 0].tolist() for row in x]
    weights = EASE(l2=5.0).fit(Ragged.of(rows), n_items=8).scores(Ragged.of([[i] for i in range(8)]))
    for j in range(8):
        others = [i for i in range(8) if i != j]
        a = x[:, others]
        ridge = torch.linalg.solve(a.T @ a + 5.0 * torch.eye(7).double(), a.T @ x[:, j])
        torch.testing.assert_close(weights[others, j].double(), ridge, atol=1e-6, rtol=1e-5)
        assert weights[j, j] == 0


def test_a_catalogue_too_large_is_refused_before_memory_is_taken() -> None:
    with pytest.raises(ConfigError, match=r"items x items.*use ItemKNN or IALS"):
        EASE().fit(Ragged.of([[0]]), n_items=MOST_ITEMS + 1)


def test_without_regularisation_there_is_no_inverse() -> None:
    with pytest.raises(ConfigError, match="l2 > 0"):
        EASE(l2=0)
