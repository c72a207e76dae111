"""Who interacted with what, as a matrix of zeros and ones: (rows of a `Ragged`) x items."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from twotower.optional import require
from twotower.types import Ragged


def incidence(lists: Ragged, n_items: int) -> Any:
    """``scipy.sparse.csr_matrix`` (rows, N) float32 of ones; repetitions count once."""
    sparse = require("scipy.sparse", extra="baselines")
    ones = np.ones(len(lists.values), dtype=np.float32)
    matrix = sparse.csr_matrix(
        (ones, lists.values.numpy(), lists.offsets.numpy()), shape=(len(lists), n_items), copy=True
    )
    matrix.sum_duplicates()
    matrix.data[:] = 1
    return matrix


def co_occurrences(lists: Ragged, n_items: int) -> Any:
    """``scipy.sparse.csr_matrix`` (N, N): in how many rows items i and j stand together."""
    matrix = incidence(lists, n_items)
    return (matrix.T @ matrix).tocsr()


def multi_hot(lists: Ragged, n_items: int) -> Tensor:
    """(rows, N) dense float32 of zeros and ones.

    >>> multi_hot(Ragged.of([[2, 2], []]), 3).tolist()
    [[0.0, 0.0, 1.0], [0.0, 0.0, 0.0]]
    """
    out = torch.zeros(len(lists), n_items)
    out[lists.row_of_value(), lists.values] = 1
    return out
