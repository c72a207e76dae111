"""A stage that drops what may not be shown, and changes nothing else."""

from __future__ import annotations

import torch
from torch import Tensor

from twotower.cascade.stage import Request, Stage, rank_pair
from twotower.errors import ConfigError, MismatchError
from twotower.index.filtered import allowed_at
from twotower.types import NO_ITEM, Candidates, Ragged


class Filter(Stage):
    """Keeps candidates that the mask and the request allow and that the request does not exclude.

    Scores and order stay. ``allow`` (N,) bool by item key is what holds for every request, such as
    ``attributes.mask(predicate)``; None allows everything. What was dropped leaves the list shorter; within a
    `Cascade` nothing is, for the stages before it honour the same mask.
    """

    def __init__(self, allow: Tensor | None = None, k: int = 500, name: str = "filter") -> None:
        super().__init__(name, k)
        if allow is not None and (allow.dim() != 1 or allow.dtype != torch.bool):
            raise ConfigError(f"expected a mask (N,) bool, found {tuple(allow.shape)} {allow.dtype}")
        self.allow = allow

    def run(self, request: Request, candidates: Candidates | None, k: int) -> Candidates:
        if candidates is None:
            raise ConfigError(f"stage {self.name!r} filters candidates, but stands first; retrieve before it")
        keep = presentable(request, candidates.keys)
        if self.allow is not None:
            keep &= allowed(self.allow, candidates.keys)
        return rank_pair(self.name, only(candidates, keep).best(k))

    def fallback(self, request: Request, given: Candidates, k: int) -> Candidates:
        """Its own work: a look at a mask, and what it drops must not be shown, however late it is."""
        return self.run(request, given, k)

    @property
    def bytes_per_item(self) -> float:
        return 0 if self.allow is None else 1


def only(candidates: Candidates, keep: Tensor) -> Candidates:
    """The candidates where ``keep`` (Q, K) is true, in the same order; then empty slots."""
    keys = candidates.keys.masked_fill(~keep, NO_ITEM)
    return Candidates(keys, candidates.scores.masked_fill(~keep, -torch.inf), candidates.pair).sorted()


def presentable(request: Request, keys: Tensor) -> Tensor:
    """(Q, K) bool: which keys are items that the request allows and does not exclude."""
    keep = keys >= 0 if request.allow is None else allowed_at(request.allow, keys)
    if request.exclude is not None:
        keep &= ~contains(request.exclude, keys)
    return keep


def allowed(allow: Tensor, keys: Tensor) -> Tensor:
    """(Q, K) bool: what a stage's own mask (N,) says of keys (Q, K); false in empty slots.

    Raises
    ------
    MismatchError
        A key beyond the mask: the stage was made for other items.
    """
    size = len(allow)
    if keys.numel() and int(keys.max()) >= size:
        raise MismatchError(
            f"candidates hold the item key {int(keys.max())}, and the mask ends with {size - 1}: "
            "make it from the same item table as the index"
        )
    return allowed_at(allow, keys)


def both_allow(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    """What two masks allow, each (N,) or (Q, N) bool by item key; None allows everything.

    Items that one of them does not know are not allowed.
    """
    if a is None or b is None:
        return b if a is None else a
    size = min(a.shape[-1], b.shape[-1])
    return a[..., :size] & b[..., :size]


def contains(lists: Ragged, keys: Tensor) -> Tensor:
    """(Q, K) bool: whether list q holds the key; never true of an empty slot.

    >>> contains(Ragged.of([[5, 6], []]), torch.tensor([[6, 7], [6, -1]])).tolist()
    [[True, False], [False, False]]
    """
    if len(lists) != len(keys):
        raise MismatchError(f"{len(lists)} lists of excluded items were given for {len(keys)} queries")
    stride = 1 + int(max((t.max() for t in (keys, lists.values) if t.numel()), default=torch.tensor(0)))
    row = torch.arange(len(keys), device=keys.device)[:, None]
    real = lists.values >= 0
    held = lists.row_of_value()[real] * stride + lists.values[real]
    return torch.isin(row * stride + keys, held) & (keys >= 0)
