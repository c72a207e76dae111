"""Texts of one length beside each other: padding is cut off before it is computed.

Letters: N texts, L tokens.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from twotower.types import PAD


def lengths(tokens: Tensor) -> Tensor:
    """(N, L) tokens -> (N,) how many there are up to the last real one.

    >>> lengths(torch.tensor([[5, 3, 0], [0, 0, 0], [2, 2, 2]])).tolist()
    [2, 0, 3]
    """
    if tokens.shape[1] == 0:
        return tokens.new_zeros(len(tokens))
    place = torch.arange(1, tokens.shape[1] + 1, device=tokens.device)
    return ((tokens != PAD) * place).amax(1)


def trimmed(tokens: Tensor) -> Tensor:
    """(N, L') tokens without the columns in which all is padding; one is always left."""
    if tokens.shape[1] == 0:
        return tokens.new_full((len(tokens), 1), PAD)
    longest = int(lengths(tokens).max()) if len(tokens) else 0
    return tokens[:, : max(longest, 1)]


def micro_batches(length: Tensor, budget: int) -> Iterator[Tensor]:
    """Rows of texts of similar length, longest first: rows x the longest of them stays within ``budget``.

    ``length`` (N,) tokens of each text. A text longer than the budget comes alone.

    >>> [rows.tolist() for rows in micro_batches(torch.tensor([2, 9, 1, 8, 2]), budget=6)]
    [[1], [3], [0, 4, 2]]
    """
    falling, order = length.clamp(min=1).sort(descending=True, stable=True)
    start = 0
    while start < len(order):
        stop = start + max(budget // int(falling[start]), 1)
        yield order[start:stop]
        start = stop
