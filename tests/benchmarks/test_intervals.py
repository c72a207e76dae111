"""Paired bootstrap over users: the same figures as drawing the rows themselves."""

import numpy as np
import pytest
import torch
from benchmarks.pre_ranking.intervals import Bootstrap, Difference

from twotower.metrics.rating import auc, log_loss


@pytest.fixture(scope="module")
def test_part():
    """(labels, users, scores by model and seed) of 60 users; scores in steps, so that many tie."""
    draw = torch.Generator().manual_seed(0)
    users = torch.randint(100, 160, (900,), generator=draw)
    labels = (torch.rand(900, generator=draw) < 0.6).long()

    def scores(model, seed):
        noise = torch.randn(900, generator=torch.Generator().manual_seed(seed))
        gain = {"good": 2.0, "bad": 0.5, "same": 2.0}[model]
        return ((gain * labels + noise) * 4).round() / 4

    return labels, users, scores


def test_every_draw_is_the_figure_of_the_drawn_rows(test_part):
    labels, users, scores = test_part
    draws = Bootstrap(labels, users, scores, samples=5)
    found = draws._resampled("good", 1)
    for sample in range(5):
        rows = [
            row
            for user, times in zip(torch.unique(users).tolist(), draws.weights[:, sample].int(), strict=True)
            for row in (users == user).nonzero()[:, 0].tolist() * int(times)
        ]
        s, y = scores("good", 1)[rows], labels[rows]
        assert found["AUC"][1][sample].item() == pytest.approx(auc(s, y), abs=1e-9)
        assert found["log loss"][1][sample].item() == pytest.approx(log_loss(s, y), abs=1e-6)


def test_means_are_exact_and_average_the_seeds(test_part):
    labels, users, scores = test_part
    draws = Bootstrap(labels, users, scores, samples=200)
    found = draws.difference("good", "bad", [1, 2], "AUC")
    own = [np.mean([auc(scores(model, seed), labels) for seed in (1, 2)]) for model in ("good", "bad")]
    assert found.mean == pytest.approx(own[0] - own[1], abs=1e-9)
    assert found.low < found.mean < found.high
    assert found.sign == 1
    assert draws.difference("bad", "good", [1, 2], "AUC").sign == -1


def test_seeds_that_differ_widen_an_interval(test_part):
    """By Student's interval of the mean over seeds, as squares; with one seed nothing is known of it."""
    labels, users, scores = test_part
    draws = Bootstrap(labels, users, scores, samples=200)
    gains = [draws.difference("good", "bad", [seed], "AUC") for seed in (1, 2, 3)]
    assert all(gain.low < gain.mean < gain.high for gain in gains)
    error = np.std([gain.mean for gain in gains], ddof=1) / 3**0.5
    found = draws.difference("good", "bad", [1, 2, 3], "AUC")
    drawn = [draws._by_seed(model, [1, 2, 3], "AUC")[1] for model in ("good", "bad")]
    users_alone = np.mean([g.mean for g in gains]) - np.quantile((drawn[0] - drawn[1]).numpy(), 0.025)
    assert found.mean - found.low == pytest.approx(np.hypot(users_alone, 4.302653 * error), rel=1e-5)


def test_draws_are_paired(test_part):
    """A model does not differ from its copy, whichever users are drawn."""
    draws = Bootstrap(*test_part, samples=50)
    found = draws.difference("good", "same", [3], "log loss")
    assert (found.mean, found.low, found.high, found.sign) == (0, 0, 0, 0)


def test_an_interval_that_holds_zero_has_no_sign():
    assert Difference(0.1, -0.1, 0.3).sign == 0
    assert str(Difference(0.1, -0.1, 0.3)) == "+0.1000 [-0.1000, +0.3000]"
