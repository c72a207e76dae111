"""What the trainer asks of batches; it never learns what is in them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol, Self, TypeVar

import torch
from torch import nn


class Examples(Protocol):
    """One training batch. It may offer ``describe() -> str`` for error messages."""

    def __len__(self) -> int: ...
    def to(self, device: torch.device, /) -> Self: ...


M = TypeVar("M", bound=nn.Module)
E = TypeVar("E", bound=Examples)
E_co = TypeVar("E_co", bound=Examples, covariant=True)


class BatchSource(Protocol[E_co]):
    """Batches by epoch: the same ones for the same number, from any step on."""

    @property
    def steps_per_epoch(self) -> int | None: ...
    def epoch(self, number: int, start_step: int = 0) -> Iterator[E_co]: ...
