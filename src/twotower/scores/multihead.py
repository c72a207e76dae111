"""Several vectors a side: every head of the query takes the head of the item that suits it best."""

from __future__ import annotations

from torch import Tensor

from twotower.scores.base import apply_mask, is_own
from twotower.scores.maxsim import maxsim

HELD = 1 << 24
"""Inner products of shared items held at once (64 MiB); of more, `maxsim` takes the largest in blocks."""


def multihead(query: Tensor, item: Tensor, mask: Tensor | None = None) -> Tensor:
    """Sum over the query's heads of the largest inner product with any of the item's heads.

    Query (Q, G, D) with shared (C, H, D) -> (Q, C), or own (Q, K, H, D) -> (Q, K) items; G and H may differ.
    IntTower's FE-Block (Li et al., CIKM 2022), with the heads of all its layers side by side in G; over
    tokens in place of heads it is the MaxSim of ColBERT. Memory is Q x C x G x H floats, of shared items at
    most `HELD` and a place of each largest one.

    >>> import torch
    >>> query = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
    >>> multihead(query, torch.tensor([[[5.0, -1.0], [2.0, 3.0], [0.0, 0.0]]]))  # 5 + 3
    tensor([[8.]])
    """
    own = is_own(query, item)
    (Q, G, _), H = query.shape, item.shape[-2]
    if own:
        inner = item.flatten(1, 2) @ query.transpose(1, 2)  # (Q, K * H, G)
        return apply_mask(inner.view(Q, item.shape[1], H, G).amax(2).sum(-1), mask)
    if Q * G * len(item) * H > HELD:
        return maxsim(query, item, mask)
    inner = query.flatten(0, 1) @ item.flatten(0, 1).T  # (Q * G, C * H)
    return apply_mask(inner.view(Q, G, len(item), H).amax(-1).sum(1), mask)
