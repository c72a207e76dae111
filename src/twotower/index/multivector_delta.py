"""Items of many vectors that come, change and go."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol, Self

import torch
from torch import Tensor

from twotower.errors import MismatchError
from twotower.index.base import Index
from twotower.index.build import TokenIndex, load_index
from twotower.index.delta import Delta, State
from twotower.index.keyed_rows import KeyedRows
from twotower.index.ragged_rows import inside, packed, padded
from twotower.index.token_set import checked
from twotower.index.vectors import Keyed
from twotower.scores.catalogue import top_k_of
from twotower.scores.maxsim import maxsim
from twotower.types import Candidates, Ragged, Rep


class TokenBase(Index, Protocol):
    """An index of items of many vectors that can be made anew with others."""

    @property
    def vectors(self) -> Keyed: ...

    def checked_query(self, query: Tensor, k: int) -> Tensor: ...

    def changed(self, gone: Tensor, fresh: Ragged, keys: Tensor) -> Self:
        """Without the items of keys ``gone``, and with ``fresh`` ones."""
        ...


class MultiVectorDelta(Delta[TokenBase, Ragged]):
    """Items of many vectors over any index of such; what is new is scored exactly, and found always.

    `compact` of a `MultiVectorIndex` encodes what is new with the centroids there are, and leaves the old
    codes as they are; when the tokens have become twice those that the centroids were fitted on, all is built
    afresh.

    >>> from twotower.index.multivector import MultiVectorIndex
    >>> tokens = Ragged(torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]), torch.tensor([0, 2, 3]))
    >>> index = MultiVectorDelta(MultiVectorIndex.build(tokens))
    >>> index.upsert(torch.tensor([4]), Ragged(torch.tensor([[3.0, 3.0]]), torch.tensor([0, 1])))
    >>> index.delete(torch.tensor([0]))
    1
    >>> index.search(torch.tensor([[[2.0, 0.0], [0.0, 3.0]]]), k=3).keys.tolist()
    [[4, 1, -1]]
    """

    def prepared(self, keys: Tensor, vectors: Ragged) -> KeyedRows:
        if vectors.values.dim() == 2 and vectors.values.shape[1] != self.dim:
            raise MismatchError(
                f"vectors of {vectors.values.shape[1]} floats for an index of {self.dim}: was it built from "
                "another model?"
            )
        rows, keys = checked(vectors, keys)
        tokens, length = padded(rows, torch.arange(len(rows)), torch.float32)
        return KeyedRows(keys, Rep(tokens=tokens, tokens_length=length))

    def prepared_of(self, keys: Tensor, rep: Rep) -> KeyedRows:
        return self.prepared(keys, packed(rep["tokens"], rep["tokens_length"]))

    def _nothing(self, dim: int) -> Rep:
        return Rep(tokens=torch.empty(0, 0, dim), tokens_length=torch.empty(0, dtype=torch.int64))

    def search_fresh(self, fresh: KeyedRows, query: Tensor, k: int, exclude: Ragged | None) -> Candidates:
        base = self._state.base
        query = base.checked_query(query, k)
        banned = None
        if exclude is not None:
            position, row = fresh.positions(exclude.values), exclude.row_of_value()
            here = position >= 0
            counts = torch.bincount(row[here], minlength=len(exclude))
            banned = Ragged(position[here], torch.cat([counts.new_zeros(1), counts.cumsum(0)]))
        tokens, length = fresh.rep["tokens"], fresh.rep["tokens_length"]
        real = inside(length, tokens.shape[1])

        def score(start: int, stop: int) -> Tensor:
            return maxsim(query, tokens[start:stop], item_mask=real[start:stop])

        found = top_k_of(score, len(query), len(fresh), k, exclude=banned, fresh=True)
        keys = fresh.keys[found.keys.clamp(min=0)].masked_fill(~found.mask, -1)
        return Candidates(keys, found.scores)

    def _rebuilt(self, state: State[TokenBase]) -> TokenBase:
        fresh = packed(state.fresh.rep["tokens"], state.fresh.rep["tokens_length"])
        return state.base.changed(state.gone, fresh, state.fresh.keys)

    @classmethod
    def load(cls, directory: str | Path, expect: str | None = None, *, verify: bool = True) -> Self:
        """Over a saved index of whatever kind, with nothing changed yet."""
        base = load_index(directory, expect, verify=verify)
        if not isinstance(base, TokenIndex):
            raise MismatchError(f"{directory}: holds items of one vector; `DeltaIndex` loads it")
        return cls(base)
