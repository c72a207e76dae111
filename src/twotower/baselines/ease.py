"""EASE: the linear item-item model with a closed form.

Steck 2019, "Embarrassingly shallow autoencoders for sparse data" (arXiv 1905.03375), equations 5 to 8:
P = (XᵀX + λI)⁻¹, B = I - P diag(1 / diag P), scores = x B. X is binary: repetitions count once.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from twotower.baselines.base import Baseline
from twotower.baselines.incidence import co_occurrences, multi_hot
from twotower.errors import ConfigError
from twotower.types import Ragged

MOST_ITEMS = 20_000


class EASE(Baseline):
    """Weights B (N, N) that reconstruct each item from all others; ``l2`` is λ.

    >>> ease = EASE(l2=1).fit(Ragged.of([[0, 1], [0, 1], [2]]), n_items=3)
    >>> ease.scores(Ragged.of([[0]]))[0].argmax().item()
    1
    """

    def __init__(self, l2: float = 300.0) -> None:
        if not l2 > 0:
            raise ConfigError(f"EASE needs l2 > 0 for its matrix to have an inverse, found {l2}")
        self.l2 = l2

    def _fit(self, interactions: Ragged, times: Tensor | None) -> None:
        n = self.n_items
        if n > MOST_ITEMS:
            size_gb = n * n * 24 / 1e9
            raise ConfigError(
                f"EASE inverts a dense matrix of items x items: {n:,} items would take {size_gb:.0f} GB and "
                f"hours, at most {MOST_ITEMS:,} are allowed: use ItemKNN or IALS for this catalogue"
            )
        gram = torch.from_numpy(co_occurrences(interactions, n).toarray()).double()
        gram.diagonal().add_(self.l2)
        inverse = torch.cholesky_inverse(torch.linalg.cholesky(gram))
        weights = inverse / -inverse.diagonal()  # column j by P_jj
        weights.fill_diagonal_(0)
        self._weights = weights.to(torch.float32, memory_format=torch.contiguous_format)

    def _scores(self, history: Ragged) -> Tensor:
        return multi_hot(history, self.n_items) @ self._weights

    def _state(self) -> dict[str, Tensor]:
        return {"weights": self._weights}

    def _shapes(self, n_items: int) -> dict[str, tuple[int | None, ...]]:
        return {"weights": (n_items, n_items)}

    def _restore(self, n_items: int, state: Mapping[str, Tensor]) -> None:
        self._weights = state["weights"]
