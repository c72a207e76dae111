"""iALS: matrix factorisation of implicit feedback, fitted by the package ``implicit``.

Hu, Koren, Volinsky 2008, "Collaborative filtering for implicit feedback datasets": every (query, item) pair
is a target, 1 with confidence ``alpha`` where there was an interaction, 0 with confidence 1 elsewhere. Rendle
et al. 2021 (arXiv 2110.14037) show that it competes with deep models when tuned.
"""

from __future__ import annotations

from collections.abc import Mapping
from threading import Lock

import torch
from torch import Tensor

from twotower.baselines.base import Baseline
from twotower.baselines.incidence import incidence
from twotower.errors import ConfigError
from twotower.optional import require
from twotower.types import Ragged

QUERIES_AT_ONCE = 256  # of 128 factors: 34 MB of their equations
_ONE_BLAS_THREAD = Lock()


class IALS(Baseline):
    """Item factors (N, F); the factors of a query are solved from its history, for new queries too.

    Differs from the paper in that repetitions count once. The package asks for a single BLAS thread and warns
    when there are more (its own threads do the work), so there is but one while it fits: in the whole
    process, which is why one fit waits for another. A query needs neither package nor limit.
    """

    def __init__(
        self,
        factors: int = 128,
        l2: float = 10.0,
        alpha: float = 1.0,
        iterations: int = 15,
        seed: int = 0,
        threads: int = 0,
    ) -> None:
        if factors < 1 or iterations < 1 or not alpha > 0 or l2 < 0:
            raise ConfigError(
                "factors and iterations must be at least 1, alpha above 0, l2 at least 0; found "
                f"{factors}, {iterations}, {alpha}, {l2}"
            )
        self.factors = factors
        self.l2 = l2
        self.alpha = alpha
        self.iterations = iterations
        self.seed = seed
        self.threads = threads

    def _fit(self, interactions: Ragged, times: Tensor | None) -> None:
        als = require("implicit.cpu.als", extra="baselines")
        # looks for BLAS libraries after the import above has loaded the last of them
        blas = require("threadpoolctl", extra="baselines").ThreadpoolController()
        with _ONE_BLAS_THREAD, blas.limit(limits=1, user_api="blas"):
            model = als.AlternatingLeastSquares(
                factors=self.factors,
                regularization=self.l2,
                alpha=self.alpha,
                iterations=self.iterations,
                num_threads=self.threads,
                random_state=self.seed,
            )
            model.fit(incidence(interactions, self.n_items), show_progress=False)
        self._take_up(torch.from_numpy(model.item_factors))

    def _take_up(self, items: Tensor) -> None:
        self._items = items
        self._gram = (items.T @ items).double()
        self._gram.diagonal().add_(self.l2)

    def _scores(self, history: Ragged) -> Tensor:
        rows = torch.split(torch.arange(len(history)), QUERIES_AT_ONCE)
        query = torch.cat([self._queries(history.take(some)) for some in rows])
        return query @ self._items.T

    def _queries(self, history: Ragged) -> Tensor:
        """(Q, F): x of (YᵀY + l2 I + Σ (alpha - 1) y yᵀ) x = Σ alpha y over the history, equation 4."""
        left = self._gram.repeat(len(history), 1, 1)
        right = left.new_zeros(len(history), self.factors, 1)
        for row, keys in enumerate(history):
            known: Tensor = torch.unique(keys)
            mine = self._items[known].double()
            left[row].addmm_(mine.T, mine, alpha=self.alpha - 1)
            right[row, :, 0] = self.alpha * mine.sum(0)
        return torch.cholesky_solve(right, torch.linalg.cholesky(left))[..., 0].float()

    def _state(self) -> dict[str, Tensor]:
        # a query is solved from its history and these alone; nothing of the queries of fit time is used
        return {"item_factors": self._items}

    def _shapes(self, n_items: int) -> dict[str, tuple[int | None, ...]]:
        return {"item_factors": (n_items, self.factors)}

    def _restore(self, n_items: int, state: Mapping[str, Tensor]) -> None:
        self._take_up(state["item_factors"].contiguous())
