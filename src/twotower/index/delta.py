"""Items that come, change and go over an index that cannot change.

Most structures of approximate search cannot delete, and some cannot grow. So the index stays as it was built
(the *base*); beside it stand the vectors of new and changed items, searched exactly, and the keys of the base
that hold no longer. Both are small, until `DeltaIndex.compact` makes a new base of all that is alive.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Generic, Protocol, Self, TypeVar

import torch
from torch import Tensor

from twotower.errors import ConfigError, MismatchError
from twotower.index.base import Index
from twotower.index.build import TokenIndex, load_index
from twotower.index.exact import ExactIndex
from twotower.index.keyed_rows import KeyedRows, find
from twotower.index.vectors import Keyed, Vectors
from twotower.types import NO_ITEM, Candidates, Ragged, Rep


class Base(Index, Protocol):
    """An index that knows which items it was built of."""

    @property
    def vectors(self) -> Keyed: ...


class VectorBase(Index, Protocol):
    """An index that keeps the vectors it was built of, and can be built again of others."""

    vectors: Vectors

    def rebuilt(self, vectors: Tensor, keys: Tensor) -> Self: ...


B = TypeVar("B", bound=Base)
V = TypeVar("V")
"""What vectors come as: a matrix, or lists of them."""


@dataclass(frozen=True)
class State(Generic[B]):
    """All that a search reads, replaced as a whole: no search ever sees half a change."""

    base: B
    fresh: KeyedRows  # new and changed items
    gone: Tensor  # (T,) int64, rising: items of the base that were deleted, or stand in ``fresh``

    def __len__(self) -> int:
        return len(self.base) - len(self.gone) + len(self.fresh)

    def has(self, keys: Tensor) -> Tensor:
        in_base = (self.base.vectors.positions(keys) >= 0) & (find(self.gone, keys) < 0)
        return in_base | (self.fresh.positions(keys) >= 0)

    def hiding(self, keys: Tensor) -> Tensor:
        """``gone`` and those of ``keys`` that the base has."""
        here = keys[self.base.vectors.positions(keys) >= 0]
        gone: Tensor = torch.unique(torch.cat([self.gone, here]))
        return gone


class Delta(ABC, Generic[B, V]):
    """An `Index` that takes additions, updates and deletions, over any base; they count at once.

    What an item is, one vector or many, subclasses know.
    """

    def __init__(self, base: B) -> None:
        none = torch.empty(0, dtype=torch.int64)
        self._state = State(base, KeyedRows(none, self._nothing(base.dim)), none)
        self._writing, self._compacting = Lock(), Lock()
        self.produced_by = base.produced_by

    @abstractmethod
    def prepared(self, keys: Tensor, vectors: V) -> KeyedRows:
        """What `upsert` would put, checked: for those who must know beforehand that `put` will not fail."""

    @abstractmethod
    def prepared_of(self, keys: Tensor, rep: Rep) -> KeyedRows:
        """`prepared`, of what a model's ``encode_item`` returned for these items (n, ...)."""

    @classmethod
    @abstractmethod
    def load(cls, directory: str | Path, expect: str | None = None, *, verify: bool = True) -> Self:
        """Over a saved index of whatever kind, with nothing changed yet."""

    @abstractmethod
    def _nothing(self, dim: int) -> Rep:
        """The representation of no item."""

    @abstractmethod
    def search_fresh(self, fresh: KeyedRows, query: Tensor, k: int, exclude: Ragged | None) -> Candidates:
        """The k best of the items beside the base, exactly."""

    @abstractmethod
    def _rebuilt(self, state: State[B]) -> B:
        """A base of all that is alive."""

    # -- changing --------------------------------------------------------------------------------------

    def add(self, keys: Tensor, vectors: V) -> None:
        """New items: keys (n,) and their vectors; as `upsert`, but a key that is there is a `ConfigError`."""
        rows = self.prepared(keys, vectors)
        with self._writing:
            there = self._state.has(rows.keys)
            if there.any():
                raise ConfigError(
                    f"{int(there.sum())} of {len(rows)} keys are in the index already, first "
                    f"{int(rows.keys[there][0])}; upsert replaces them"
                )
            self._put(rows)

    def upsert(self, keys: Tensor, vectors: V) -> None:
        """New or changed items: keys (n,) and their vectors.

        Raises
        ------
        ConfigError
            Not one vector per key, or keys are negative or occur twice.
        MismatchError
            The vectors have another length than those of the base.
        DataError
            A vector holds NaN or infinity.
        """
        self.put(self.prepared(keys, vectors))

    def put(self, rows: KeyedRows) -> None:
        """`upsert` what `prepared` returned."""
        with self._writing:
            self._put(rows)

    def _put(self, rows: KeyedRows) -> None:
        state = self._state
        self._state = State(state.base, state.fresh.updated(rows), state.hiding(rows.keys))

    def delete(self, keys: Tensor) -> int:
        """Take items out; returns how many were there, for a key that is not is no error."""
        keys = torch.unique(keys.to("cpu", torch.int64))
        with self._writing:
            state = self._state
            there = int(state.has(keys).sum())
            self._state = State(state.base, state.fresh.without(keys), state.hiding(keys))
        return there

    def compact(self) -> None:
        """Build a new base of all that is alive, then take the old one's place.

        Takes as long as building an index does, so it belongs into a thread of its own; searches and changes
        go on meanwhile, and what changes before it ends stays in the delta. If it fails, all is as before.
        """
        self._compacted()

    def _compacted(self) -> B:
        with self._compacting:
            before = self._state
            if not len(before.fresh) and not len(before.gone):
                return before.base
            base = self._rebuilt(before)
            with self._writing:
                now = self._state
                fresh = now.fresh.changed_since(before.fresh)
                # what the new base has and should not: deleted or changed while it was built
                left = now.gone[find(before.gone, now.gone) < 0]
                kept = now.fresh.without(fresh.keys)
                outdated = before.fresh.keys[kept.positions(before.fresh.keys) < 0]
                self._state = State(base, fresh, torch.unique(torch.cat([left, outdated])))
            return base

    # -- the index -------------------------------------------------------------------------------------

    def parts(self) -> State[B]:
        """The base, what is beside it and what is gone of it, of one moment."""
        return self._state

    def snapshot(self) -> Self:
        """The items as they are now, whatever is changed later; costs nothing."""
        return copy(self)  # states are replaced, never changed

    @property
    def exact(self) -> bool:
        return self._state.base.exact

    @property
    def dim(self) -> int:
        return self._state.base.dim

    @property
    def n_fresh(self) -> int:
        """Vectors beside the base: each search scores them all."""
        return len(self._state.fresh)

    @property
    def n_gone(self) -> int:
        """Items of the base that hold no longer: searches look past them."""
        return len(self._state.gone)

    @property
    def bytes_per_item(self) -> float:
        state = self._state
        if not len(state):
            return state.base.bytes_per_item
        beside = state.fresh.n_bytes + state.gone.numel() * state.gone.element_size()
        return (state.base.bytes_per_item * len(state.base) + beside) / len(state)

    def __len__(self) -> int:
        return len(self._state)

    def search(self, query: Tensor, k: int, exclude: Ragged | None = None) -> Candidates:
        """The k best items of each query, as `twotower.index.base.Index.search`."""
        state = self._state
        # as many more as would be gone among k if the gone ones lay anywhere, twice, and a few
        spare = 16 + 2 * k * len(state.gone) // max(1, len(state.base))
        found = _look_past(state, query, k, k + spare if len(state.gone) else k, exclude)
        if not len(state.fresh):
            return found
        new = self.search_fresh(state.fresh, query, k, exclude)
        both = Candidates(torch.cat([found.keys, new.keys], 1), torch.cat([found.scores, new.scores], 1))
        return both.sorted().best(k)

    def save(self, directory: str | Path) -> None:
        """Compact, then publish the base, a plain index of its kind: `load_index` reads it as well."""
        self._compacted().save(directory)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._state.base} + {self.n_fresh:,} fresh - {self.n_gone:,} gone)"


