"""Softmax over many items whose scores are no plain product: tile by tile, computed again on the way back.

T rows (targets), N items.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from twotower.losses.reduction import weighted_mean


def scored_softmax(
    score: Callable[[slice], Tensor], target: Tensor, tile_rows: int, weight: Tensor | None = None
) -> Tensor:
    """Cross entropy over the whole catalogue of what ``score`` says of some rows and all items.

    | input     | shape          | meaning                                        |
    |-----------|----------------|------------------------------------------------|
    | score     | rows -> (t, N) | scores of a slice of the T rows with all items |
    | target    | (T,)           | column of each row's positive                  |
    | tile_rows |                | rows whose scores are held at once             |
    | weight    | (T,)           | weight of each row in the mean, default 1      |

    Nothing of a tile is kept for the way back but what ``score`` was given: each is scored once more there.

    Relations: `twotower.losses.full_softmax.full_softmax` is the same of dot products, in one pass.

    >>> scores = torch.tensor([[2.0, 0.0], [0.0, 2.0]])
    >>> scored_softmax(lambda rows: scores[rows], torch.tensor([0, 1]), tile_rows=1)  # log(1 + exp(-2))
    tensor(0.1269)
    """

    def losses(rows: slice) -> Tensor:
        return functional.cross_entropy(score(rows).float(), target[rows], reduction="none")

    tiles = [slice(start, start + tile_rows) for start in range(0, max(1, len(target)), tile_rows)]
    each = [checkpoint(losses, rows, use_reentrant=False) for rows in tiles]
    return weighted_mean(torch.cat(each), weight)
