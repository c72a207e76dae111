"""The second order of factorisation machines (Rendle, ICDM 2010, eq. 1 and lemma 3.1), split by sides.

    sum_{i < j} <v_i, v_j> = (|sum_i v_i|^2 - sum_i |v_i|^2) / 2

Over the fields of two sides it is the sum within each side and the inner product of their two sums.

Letters: F fields, E embedding.
"""

from __future__ import annotations

from torch import Tensor


def within(fields: Tensor) -> tuple[Tensor, Tensor]:
    """(..., F, E) -> the sum of the field vectors (..., E), and their inner products summed, (...).

    >>> import torch
    >>> total, products = within(torch.tensor([[1.0, 0.0], [2.0, 1.0], [0.0, 3.0]]))
    >>> total.tolist(), products.item()  # <1,2> + <1,3> + <2,3> = 2 + 0 + 3
    ([3.0, 4.0], 5.0)
    """
    total = fields.sum(-2)
    return total, (total.square().sum(-1) - fields.square().sum((-2, -1))) / 2
