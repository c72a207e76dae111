"""iALS: query factors against the normal equations."""

from __future__ import annotations

import pytest
import torch

from twotower.baselines import ials
from twotower.baselines.ials import IALS
from twotower.errors import ConfigError
from twotower.types import Ragged

pytest.importorskip("implicit")
ROWS = [[0, 1, 2], [1, 2], [3, 4], [3, 4, 5], [0, 2], [4, 5]]


@pytest.mark.parametrize("at_once", [1, 2, 256])
@pytest.mark.parametrize(("factors", "alpha"), [(3, 4.0), (5, 1.0), (2, 0.25)])
def test_scores_solve_the_normal_equations_of_the_paper(
    factors: int, alpha: float, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """x = (YᵀY + l2 I + Σ (alpha - 1) y yᵀ)⁻¹ Σ alpha y over the history, equation 4."""
    monkeypatch.setattr(ials, "QUERIES_AT_ONCE", at_once)
    model = IALS(factors, l2=0.5, alpha=alpha, iterations=5, threads=1).fit(Ragged.of(ROWS), n_items=6)
    items = model.state()["item_factors"].double()
    histories = [[0, 4], [], [0, 1, 2, 3, 4, 5], [3, 3], [5]]
    for history, scores in zip(histories, model.scores(Ragged.of(histories)), strict=True):
        mine = items[sorted(set(history))]
        a = items.T @ items + 0.5 * torch.eye(factors).double() + (alpha - 1) * mine.T @ mine
        expected = items @ torch.linalg.solve(a, alpha * mine.sum(0))
        torch.testing.assert_close(scores.double(), expected, atol=1e-6, rtol=1e-5)


def test_answers_leave_the_threads_of_the_process_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two of them at a time would put back what the other had set."""
    model = IALS(factors=3, threads=1).fit(Ragged.of(ROWS), n_items=6)
    expected = model.scores(Ragged.of([[0]]))
    control = pytest.importorskip("threadpoolctl").ThreadpoolController
    monkeypatch.delattr(control, "limit")
    again = IALS(factors=3, threads=1).restore(6, model.state())
    assert torch.equal(again.scores(Ragged.of([[0]])), expected)
    assert torch.equal(model.search(Ragged.of([[0]]), 2).scores, again.search(Ragged.of([[0]]), 2).scores)


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