class DeltaIndex(Delta[VectorBase, Tensor]):
    """Items of one vector, over any index of such: see `Delta`.

    Over an exact base every search equals that of a freshly built index; where scores are not whole numbers,
    up to the last bits of a sum, which depend on the shape of a matrix product. Over an approximate base what
    is new is found always, and what is old as well as the base finds it.

    Searches may run beside changes and beside `compact` from any thread, and never wait.

    >>> index = DeltaIndex(ExactIndex.build(torch.tensor([[1.0], [2.0], [3.0]])))
    >>> index.upsert(torch.tensor([0, 7]), torch.tensor([[9.0], [2.0]]))
    >>> index.delete(torch.tensor([2]))
    1
    >>> index.search(torch.tensor([[1.0]]), k=4).keys.tolist()
    [[0, 1, 7, -1]]
    """

    def prepared(self, keys: Tensor, vectors: Tensor) -> KeyedRows:
        """What `upsert` would put, checked: for those who must know beforehand that `put` will not fail."""
        if vectors.dim() == 2 and vectors.shape[1] != self.dim:
            raise MismatchError(
                f"vectors of {vectors.shape[1]} floats for an index of {self.dim}: was it built from another "
                "model?"
            )
        checked = Vectors.of(vectors, keys.to("cpu", torch.int64))
        return KeyedRows(checked.keys, Rep(vector=checked.values))

    def prepared_of(self, keys: Tensor, rep: Rep) -> KeyedRows:
        return self.prepared(keys, rep["vector"])

    def alive(self) -> KeyedRows:
        """All items there are, by rising key, with their "vector"; a copy."""
        return _alive(self._state)

    def _nothing(self, dim: int) -> Rep:
        return Rep(vector=torch.empty(0, dim))

    def search_fresh(self, fresh: KeyedRows, query: Tensor, k: int, exclude: Ragged | None) -> Candidates:
        return ExactIndex(Vectors(fresh.rep["vector"], fresh.keys)).search(query, k, exclude)

    def _rebuilt(self, state: State[VectorBase]) -> VectorBase:
        alive = _alive(state)
        return state.base.rebuilt(alive.rep["vector"], alive.keys)

    @classmethod
    def load(cls, directory: str | Path, expect: str | None = None, *, verify: bool = True) -> Self:
        """Over a saved index of whatever kind, with nothing changed yet."""
        base = load_index(directory, expect, verify=verify)
        if isinstance(base, TokenIndex):
            raise MismatchError(f"{directory}: holds items of many vectors; `MultiVectorDelta` loads it")
        return cls(base)


