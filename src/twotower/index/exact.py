"""Brute force, blocked: the oracle of every other index, and the default."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from torch import Tensor

from twotower.index.manifest import open_artefact, publish
from twotower.index.vectors import Vectors
from twotower.scores.catalogue import top_k
from twotower.types import Candidates, Ragged

KIND = "exact index"


class ExactIndex:
    """All items are scored, a block at a time; ``memory_mb`` bounds the scores held at once.

    >>> import torch
    >>> index = ExactIndex.build(torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]))
    >>> index.search(torch.tensor([[2.0, 1.0]]), k=4, exclude=Ragged.of([[1]]))
    Candidates(keys=tensor([[ 2,  0, -1, -1]]), scores=tensor([[3., 2., -inf, -inf]]), pair={})
    """

    exact = True

    def __init__(self, vectors: Vectors, produced_by: str = "", *, memory_mb: float = 64) -> None:
        self.vectors = vectors
        self.produced_by = produced_by
        self.memory_mb = memory_mb

    @classmethod
    def build(
        cls, vectors: Tensor, keys: Tensor | None = None, produced_by: str = "", *, memory_mb: float = 64
    ) -> Self:
        """An index of ``vectors`` (C, D) with ``keys`` (C,), by default 0 .. C-1."""
        return cls(Vectors.of(vectors, keys), produced_by, memory_mb=memory_mb)

    def rebuilt(self, vectors: Tensor, keys: Tensor) -> Self:
        """An index of other vectors of the same model, made as this one was."""
        return type(self).build(vectors, keys, self.produced_by, memory_mb=self.memory_mb)

    def __len__(self) -> int:
        return len(self.vectors)

    @property
    def dim(self) -> int:
        return self.vectors.dim

    @property
    def bytes_per_item(self) -> float:
        return self.vectors.bytes_per_item

    def search(self, query: Tensor, k: int, exclude: Ragged | None = None) -> Candidates:
        """The k best items of each query, as `twotower.index.base.Index.search`."""
        query = self.vectors.checked_query(query, k)
        excluded = self.vectors.excluded(exclude, len(query))
        found = top_k(query, self.vectors.values, k, exclude=excluded, memory_mb=self.memory_mb)
        return Candidates(self.vectors.keys_at(found.keys), found.scores)

    def save(self, directory: str | Path) -> None:
        about = self.vectors.about
        with publish(directory, kind=KIND, produced_by=self.produced_by, about=about) as draft:
            self.vectors.write(draft)

    @classmethod
    def load(cls, directory: str | Path, expect: str | None = None, *, verify: bool = True) -> Self:
        """Map a saved index into memory; checked as `twotower.index.manifest.open_artefact` says."""
        artefact = open_artefact(directory, KIND, expect, verify)
        return cls(Vectors.read(artefact), artefact.produced_by)

    def __repr__(self) -> str:
        return f"ExactIndex({len(self):,} items of {self.dim} floats)"
