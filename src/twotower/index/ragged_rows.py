"""Tensors of items that have n rows each, padded and packed.

Letters: C items, N rows of all items together, L rows of the longest.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from twotower.types import Ragged, Rep


def inside(length: Tensor, width: int) -> Tensor:
    """(..., width) bool: which rows of a padded tensor are real.

    >>> inside(torch.tensor([2, 0]), 3).tolist()
    [[True, True, False], [False, False, False]]
    """
    return torch.arange(width, device=length.device) < length[..., None]


def packed(padded: Tensor, length: Tensor) -> Ragged:
    """(C, L, ...) -> the real rows of all items, one item after the other."""
    offsets = torch.cat([length.new_zeros(1), length.cumsum(0)])
    return Ragged(padded[inside(length, padded.shape[1])], offsets)


def padded(rows: Ragged, items: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Chosen items (...), -1 for none -> (..., L, ...) with zeros at the end, and their lengths (...).

    >>> rows = Ragged.of([[5, 6], [], [7]])
    >>> [t.tolist() for t in padded(rows, torch.tensor([[2, -1]]), torch.int64)]
    [[[[7], [0]]], [[1, 0]]]
    """
    flat = items.reshape(-1)
    lengths = torch.zeros_like(flat)
    there = flat >= 0
    lengths[there] = rows.lengths[flat[there]]
    width = int(lengths.max()) if len(flat) else 0
    shape = rows.values.shape[1:]
    if width == 0:
        out = torch.zeros(len(flat), 0, *shape, dtype=dtype)
    else:
        real = inside(lengths, width)
        at = (rows.offsets[flat.clamp(min=0)][:, None] + torch.arange(width)).masked_fill_(~real, 0)
        out = rows.values.index_select(0, at.view(-1)).to(dtype).view(len(flat), width, *shape)
        out.masked_fill_(~real.reshape(*real.shape, *[1] * len(shape)), 0)
    return out.view(*items.shape, width, *shape), lengths.view(items.shape)


def joined(reps: Sequence[Rep]) -> Rep:
    """Items of several representations behind each other; ragged ones as wide as the widest.

    >>> wide, narrow = Rep(x=torch.ones(1, 3)), Rep(x=torch.ones(1, 1))
    >>> joined([wide, narrow])["x"].tolist()
    [[1.0, 1.0, 1.0], [1.0, 0.0, 0.0]]
    """
    return Rep((name, torch.cat(alike([rep[name] for rep in reps]))) for name in reps[0])


def alike(tensors: Iterable[Tensor]) -> list[Tensor]:
    """With zeros behind their second axis, so that all are as wide as the widest.

    Only padded tensors of one name ever differ there: what is not ragged has one shape.
    """
    tensors = list(tensors)
    width = max((t.shape[1] for t in tensors if t.dim() > 1), default=0)
    return [resized(t, width) if t.dim() > 1 else t for t in tensors]


def resized(tensor: Tensor, width: int, axis: int = 1) -> Tensor:
    """Cut, or with zeros behind, so that ``axis`` is ``width`` long."""
    missing = width - tensor.shape[axis]
    if missing == 0:
        return tensor
    if missing < 0:
        return tensor.narrow(axis, 0, width)
    return functional.pad(tensor, [0, 0] * (tensor.dim() - 1 - axis) + [0, missing])
