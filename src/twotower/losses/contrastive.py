"""Contrast of matching pairs with all other pairings of the batch. B matching pairs, D vector length."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from twotower.losses.softmax import sampled_softmax


def info_nce(
    query: Tensor,
    item: Tensor,
    *,
    temperature: float | Tensor = 0.1,
    item_keys: Tensor | None = None,
    seen: Tensor | None = None,
    weight: Tensor | None = None,
) -> Tensor:
    """Mean of -log(exp(cos(q_b, i_b) / tau) / sum over b' of exp(cos(q_b, i_b') / tau)) (van den Oord et al.
    2018, eq. 4, on normalised vectors).

    | input       | shape  | meaning                                                               |
    |-------------|--------|-----------------------------------------------------------------------|
    | query, item | (B, D) | row b of both is a matching pair; the other rows' items are negatives |
    | temperature | scalar | tau                                                                   |
    | item_keys   | (B,)   | keys or ids; the same item in another row is no negative              |
    | seen        | (B, B) | true where the row's user likes the column's item: no negative        |
    | weight      | (B,)   | weight of each pair in the mean, default 1                            |

    Negatives come as often as items are popular, and nothing corrects for it: a regulariser of
    representations. To learn what to retrieve take `twotower.losses.softmax.sampled_softmax` with log_q.
    No pair at all has loss 0. Holds (B, B).

    >>> import torch
    >>> same = torch.eye(2)
    >>> info_nce(same, same, temperature=1.0)  # log(1 + exp(-1))
    tensor(0.3133)
    """
    if len(query) == 0:
        return (query.sum() + item.sum()) * 0.0  # a part of the graph all the same
    cosine = F.normalize(query, dim=-1) @ F.normalize(item, dim=-1).T
    return sampled_softmax(cosine, temperature=temperature, item_keys=item_keys, seen=seen, weight=weight)
