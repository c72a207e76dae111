"""iALS: matrix factorisation of implicit feedback, by the package ``implicit``.

Hu, Koren, Volinsky 2008, "Collaborative filtering for implicit feedback datasets": every (query, item) pair
is a target, 1 with confidence ``alpha`` where there was an interaction, 0 with confidence 1 elsewhere. Rendle
et al. 2021 (arXiv 2110.14037) show that it competes with deep models when tuned.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from twotower.baselines.base import Baseline
from twotower.baselines.incidence import incidence
from twotower.errors import ConfigError
from twotower.optional import require
from twotower.types import Ragged


class IALS(Baseline):
    """Item factors (N, F); the factors of a query are solved from its history, for new queries too.

    Differs from the paper in that repetitions count once. The package asks for a single BLAS thread and warns
    when there are more (its own threads do the work), so the limit is set around every call.
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
        self._als = self._empty()
        with self._blas.limit(limits=1, user_api="blas"):
            self._als.fit(incidence(interactions, self.n_items), show_progress=False)

    def _empty(self) -> Any:
        """The package's model, without factors."""
        als = require("implicit.cpu.als", extra="baselines")
        # looks for BLAS libraries once, after the import above has loaded the last of them
        self._blas = require("threadpoolctl", extra="baselines").ThreadpoolController()
        with self._blas.limit(limits=1, user_api="blas"):
            return als.AlternatingLeastSquares(
                factors=self.factors,
                regularization=self.l2,
                alpha=self.alpha,
                iterations=self.iterations,
                num_threads=self.threads,
                random_state=self.seed,
            )

    def _scores(self, history: Ragged) -> Tensor:
        with self._blas.limit(limits=1, user_api="blas"):
            query = self._als.recalculate_user(range(len(history)), incidence(history, self.n_items))
        return torch.from_numpy(query) @ torch.from_numpy(self._als.item_factors).T

    def _state(self) -> dict[str, Tensor]:
        # a query is solved from its history and these alone; nothing of the queries of fit time is used
        return {"item_factors": torch.from_numpy(self._als.item_factors)}

    def _shapes(self, n_items: int) -> dict[str, tuple[int | None, ...]]:
        return {"item_factors": (n_items, self.factors)}

    def _restore(self, n_items: int, state: Mapping[str, Tensor]) -> None:
        self._als = self._empty()
        self._als.item_factors = state["item_factors"].contiguous().numpy()
