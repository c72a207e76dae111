"""Exact MaxSim over items of many vectors each: the oracle of the multi-vector index, and the default.

Letters: Q queries of L tokens, C items, N tokens of all of them, D vector length.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch
from torch import Tensor

from twotower.errors import StorageError
from twotower.index.manifest import open_artefact, publish, write_tensor
from twotower.index.token_set import checked, checked_query
from twotower.index.vectors import Keyed
from twotower.scores.catalogue import top_k_of
from twotower.scores.maxsim import maxsim_packed
from twotower.types import Candidates, Ragged

KIND = "exact multi-vector index"
QUERIES_AT_ONCE = 32
"""So that many tokens of items meet them in one matrix product."""


@dataclass(frozen=True)
class Tokens(Keyed):
    """The tokens of C items, sorted by key."""

    keys: Tensor  # (C,) int64, rising
    rows: Ragged  # (N, D) float32

    def take(self, positions: Tensor) -> Ragged:
        """Those of chosen items."""
        return self.rows.take(positions)

    def part(self, start: int, stop: int) -> Ragged:
        """Those of the items at positions start .. stop-1; a view."""
        offsets = self.rows.offsets[start : stop + 1]
        return Ragged(self.rows.values[int(offsets[0]) : int(offsets[-1])], offsets - offsets[0])


class ExactTokens:
    """All items are scored by all their tokens.

    A query is (L, D), padded with zero vectors, which add nothing; an item without tokens is never found.

    >>> tokens = Ragged(torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]), torch.tensor([0, 2, 2, 3]))
    >>> index = ExactTokens.build(tokens)
    >>> index.search(torch.tensor([[[2.0, 0.0], [0.0, 3.0]]]), k=3)
    Candidates(keys=tensor([[ 0,  2, -1]]), scores=tensor([[5., 5., -inf]]), pair={})
    """

    exact = True

    def __init__(self, vectors: Tokens, produced_by: str = "") -> None:
        self.vectors = vectors
        self.produced_by = produced_by

    @classmethod
    def build(cls, tokens: Ragged | Tensor, keys: Tensor | None = None, produced_by: str = "") -> Self:
        """An index of C items with ``tokens`` (N, D), or of one token each, (C, D), and ``keys`` (C,), by
        default 0 .. C-1; errors as `twotower.index.token_set.checked`."""
        rows, keys = checked(tokens, keys)
        values = rows.values.to(torch.float32).contiguous()
        return cls(Tokens(keys.contiguous(), Ragged(values, rows.offsets.contiguous())), produced_by)

    def changed(self, gone: Tensor, fresh: Ragged, keys: Tensor) -> Self:
        """An index without the items of keys ``gone``, and with ``fresh`` ones."""
        stay = torch.ones(len(self), dtype=torch.bool)
        stay[self.vectors.positions(gone)] = False
        old = self.vectors.rows.take(stay.nonzero()[:, 0])
        lengths = torch.cat([old.lengths, fresh.lengths])
        offsets = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
        both = Ragged(torch.cat([old.values, fresh.values.float()]), offsets)
        return type(self).build(both, torch.cat([self.vectors.keys[stay], keys]), self.produced_by)

    def __len__(self) -> int:
        return len(self.vectors)

    @property
    def dim(self) -> int:
        return self.vectors.rows.values.shape[1]

    @property
    def bytes_per_item(self) -> float:
        """Mean over the items."""
        rows = self.vectors.rows
        tensors = (self.vectors.keys, rows.offsets, rows.values)
        return sum(t.numel() * t.element_size() for t in tensors) / max(1, len(self))

    def checked_query(self, query: Tensor, k: int) -> Tensor:
        """The query as (Q, L, D) float32 on the CPU; see `twotower.index.token_set.checked_query`."""
        return checked_query(query, k, self.dim)

    def search(self, query: Tensor, k: int, exclude: Ragged | None = None) -> Candidates:
        """The k best items of each query (Q, L, D), as `twotower.index.base.Index.search`; (Q, D) is queries
        of one token."""
        query = self.checked_query(query, k)
        excluded = self.vectors.excluded(exclude, len(query))
        found = [
            self._search(query[rows], k, None if excluded is None else excluded.take(rows))
            for rows in torch.split(torch.arange(len(query)), QUERIES_AT_ONCE)
        ]
        positions = torch.cat([each.keys for each in found])
        return Candidates(self.vectors.keys_at(positions), torch.cat([each.scores for each in found]))

    def _search(self, query: Tensor, k: int, excluded: Ragged | None) -> Candidates:
        def score(start: int, stop: int) -> Tensor:
            return maxsim_packed(query, self.vectors.part(start, stop))

        return top_k_of(score, len(query), len(self), k, exclude=excluded, fresh=True)

    # -- on disk ---------------------------------------------------------------------------------------

    def save(self, directory: str | Path) -> None:
        rows = self.vectors.rows
        about = {"rows": len(self), "tokens": len(rows.values), "dim": self.dim}
        with publish(directory, kind=KIND, produced_by=self.produced_by, about=about) as draft:
            write_tensor(draft / "keys.bin", self.vectors.keys)
            write_tensor(draft / "offsets.bin", rows.offsets)
            write_tensor(draft / "vectors.bin", rows.values)

    @classmethod
    def load(cls, directory: str | Path, expect: str | None = None, *, verify: bool = True) -> Self:
        """Map a saved index into memory; checked as `twotower.index.manifest.open_artefact` says."""
        artefact = open_artefact(directory, KIND, expect, verify)
        try:
            C, N, D = (int(artefact.about[name]) for name in ("rows", "tokens", "dim"))
        except (KeyError, TypeError, ValueError) as error:
            raise StorageError(f"{directory}: the manifest lacks its sizes: {error!r}") from None
        rows = Ragged(
            artefact.tensor("vectors.bin", (N, D), "float32"),
            artefact.tensor("offsets.bin", (C + 1,), "int64"),
        )
        return cls(Tokens(artefact.tensor("keys.bin", (C,), "int64"), rows), artefact.produced_by)

    def __repr__(self) -> str:
        rows = self.vectors.rows
        return f"ExactTokens({len(self):,} items of {len(rows.values):,} tokens with {self.dim} floats)"
