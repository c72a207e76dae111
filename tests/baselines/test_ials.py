"""iALS: query factors against the normal equations."""

from __future__ import annotations

import pytest
import torch

from twotower.baselines.ials import IALS
from twotower.errors import ConfigError
from twotower.types import Ragged

pytest.importorskip("implicit")
ROWS = [[0, 1, 2], [1, 2], [3, 4], [3, 4, 5], [0, 2], [4, 5]]


def test_scores_solve_the_normal_equations_of_the_paper() -> None:
    """x = (YᵀY + l2 I + Σ (alpha - 1) y yᵀ)⁻¹ Σ alpha y over the history, equation 4."""
    model = IALS(factors=3, l2=0.5, alpha=4.0, iterations=5, threads=1).fit(Ragged.of(ROWS), n_items=6)
    items = torch.from_numpy(model._als.item_factors).double()
    history = [0, 4]
    mine = items[history]
    a = items.T @ items + 0.5 * torch.eye(3).double() + 3.0 * mine.T @ mine
    expected = items @ torch.linalg.solve(a, 4.0 * mine.sum(0))
    scores = model.scores(Ragged.of([history]))[0]
    torch.testing.assert_close(scores.double(), expected, atol=1e-4, rtol=1e-4)


def test_the_seed_decides() -> None:
    history = Ragged.of([[0], [4]])
    one, again, other = (
        IALS(factors=3, iterations=1, seed=s, threads=1).fit(Ragged.of(ROWS), 6).scores(history)
        for s in (1, 1, 2)
    )
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


def test_settings_are_checked() -> None:
    with pytest.raises(ConfigError, match="factors and iterations"):
        IALS(factors=0)
