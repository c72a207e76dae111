"""The same list for everybody: what is popular, ever or lately."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from twotower.baselines.base import Baseline
from twotower.errors import ConfigError
from twotower.types import Ragged

SECONDS_PER_DAY = 86_400


class Popularity(Baseline):
    """Items by their number of interactions.

    >>> Popularity().fit(Ragged.of([[0, 1], [1]]), n_items=3).search(Ragged.of([[]]), k=2).keys.tolist()
    [[1, 0]]
    """

    def _fit(self, interactions: Ragged, times: Tensor | None) -> None:
        self._counts = torch.bincount(interactions.values, minlength=self.n_items).float()

    def _scores(self, history: Ragged) -> Tensor:
        return self._counts.repeat(len(history), 1)

    def _found(self, history: Ragged, scores: Tensor) -> Tensor:
        return scores  # the same for everybody, known or not

    def _state(self) -> dict[str, Tensor]:
        return {"counts": self._counts}

    def _shapes(self, n_items: int) -> dict[str, tuple[int | None, ...]]:
        return {"counts": (n_items,)}

    def _restore(self, n_items: int, state: Mapping[str, Tensor]) -> None:
        self._counts = state["counts"]


class RecentPopularity(Popularity):
    """Items by their number of interactions in the last ``days`` before the end of the training range."""

    def __init__(self, days: float = 30) -> None:
        if not days > 0:
            raise ConfigError(f"days must be above 0, found {days}")
        self.days = days

    def _fit(self, interactions: Ragged, times: Tensor | None) -> None:
        if times is None:
            raise ConfigError("popularity of the last days needs the times of the interactions")
        times = times.double()  # whole seconds less a float would be float32, which is minutes off
        recent = interactions.values[times > times.max() - self.days * SECONDS_PER_DAY]
        self._counts = torch.bincount(recent, minlength=self.n_items).float()
