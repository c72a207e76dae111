"""Is a difference between two models more than luck of the draw: of the test's users, and of the seeds?

Users are drawn with replacement, with all their test events; all models see the same draws, and a model's
figures are those of each seed, averaged. That covers the choice of users. What another choice of seeds would
have changed is Student's interval of the mean over seeds; the half-widths of both add as squares
(`with_seeds`). With three seeds Student's factor is 4.3, so that one seed that differs makes a wide interval.

Letters: n test events, U users, S samples, V distinct scores.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.stats import t as student
from torch import Tensor
from torch.nn.functional import logsigmoid

SAMPLES = 1000
CHUNK = 250
"""Samples at a time."""

Scores = Callable[[str, int], Tensor]
"""(n,) logits of a model with a seed."""


def with_seeds(low: float, high: float, by_seed: Sequence[float]) -> tuple[float, float]:
    """An interval around the mean of ``by_seed``, widened by the choice of seeds; one tells nothing of it.

    >>> with_seeds(0.9, 1.1, [1.0, 1.0, 1.0])
    (0.9, 1.1)
    >>> low, high = with_seeds(1.0, 1.0, [0.9, 1.0, 1.1])  # Student's alone: 4.303 * 0.1 / sqrt(3)
    >>> round(low, 3), round(high, 3)
    (0.752, 1.248)
    """
    if len(by_seed) < 2:
        return low, high
    middle, error = statistics.mean(by_seed), statistics.stdev(by_seed) / math.sqrt(len(by_seed))
    seeds = float(student.ppf(0.975, len(by_seed) - 1)) * error
    return middle - math.hypot(middle - low, seeds), middle + math.hypot(high - middle, seeds)


@dataclass(frozen=True)
class Difference:
    """How much more one model has than another, with a 95 % percentile interval."""

    mean: float
    low: float
    high: float

    @property
    def sign(self) -> int:
        """1 or -1 where the interval leaves zero out, else 0."""
        return (self.low > 0) - (self.high < 0)

    def __str__(self) -> str:
        return f"{self.mean:+.4f} [{self.low:+.4f}, {self.high:+.4f}]"


class Bootstrap:
    """Resampled AUC and log loss of models on one test part.

    >>> labels, users = torch.tensor([1, 0, 1, 0]), torch.tensor([5, 5, 9, 9])
    >>> scores = {"a": torch.tensor([2.0, 1.0, 2.0, 1.0]), "b": torch.tensor([1.0, 2.0, 1.0, 2.0])}
    >>> draws = Bootstrap(labels, users, lambda model, seed: scores[model])
    >>> str(draws.difference("a", "b", [1], "AUC"))
    '+1.0000 [+1.0000, +1.0000]'
    """

    def __init__(self, labels: Tensor, users: Tensor, scores: Scores, samples: int = SAMPLES) -> None:
        names, self.user = torch.unique(users, return_inverse=True)
        self.labels, self.scores = labels.bool(), scores
        drawn = np.random.default_rng(0).multinomial(len(names), np.full(len(names), 1 / len(names)), samples)
        self.weights = torch.from_numpy(drawn.T.copy()).float()  # (U, S): how often a user was drawn
        self._known: dict[tuple[str, int], dict[str, tuple[float, Tensor]]] = {}

    def difference(self, a: str, b: str, seeds: list[int], measure: str) -> Difference:
        """``measure`` ("AUC" or "log loss") of a minus that of b, each the mean over the seeds."""
        (own_a, drawn_a), (own_b, drawn_b) = (self._by_seed(model, seeds, measure) for model in (a, b))
        return _interval([a - b for a, b in zip(own_a, own_b, strict=True)], drawn_a - drawn_b)

    def value(self, model: str, seeds: list[int], measure: str) -> Difference:
        """The measure itself, with its interval."""
        return _interval(*self._by_seed(model, seeds, measure))

    def _by_seed(self, model: str, seeds: list[int], measure: str) -> tuple[list[float], Tensor]:
        """Each seed's figure, and (S,) their mean on the drawn users."""
        found = [self._resampled(model, seed)[measure] for seed in seeds]
        return [value for value, _ in found], torch.stack([drawn for _, drawn in found]).mean(0)

    def _resampled(self, model: str, seed: int) -> dict[str, tuple[float, Tensor]]:
        """The measure on all users, and (S,) on the drawn."""
        if (model, seed) not in self._known:
            scores = self.scores(model, seed)
            everybody = torch.ones(len(self.weights), 1)
            own, drawn = (self._measure(scores, weights) for weights in (everybody, self.weights))
            self._known[model, seed] = {name: (float(own[name][0]), drawn[name]) for name in own}
        return self._known[model, seed]

    def _measure(self, scores: Tensor, weights: Tensor) -> dict[str, Tensor]:
        """(S,) AUC and log loss where the events of user u count ``weights[u]`` times.

        Scores repeat (they are kept in steps), so that a user is counts per distinct score: AUC needs no
        more than the weighted sum of these counts.
        """
        levels, level = torch.unique(scores, return_inverse=True)
        loss = -logsigmoid(torch.where(self.labels, scores, -scores).double())
        users = len(weights)
        lost = torch.zeros(users, dtype=torch.float64).index_add_(0, self.user, loss)
        events = torch.bincount(self.user, minlength=users).double()
        counts = [
            torch.sparse_coo_tensor(
                torch.stack([level[rows], self.user[rows]]),
                torch.ones(int(rows.sum())),
                (len(levels), users),
                check_invariants=True,
            ).coalesce()
            for rows in (self.labels, ~self.labels)
        ]
        aucs = []
        for part in weights.split(CHUNK, dim=1):
            positive, negative = (torch.sparse.mm(count, part).double() for count in counts)  # (V, S)
            below = negative.cumsum(0) - negative
            wins = (positive * (below + negative / 2)).sum(0)
            aucs.append(wins / (positive.sum(0) * negative.sum(0)))
        w = weights.double()
        return {"AUC": torch.cat(aucs), "log loss": (lost @ w) / (events @ w)}


def _interval(by_seed: list[float], drawn: Tensor) -> Difference:
    """The mean over seeds, and where it may lie with other users and other seeds."""
    low, high = torch.quantile(drawn, torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return Difference(statistics.mean(by_seed), *with_seeds(low, high, by_seed))
