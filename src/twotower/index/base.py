"""What every index promises.

An index finds the items of largest inner product. A per-item bias is the caller's business: one more
coordinate in the item vectors, and a 1 there in every query.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol, Self, runtime_checkable

from torch import Tensor

from twotower.types import Candidates, Ragged


@runtime_checkable
class Index(Protocol):
    """Finds items by inner product, made by `twotower.index.build.build_index`; or items of many vectors by
    MaxSim, see `twotower.index.multivector`.

    Promises, tested for every member in ``tests/contracts/test_index.py``: results are best first, equal
    scores in the order of rising keys; scores are the true inner products; a search for k returns k columns
    and fills what the catalogue cannot with `NO_ITEM`; an excluded item never comes back, and costs no place;
    saving and loading change nothing; queries and artefacts of another model are refused.
    """

    produced_by: str
    """Digest of what made the vectors."""

    @property
    def exact(self) -> bool:
        """Whether results always equal brute force, ties included."""
        ...

    @property
    def dim(self) -> int: ...

    @property
    def bytes_per_item(self) -> float:
        """Bytes of memory one item takes, vectors and search structure together."""
        ...

    def __len__(self) -> int: ...

    def search(self, query: Tensor, k: int, exclude: Ragged | None = None) -> Candidates:
        """The k best items of each query.

        Parameters
        ----------
        query
            (Q, D) floats; (Q, L, D) where items have many vectors, and L is the tokens of a query.
        exclude
            Keys that must not be returned, one row per query; unknown keys are no error.

        Returns
        -------
        Candidates
            Keys and scores, (Q, k).
        """
        ...

    def save(self, directory: str | Path) -> None:
        """Publish the index atomically; see `twotower.index.manifest`."""
        ...

    @classmethod
    def load(cls, directory: str | Path, expect: str | None = None, *, verify: bool = True) -> Self:
        """Load a saved index; ``expect`` is the digest of the model it must belong to."""
        ...
