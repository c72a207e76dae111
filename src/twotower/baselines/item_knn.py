"""ItemKNN: an item is as good as it is similar to what is in the history.

Cosine of the binary interaction vectors, damped by a shrinkage term h as in Ferrari Dacrema et al. 2019
("Are we really making much progress?", arXiv 1907.06902, section 3.2): s_ij = n_ij / (sqrt(n_i n_j) + h),
with the k most similar neighbours of each candidate item kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from twotower.baselines.base import Baseline
from twotower.baselines.incidence import incidence
from twotower.errors import ConfigError, MismatchError
from twotower.optional import require
from twotower.types import Ragged

ITEMS_AT_ONCE = 1024


class ItemKNN(Baseline):
    """Sum of the similarities between a candidate and those of its neighbours that are in the history.

    Ties among neighbours go to the smaller key. A candidate with no neighbour there is not found. Sparse
    throughout: ``neighbours`` entries per item are all that is kept.

    >>> knn = ItemKNN(neighbours=1, shrinkage=0).fit(Ragged.of([[0, 1], [0, 1], [1, 2]]), n_items=3)
    >>> knn.scores(Ragged.of([[0]]))[0].tolist()  # n_01 / sqrt(n_0 n_1) = 2 / sqrt(2 * 3)
    [0.0, 0.8164..., 0.0]
    """

    def __init__(self, neighbours: int = 50, shrinkage: float = 10.0) -> None:
        if neighbours < 1 or shrinkage < 0:
            raise ConfigError(
                f"neighbours must be at least 1 and shrinkage at least 0, found {neighbours}, {shrinkage}"
            )
        self.neighbours = neighbours
        self.shrinkage = shrinkage

    def _fit(self, interactions: Ragged, times: Tensor | None) -> None:
        matrix = incidence(interactions, self.n_items)
        by_item = matrix.T.tocsr()
        norms = np.sqrt(np.diff(by_item.indptr).astype(np.float32))
        blocks = [
            self._nearest(by_item[start : start + ITEMS_AT_ONCE] @ matrix, start, norms)
            for start in range(0, self.n_items, ITEMS_AT_ONCE)
        ]
        candidates, neighbours, similarities = (np.concatenate(parts) for parts in zip(*blocks, strict=True))
        sparse = require("scipy.sparse", extra="baselines")
        shape = (self.n_items, self.n_items)
        self._similarity = sparse.csr_matrix((similarities, (neighbours, candidates)), shape=shape)

    def _nearest(
        self, together: Any, start: int, norms: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The strongest neighbours of a block of items, of their co-occurrences (block, N).

        Returns (candidate, neighbour, similarity), one entry per kept pair.
        """
        counts = together.tocoo()
        candidate, neighbour = counts.row + start, counts.col
        similarity = counts.data / (norms[candidate] * norms[neighbour] + self.shrinkage)
        other = np.flatnonzero(candidate != neighbour)
        order = other[np.lexsort((neighbour[other], -similarity[other], candidate[other]))]
        first = np.searchsorted(candidate[order], candidate[order])  # where the candidate's entries begin
        kept = order[np.arange(len(order)) - first < self.neighbours]
        return candidate[kept], neighbour[kept], similarity[kept]

    def _scores(self, history: Ragged) -> Tensor:
        return torch.from_numpy((incidence(history, self.n_items) @ self._similarity).toarray())

    def _found(self, history: Ragged, scores: Tensor) -> Tensor:
        return scores.masked_fill(scores == 0, -torch.inf)  # no neighbour in the history

    def _state(self) -> dict[str, Tensor]:
        kept = self._similarity
        return {name: torch.from_numpy(getattr(kept, name)) for name in ("data", "indices", "indptr")}

    def _shapes(self, n_items: int) -> dict[str, tuple[int | None, ...]]:
        return {"data": (None,), "indices": (None,), "indptr": (n_items + 1,)}

    def _restore(self, n_items: int, state: Mapping[str, Tensor]) -> None:
        sparse = require("scipy.sparse", extra="baselines")
        parts = tuple(state[name].numpy() for name in ("data", "indices", "indptr"))
        try:
            matrix = sparse.csr_matrix(parts, shape=(n_items, n_items))
            matrix.check_format(full_check=True)  # its products do not look whether an index is in range
        except ValueError as error:
            raise MismatchError(
                f"these are no similarities of {n_items} items ({error}); fit ItemKNN again"
            ) from None
        self._similarity = matrix
