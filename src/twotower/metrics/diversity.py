"""How much of different things a list shows.

Shape letters: Q queries, K candidates of one query, N items of the catalogue, D vector length, W width of a
bag. Lists are keys (Q, K), best first, -1 for an empty slot; ``k`` cuts them. Values are (Q,) float64, NaN
where a list is too short to say; `twotower.metrics.ranking.average` leaves those out.
"""

from __future__ import annotations

import torch
from torch import Tensor

from twotower.errors import DataError
from twotower.types import NO_ITEM, PAD, UNKNOWN


def intra_list_distance(keys: Tensor, vectors: Tensor, k: int) -> Tensor:
    """ILD@k: mean of 1 - cosine over all pairs of the first k items, NaN for fewer than two.

    After Smyth and McClave (ICCBR 2001), on item vectors (N, D); 0 = all alike, 1 = at right angles. An item
    with a vector of zeros is at right angles to all. The sum over pairs is (|sum u|^2 - sum |u|^2) / 2 for
    unit vectors u, so no pair is ever looked at.

    >>> vectors = torch.tensor([[1.0, 0.0], [3.0, 0.0], [0.0, 2.0]])
    >>> intra_list_distance(torch.tensor([[0, 1, -1], [0, 2, -1], [0, -1, -1]]), vectors, k=3).tolist()
    [0.0, 1.0, nan]
    """
    shown, real = _shown(keys, len(vectors), k)
    taken = vectors.to(keys.device)[shown].double()
    norm: Tensor = torch.linalg.vector_norm(taken, dim=-1, keepdim=True)
    unit = taken / norm.clamp_min(torch.finfo(torch.float64).tiny)
    unit = unit.masked_fill(~real[..., None], 0)
    pairs_twice = unit.sum(1).square().sum(1) - unit.square().sum((1, 2))
    n = real.sum(1).double()
    distance: Tensor = 1 - pairs_twice / (n * (n - 1))
    return distance.masked_fill(n < 2, torch.nan)


def distinct_values(keys: Tensor, codes: Tensor, k: int) -> Tensor:
    """How many different values (categories, brands, tags) the first k items show; NaN for an empty list.

    ``codes`` (N,) or (N, W) are vocabulary indices; padding and unknown values are not counted.

    >>> category = torch.tensor([2, 2, 3, 1])
    >>> distinct_values(torch.tensor([[0, 1, 2], [0, 1, 3], [-1, -1, -1]]), category, k=3).tolist()
    [2.0, 1.0, nan]
    """
    rows, _, real = _occurrences(keys, codes, k)
    distinct = torch.bincount(rows, minlength=len(real)).double()
    return distinct.masked_fill(~real, torch.nan)


def value_entropy(keys: Tensor, codes: Tensor, k: int) -> Tensor:
    """Entropy in bits of the values that the first k items show; NaN for an empty list, 0 without values.

    0 = one value only, log2(n) = n values, all equally often. ``codes`` as for `distinct_values`.

    >>> category = torch.tensor([2, 2, 3, 4])
    >>> value_entropy(torch.tensor([[0, 1], [0, 2], [-1, -1]]), category, k=2).tolist()
    [0.0, 1.0, nan]
    """
    rows, counts, real = _occurrences(keys, codes, k)
    counts = counts.double()
    total = counts.new_zeros(len(real)).index_add(0, rows, counts)
    share = counts / total[rows]
    entropy = total.new_zeros(len(real)).index_add(0, rows, -share * share.log2())
    return entropy.masked_fill(~real, torch.nan).abs()  # -1 * log2(1) is a negative zero


def _occurrences(keys: Tensor, codes: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
    """Of every value of a list: the list's row, how often it occurs. Also which lists hold an item, (Q,)."""
    shown, real = _shown(keys, len(codes), k)
    found = codes.to(keys.device)[:, None].flatten(1)[shown]  # (Q, k, W)
    found = found.masked_fill(~real[..., None], PAD).flatten(1)
    row, place = (found > UNKNOWN).nonzero(as_tuple=True)
    size = int(found.max()) + 1 if found.numel() else 1
    pair, counts = torch.unique(row * size + found[row, place], return_counts=True)
    return pair // size, counts, real.any(1)


def _shown(keys: Tensor, n_items: int, k: int) -> tuple[Tensor, Tensor]:
    """The first k keys, 0 in empty slots, and where there is an item."""
    shown = keys[:, :k]
    real = shown != NO_ITEM
    if bool((shown[real] < 0).any()) or bool((shown >= n_items).any()):
        low, high = int(shown.min()), int(shown.max())
        raise DataError(f"keys {low} to {high} reach outside the catalogue of {n_items} items")
    return shown.masked_fill(~real, 0), real
