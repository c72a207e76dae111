"""How much of the truth an index finds: the number without which no approximate index is chosen."""

from __future__ import annotations

from torch import Tensor

from twotower.errors import ConfigError
from twotower.index.base import Index


def recall(index: Index, exact: Index, query: Tensor, k: int) -> float:
    """Share of the true best k that ``index`` returns, over all queries: real ones, held out, (Q, D).

    >>> import torch
    >>> from twotower.index.exact import ExactIndex
    >>> truth = ExactIndex.build(torch.eye(4))
    >>> half = ExactIndex.build(torch.eye(4)[:2])
    >>> recall(half, truth, torch.tensor([[4.0, 3.0, 2.0, 1.0], [1.0, 2.0, 3.0, 4.0]]), k=2)
    0.5
    """
    if not exact.exact:
        raise ConfigError("recall is measured against an exact index")
    found, truth = index.search(query, k), exact.search(query, k)
    hit = (found.keys[:, :, None] == truth.keys[:, None, :]).any(1) & truth.mask
    return float(hit.sum() / truth.mask.sum().clamp(min=1))
