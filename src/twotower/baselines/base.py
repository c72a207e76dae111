"""What every baseline promises, and the search they share.

Shape letters: Q queries, N items of the catalogue at fit time, K results.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from functools import partial
from typing import Self

import torch
from torch import Tensor

from twotower.errors import ConfigError, DataError, MismatchError
from twotower.scores.catalogue import top_k_of
from twotower.types import Candidates, Ragged

SCORES_AT_ONCE = 1 << 23  # 32 MB of float32


class Baseline(ABC):
    """Learns from who interacted with what; scores every item for a query by the query's history.

    Nothing is known of a query but its history, so queries that were not there at fit time are served like
    all others. Items that were not there at fit time (and `NO_ITEM`) say nothing in a history and are never
    returned.
    """

    n_items: int = 0

    def fit(self, interactions: Ragged, n_items: int, times: Tensor | None = None) -> Self:
        """Learn from the training range.

        Parameters
        ----------
        interactions
            Keys of the items each query interacted with before the cut; repetitions are allowed.
        n_items
            Size N of the catalogue; keys are 0 .. N-1.
        times
            Seconds, one per value of ``interactions``; only what looks at the clock needs them.

        Raises
        ------
        DataError
            A key outside the catalogue, or not a single interaction.
        """
        if len(interactions.values) == 0:
            raise DataError("there is no interaction to learn from", remedy="check the split and the label")
        low, high = int(interactions.values.min()), int(interactions.values.max())
        if low < 0 or high >= n_items:
            raise DataError(f"item keys {low} to {high} do not lie in a catalogue of {n_items} items")
        if times is not None and times.shape != interactions.values.shape:
            raise ConfigError(
                f"{len(interactions.values)} interactions, but times of shape {tuple(times.shape)}"
            )
        self.n_items = n_items
        self._fit(interactions, times)
        return self

    def state(self) -> dict[str, Tensor]:
        """What was learned, as contiguous tensors for a file to keep, not copied; without the options."""
        self._check_fitted()
        return self._state()

    def restore(self, n_items: int, state: Mapping[str, Tensor]) -> Self:
        """Take up the `state` of a baseline with the same options: its scores, bit for bit.

        >>> from twotower.baselines.popularity import Popularity
        >>> fitted = Popularity().fit(Ragged.of([[0, 1], [1]]), n_items=3)
        >>> Popularity().restore(3, fitted.state()).scores(Ragged.of([[]])).tolist()
        [[1.0, 2.0, 0.0]]

        Raises
        ------
        MismatchError
            The state is of another baseline, other options or another catalogue, or makes no sense.
        """
        expected = self._shapes(n_items)
        found = {name: tuple(tensor.shape) for name, tensor in state.items()}
        if found.keys() != expected.keys() or any(
            len(found[name]) != len(shape)
            or any(n not in (None, size) for n, size in zip(shape, found[name], strict=True))
            for name, shape in expected.items()
        ):
            raise MismatchError(
                f"{type(self).__name__} for {n_items} items is kept as {expected} (None: any size), found "
                f"{found}; give the options and the catalogue it was fitted with, or fit it again"
            )
        self._restore(n_items, state)
        self.n_items = n_items
        return self

    def scores(self, history: Ragged) -> Tensor:
        """Score of every item for every query, (Q, N) float32; seen items are not masked."""
        self._check_fitted()
        return self._scores(self._known(history))

    def search(self, history: Ragged, k: int, exclude: Ragged | None = None) -> Candidates:
        """The k best items for each history, (Q, k), best first, ties by smaller key.

        An item that nothing speaks for is not found, so a list may end before k: with a history of no known
        item, popularity alone finds anything. ``exclude`` holds keys per query that must not come back, such
        as those of the history itself.
        """
        if exclude is not None and len(exclude) != len(history):
            raise ConfigError(f"exclude has {len(exclude)} rows for {len(history)} histories")
        step = max(1, SCORES_AT_ONCE // max(1, self.n_items))
        self._check_fitted()
        found = []
        for start in range(0, max(1, len(history)), step):
            rows = torch.arange(start, min(start + step, len(history)))
            own = self._known(history.take(rows))
            scores = self._found(own, self._scores(own))
            gone = None if exclude is None else exclude.take(rows)
            found.append(top_k_of(partial(_columns, scores), len(rows), self.n_items, k, exclude=gone))
        return Candidates(torch.cat([c.keys for c in found]), torch.cat([c.scores for c in found]))

    def _known(self, history: Ragged) -> Ragged:
        """The histories without what was not there at fit time."""
        known = (history.values >= 0) & (history.values < self.n_items)
        kept = torch.bincount(history.row_of_value()[known], minlength=len(history))
        return Ragged(history.values[known], torch.cat([kept.new_zeros(1), kept.cumsum(0)]))

    def _found(self, history: Ragged, scores: Tensor) -> Tensor:
        """The scores (Q, N), minus infinity where nothing speaks for the item: without a known history."""
        return scores.masked_fill((history.lengths == 0)[:, None], -torch.inf)

    def _check_fitted(self) -> None:
        if self.n_items == 0:
            raise ConfigError(f"{type(self).__name__} has learned nothing yet: call fit first")

    @abstractmethod
    def _fit(self, interactions: Ragged, times: Tensor | None) -> None: ...

    @abstractmethod
    def _scores(self, history: Ragged) -> Tensor: ...

    @abstractmethod
    def _state(self) -> dict[str, Tensor]: ...

    @abstractmethod
    def _shapes(self, n_items: int) -> dict[str, tuple[int | None, ...]]:
        """Name and shape of every tensor of the state; None for a size that depends on what was learned."""

    @abstractmethod
    def _restore(self, n_items: int, state: Mapping[str, Tensor]) -> None:
        """Names and shapes have been checked."""


def _columns(scores: Tensor, start: int, stop: int) -> Tensor:
    return scores[:, start:stop]
