"""Dynamic max pooling (Socher et al., NIPS 2011; MatchPyramid, Pang et al., AAAI 2016, eq. 6): images of any
size become grids of one size.

Letters: N images, F channels, A and L rows and columns, P and R those of the grid.
"""

from __future__ import annotations

import torch
from torch import Tensor


def dynamic_max_pool(images: Tensor, rows: Tensor, columns: Tensor, grid: tuple[int, int]) -> Tensor:
    """(N, F, A, L) -> (N, F, P, R): image n is its upper left ``rows[n]`` x ``columns[n]``, the rest padding.

    Cell (p, r) is the maximum over rows floor(p a / P) to ceil((p + 1) a / P) and the like of columns, so
    cells overlap by one where the lengths do not divide, and repeat where there are fewer places than cells.
    An image without a row or column gives zeros.

    >>> image = torch.arange(6.0).view(1, 1, 2, 3)
    >>> dynamic_max_pool(image, torch.tensor([2]), torch.tensor([2]), (1, 2))
    tensor([[[[3., 4.]]]])
    """
    across = _pool(images, columns, grid[1])
    pooled = _pool(across.transpose(-1, -2), rows, grid[0]).transpose(-1, -2)
    empty = (rows == 0) | (columns == 0)
    return pooled.masked_fill(empty[:, None, None, None], 0.0)


def _pool(images: Tensor, length: Tensor, cells: int) -> Tensor:
    """(N, F, A, L) -> (N, F, A, cells): the last axis alone."""
    N, F, A, L = images.shape
    cell = torch.arange(cells, device=length.device)
    start = cell * length[:, None] // cells
    last = ((cell + 1) * length[:, None] + cells - 1) // cells - 1
    wide = (L + cells - 1) // cells + 1  # no cell is wider
    at = torch.minimum(
        start.unsqueeze(-1) + torch.arange(wide, device=length.device), last.unsqueeze(-1)
    )  # (N, cells, wide): narrower cells repeat their last place
    at = at.clamp(min=0).view(N, 1, 1, cells * wide).expand(N, F, A, -1)
    return images.gather(-1, at).view(N, F, A, cells, wide).amax(-1)
