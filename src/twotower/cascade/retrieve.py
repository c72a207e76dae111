"""The first stage: from the whole catalogue to a few hundred candidates."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from twotower.cascade.stage import Request, Stage, no_candidates, rank_pair
from twotower.errors import ConfigError, MismatchError
from twotower.index.base import Index
from twotower.index.filtered import search_allowed, search_wider
from twotower.index.manifest import maker
from twotower.index.scoring import score_keys
from twotower.models.base import Model
from twotower.types import Candidates, Ragged


class Retrieve(Stage):
    """The query tower and an index over the item vectors, or item tokens, of the same model."""

    def __init__(self, model: Model, index: Index, k: int = 500, name: str = "retrieve") -> None:
        tensor = model.searched()
        if tensor is None:
            raise ConfigError(
                f"a dot model retrieves, or a late one that is MaxSim over tokens; {type(model).__name__} is "
                f"{model.kind!r}: let it rank what another model retrieves"
            )
        if model.pair_fields:
            raise ConfigError(
                f"{type(model).__name__} reads the pair fields {list(model.pair_fields)}, which only stages "
                "before it know: let it rank what another model retrieves"
            )
        if maker(index.produced_by) != model.item_digest():
            raise MismatchError(
                f"the index was built by model {index.produced_by}, "
                f"this one is {model.item_digest()}; rebuild the index"
            )
        super().__init__(name, k)
        self.model, self.index, self.tensor = model.eval(), index, tensor

    @torch.inference_mode()
    def run(self, request: Request, candidates: Candidates | None, k: int) -> Candidates:
        if not k or not len(request):
            return rank_pair(self.name, no_candidates(len(request)))
        vectors = request.encoded(self.model)[self.tensor]
        found = search_allowed(self.index, vectors, k, request.allow, request.exclude)
        return rank_pair(self.name, found)

    @torch.inference_mode()
    def scores_of(self, request: Request, keys: Tensor) -> Tensor | None:
        """Scores (Q, K) of any items, keys (Q, K), by the vectors of the index; 0 for those not in it."""
        return score_keys(self.index, request.encoded(self.model)[self.tensor], keys)

    @property
    def bytes_per_item(self) -> float:
        return self.index.bytes_per_item


class Source(Protocol):
    """Anything that answers a history of items with items: every baseline does."""

    def search(self, history: Ragged, k: int, exclude: Ragged | None) -> Candidates: ...


class RetrieveFrom(Stage):
    """Candidates from a source that knows items only (popularity, ItemKNN, EASE, ...)."""

    def __init__(self, source: Source, k: int = 500, name: str = "retrieve") -> None:
        super().__init__(name, k)
        self.source = source

    def run(self, request: Request, candidates: Candidates | None, k: int) -> Candidates:
        if request.history is None:
            raise ConfigError(f"stage {self.name!r} retrieves from histories, and the request has none")
        if not k or not len(request):
            return rank_pair(self.name, no_candidates(len(request)))
        return rank_pair(self.name, self._search(request.history, request.exclude, request.allow, k))

    def _search(self, history: Ragged, exclude: Ragged | None, allow: Tensor | None, k: int) -> Candidates:
        if allow is None:
            return self.source.search(history, k, exclude)

        def search(rows: Tensor, n: int) -> Candidates:
            return self.source.search(history.take(rows), n, None if exclude is None else exclude.take(rows))

        return search_wider(search, len(history), k, allow)

    @property
    def bytes_per_item(self) -> float:
        return 0