def _alive(state: State[VectorBase]) -> KeyedRows:
    vectors = state.base.vectors
    old = KeyedRows(vectors.keys, Rep(vector=vectors.values)).without(state.gone)
    return old.updated(state.fresh)


def _look_past(state: State[B], query: Tensor, k: int, n: int, exclude: Ragged | None) -> Candidates:
    """The k best of the base that are not gone: ask for n, and for more where too few of them are left."""
    most = max(k, min(k + len(state.gone), len(state.base)))
    n = min(n, most)
    found = state.base.search(query, n, exclude)
    if not len(state.gone):
        return found
    keep = found.mask & (find(state.gone, found.keys) < 0)
    order = (~keep).to(torch.int8).argsort(dim=1, stable=True)[:, :k]
    holes = ~keep.gather(1, order)
    keys = found.keys.gather(1, order).masked_fill_(holes, NO_ITEM)
    scores = found.scores.gather(1, order).masked_fill_(holes, -torch.inf)
    if n < most and holes.any():
        short = (holes.any(1) & (found.counts == n)).nonzero()[:, 0]
        if len(short):
            rest = None if exclude is None else exclude.take(short)
            again = _look_past(state, query[short], k, 4 * n, rest)
            keys[short], scores[short] = again.keys, again.scores
    return Candidates(keys, scores)
