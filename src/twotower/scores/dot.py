"""Inner product and cosine: the scores an index can search. Q queries, C or K candidates, D vector length."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from twotower.scores.base import apply_mask, is_own


def dot(query: Tensor, item: Tensor, mask: Tensor | None = None) -> Tensor:
    """Inner product of query (Q, D) with shared (C, D) -> (Q, C) or own (Q, K, D) -> (Q, K) items.

    >>> import torch
    >>> query = torch.tensor([[1.0, 0.0], [0.0, -1.0]])
    >>> dot(query, torch.tensor([[2.0, 3.0], [4.0, 5.0]]))
    tensor([[ 2.,  4.],
            [-3., -5.]])
    """
    if is_own(query, item):
        scores = (item @ query[:, :, None]).squeeze(2)
    else:
        scores = query @ item.T
    return apply_mask(scores, mask)


def cosine(
    query: Tensor, item: Tensor, mask: Tensor | None = None, temperature: float | Tensor = 1.0
) -> Tensor:
    """Cosine of the angle between query and item, over the temperature; 0 where a vector is zero.

    Shapes as `dot`. To store normalised vectors instead, normalise both sides and score with `dot`.

    >>> import torch
    >>> cosine(torch.tensor([[3.0, 0.0]]), torch.tensor([[5.0, 0.0], [0.0, 0.0]]), temperature=0.5)
    tensor([[2., 0.]])
    """
    return dot(F.normalize(query, dim=-1) / temperature, F.normalize(item, dim=-1), mask)
