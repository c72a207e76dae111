"""The base of every objective: what a model learns from a batch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

from torch import Tensor

from twotower.data.batches import Examples
from twotower.models.base import Model
from twotower.types import NO_ITEM, Batch, Rep


class Objective(ABC):
    """Base: holds the encoded items; a call gives named losses whose sum is minimised."""

    def __init__(self, items: Batch) -> None:
        self.items = items  # (N, ...) by item key

    @abstractmethod
    def __call__(self, model: Model, examples: Examples) -> dict[str, Tensor]: ...

    def penalties(
        self,
        model: Model,
        query: Rep,
        item: Rep,
        labels: Callable[[], Tensor],
        mask: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """The model's own auxiliary losses; labels are made only for a model that has some."""
        has_some = type(model).penalties is not Model.penalties
        return model.penalties(query, item, labels(), mask) if has_some else {}

    def state_dict(self) -> dict[str, Tensor]:
        """What a resumed run must know; tensors only."""
        return {}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        assert not state, sorted(state)

    def encode(self, model: Model, keys: Tensor) -> Rep:
        """Item reps for keys of any shape, on the model's device; the features stay where they are."""
        return model.encode_item(self.items.take(keys.cpu()).to(keys.device))

    def encode_lists(self, model: Model, keys: Tensor) -> Rep:
        """As `encode`, for lists (B, K) with gaps: zeros, which no statistic of a batch counts."""
        real = keys != NO_ITEM
        if not real.any():
            return self.encode(model, keys.clamp(min=0))
        rep = self.encode(model, keys[real])  # (n, ...)
        return Rep(
            {name: t.new_zeros(*keys.shape, *t.shape[1:]).index_put((real,), t) for name, t in rep.items()}
        )
