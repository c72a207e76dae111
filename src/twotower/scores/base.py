"""What every scorer promises, and the one rule about masks.

Q queries, C shared candidates, K own candidates of a query. A representation of an entity has r trailing
axes: 1 for a vector (D,), 2 for several vectors (H, D).
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from twotower.errors import ConfigError


class Scorer(Protocol):
    """Scores queries against candidates, higher is better.

    ``item`` with one more axis than a representation has is shared, with two more it is own. ``mask`` is
    true where there is a candidate; elsewhere the score is minus infinity. No candidate's score depends on
    another candidate.
    """

    def __call__(self, query: Tensor, item: Tensor, mask: Tensor | None = None) -> Tensor:
        """(Q, ...) and (C, ...) give (Q, C); (Q, ...) and (Q, K, ...) give (Q, K)."""
        ...


def is_own(query: Tensor, item: Tensor) -> bool:
    """Whether the candidates are own, (Q, K, ...), rather than shared, (C, ...).

    Raises
    ------
    ConfigError
        The shapes fit neither layout.
    """
    own = item.dim() == query.dim() + 1
    if not own and item.dim() != query.dim():
        raise ConfigError(f"query {tuple(query.shape)} and item {tuple(item.shape)}: neither shared nor own")
    if own and len(item) != len(query):
        raise ConfigError(
            f"own candidates of {len(item)} queries were given for {len(query)} queries: "
            f"query {tuple(query.shape)}, item {tuple(item.shape)}"
        )
    if item.shape[-1] != query.shape[-1]:
        raise ConfigError(f"vectors of length {query.shape[-1]} and {item.shape[-1]} do not meet")
    return own


def apply_mask(scores: Tensor, mask: Tensor | None) -> Tensor:
    """Minus infinity where the mask, broadcast to the scores, is false.

    >>> apply_mask(torch.tensor([[-5.0, -1.0]]), torch.tensor([True, False]))
    tensor([[-5., -inf]])
    """
    return scores if mask is None else scores.masked_fill(~mask, -torch.inf)
