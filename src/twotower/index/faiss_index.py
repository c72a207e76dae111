"""Approximate search with FAISS, by inner product.

A graph on raw inner products leads astray: the item nearest to another by inner product is the one of
largest norm, not a neighbour. So graphs are built on vectors with one more coordinate, sqrt(M² - |x|²) with M
the largest norm (Bachrach et al. 2014, "Speeding up the Xbox recommender system using a Euclidean
transformation for inner-product spaces", theorem 1): all items then have the norm M, and the nearest by
Euclidean distance is the best by inner product. What FAISS returns is scored again exactly, unless it has
scored by the vectors themselves.

Neither form is safe on all data. Where a few directions carry the data, the raw graph finds half of what the
other finds; where the spectrum is flat and norms vary, the added coordinate drowns the rest and the raw graph
(``graph_space="product"``) finds three times more. Measure with `twotower.index.recall.recall` on real query
vectors, then choose.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, Self

import torch
from torch import Tensor

from twotower.errors import ConfigError, StorageError
from twotower.index.exact import ExactIndex
from twotower.index.manifest import open_artefact, publish
from twotower.index.vectors import Vectors
from twotower.optional import require
from twotower.types import Candidates, Ragged

GraphSpace = Literal["distance", "product"]

KIND = "faiss index"
RESCORE_FLOATS = 1 << 24  # 64 MB of gathered vectors at a time


class FaissIndex:
    """Any FAISS index by its factory string: ``HNSW32``, ``IVF256,Flat``, ``IVF256,PQ16,RFlat``, ``Flat``.

    Beside FAISS's own structure it keeps the float32 vectors: for exact scores, and for the queries to which
    the structure returns fewer than k items (many exclusions, few probed cells), which are searched exactly.
    Building a graph with several threads is not deterministic to the bit.

    ``effort`` is what a search may spend: efSearch of HNSW (by default 128), nprobe of an inverted file (a
    sixteenth of its cells, at least 8). Others ignore it.
    """

    exact = False  # FAISS breaks ties as it likes, even in Flat

    def __init__(
        self, vectors: Vectors, faiss_index: Any, factory: str, effort: int, produced_by: str
    ) -> None:
        self.vectors = vectors
        self.factory = factory
        self.effort = effort
        self.produced_by = produced_by
        self._faiss = faiss_index
        self._by_distance = faiss_index.metric_type == _faiss().METRIC_L2

    @classmethod
    def build(
        cls,
        vectors: Tensor,
        keys: Tensor | None = None,
        produced_by: str = "",
        *,
        factory: str = "HNSW32",
        effort: int | None = None,
        ef_construction: int = 200,
        graph_space: GraphSpace = "distance",
    ) -> Self:
        """Train and fill an index of ``vectors`` (C, D) with ``keys`` (C,), by default 0 .. C-1.

        Raises
        ------
        ConfigError
            FAISS does not understand the factory string, or cannot train it on so few vectors; or the
            factory begins with a transformation that changes inner products.
        MissingExtra
            FAISS is not installed.
        """
        faiss = _faiss()
        checked = Vectors.of(vectors, keys)
        try:
            index = faiss.index_factory(checked.dim, factory, faiss.METRIC_INNER_PRODUCT)
            stored, inner = checked.values, _innermost(index)
            if isinstance(inner, faiss.IndexHNSW) and graph_space == "distance":
                stored = _of_equal_norm(stored)
                index = faiss.index_factory(checked.dim + 1, factory, faiss.METRIC_L2)
                inner = _innermost(index)
            if isinstance(inner, faiss.IndexHNSW):
                inner.hnsw.efConstruction = ef_construction
            if len(checked):
                if not index.is_trained:
                    index.train(stored.numpy())
                index.add(stored.numpy())
        except RuntimeError as error:
            raise ConfigError(
                f"FAISS cannot make factory={factory!r} of {len(checked)} vectors with {checked.dim} "
                f"floats: {_reason(error)}"
            ) from error
        return cls(checked, index, factory, effort or _default_effort(inner), produced_by)

    def rebuilt(self, vectors: Tensor, keys: Tensor) -> Self:
        """An index of other vectors of the same model, made as this one was; fails as `build` does."""
        inner = _innermost(self._faiss)
        options: dict[str, Any] = {"graph_space": "distance" if self._by_distance else "product"}
        if isinstance(inner, _faiss().IndexHNSW):
            options["ef_construction"] = inner.hnsw.efConstruction
        return type(self).build(
            vectors, keys, self.produced_by, factory=self.factory, effort=self.effort, **options
        )

    def __len__(self) -> int:
        return len(self.vectors)

    @property
    def dim(self) -> int:
        return self.vectors.dim

    @cached_property
    def bytes_per_item(self) -> float:
        size_bytes = 0

        def count(block: bytes) -> int:
            nonlocal size_bytes
            size_bytes += len(block)
            return len(block)

        _faiss().write_index(self._faiss, _faiss().PyCallbackIOWriter(count))
        return self.vectors.bytes_per_item + size_bytes / max(len(self), 1)

    def search(
        self, query: Tensor, k: int, exclude: Ragged | None = None, *, effort: int | None = None
    ) -> Candidates:
        """The k best items of each query, as `twotower.index.base.Index.search`; ``effort`` for this call."""
        query = self.vectors.checked_query(query, k)
        excluded = self.vectors.excluded(exclude, len(query))
        counts = torch.zeros(len(query), dtype=torch.int64) if excluded is None else excluded.lengths
        most = int(counts.max()) if len(counts) else 0
        found, scores = self._nearest(query, min(k + most, len(self)), effort or self.effort)
        if excluded is not None:
            row = torch.arange(len(query))[:, None]
            cell = excluded.row_of_value() * len(self) + excluded.values
            found = found.masked_fill(torch.isin(row * len(self) + found, cell), -1)
        if not self._scores_are_true:
            scores = self._rescored(query, found)
        candidates = Candidates(self.vectors.keys_at(found), scores).sorted().best(k)
        out = _padded(candidates, k)
        short = (out.counts < (len(self) - counts).clamp(max=k)).nonzero()[:, 0]
        if len(short):
            again = ExactIndex(self.vectors, self.produced_by).search(
                query[short], k, None if exclude is None else exclude.take(short)
            )
            out.keys[short], out.scores[short] = again.keys, again.scores
        return out

    def save(self, directory: str | Path) -> None:
        about = {"factory": self.factory, "effort": self.effort, **self.vectors.about}
        with publish(directory, kind=KIND, produced_by=self.produced_by, about=about) as draft:
            self.vectors.write(draft)
            with open(draft / "index.faiss", "wb") as file:
                # through Python's file, so that a full disk is an OSError and not a text from C++
                _faiss().write_index(self._faiss, _faiss().PyCallbackIOWriter(file.write))

    @classmethod
    def load(cls, directory: str | Path, expect: str | None = None, *, verify: bool = True) -> Self:
        """Load a saved index; ``verify=False`` trusts the disk, but FAISS itself checks little."""
        artefact = open_artefact(directory, KIND, expect, verify)
        try:
            index = _faiss().read_index(str(artefact.file("index.faiss")))
            factory, effort = str(artefact.about["factory"]), int(artefact.about["effort"])
        except (RuntimeError, KeyError, TypeError, ValueError) as error:
            raise StorageError(f"{directory}: not a readable {KIND}: {error}; build it again") from error
        vectors = Vectors.read(artefact)
        if index.ntotal != len(vectors):
            raise StorageError(
                f"{directory}: FAISS holds {index.ntotal} items, the vectors {len(vectors)}; build it again"
            )
        return cls(vectors, index, factory, effort, artefact.produced_by)

    @cached_property
    def _scores_are_true(self) -> bool:
        """Whether FAISS's own scores are the inner products of the float32 vectors, as they were given."""
        faiss = _faiss()
        plain = type(faiss.downcast_index(self._faiss)) in (
            faiss.IndexFlat,
            faiss.IndexFlatIP,
            faiss.IndexIVFFlat,
        )
        return plain and not self._by_distance

    def _nearest(self, query: Tensor, n: int, effort: int) -> tuple[Tensor, Tensor]:
        """Positions FAISS finds, (Q, n), -1 where it finds none, in no order to rely on; and its scores."""
        if n == 0 or len(query) == 0:
            return torch.empty(len(query), 0, dtype=torch.int64), torch.empty(len(query), 0)
        if self._by_distance:
            query = torch.nn.functional.pad(query, (0, 1))
        with _threads(1 if len(query) == 1 else None):
            scores, positions = self._faiss.search(query.numpy(), n, params=_parameters(self._faiss, effort))
        return torch.from_numpy(positions), torch.from_numpy(scores)

    def _rescored(self, query: Tensor, positions: Tensor) -> Tensor:
        """True inner products of the positions, minus infinity for -1, (Q, n)."""
        scores = torch.empty(positions.shape)
        step = max(1, RESCORE_FLOATS // max(1, positions.shape[1] * self.dim))
        for start in range(0, len(query), step):
            rows = slice(start, start + step)
            vectors = self.vectors.values[positions[rows].clamp(min=0)]
            scores[rows] = (vectors @ query[rows, :, None])[:, :, 0]
        return scores.masked_fill_(positions < 0, -torch.inf)

    def __repr__(self) -> str:
        return f"FaissIndex({self.factory}, {len(self):,} items of {self.dim} floats, effort={self.effort})"


def _of_equal_norm(vectors: Tensor) -> Tensor:
    """(C, D) -> (C, D + 1), all of the norm of the longest."""
    squared = vectors.double().square().sum(1)
    missing = (squared.max() - squared).clamp(min=0).sqrt() if len(vectors) else squared
    return torch.cat([vectors, missing.float()[:, None]], 1)


def _padded(candidates: Candidates, k: int) -> Candidates:
    missing = k - candidates.keys.shape[1]
    pad = torch.nn.functional.pad
    return Candidates(
        pad(candidates.keys, (0, missing), value=-1), pad(candidates.scores, (0, missing), value=-torch.inf)
    )


def _faiss() -> ModuleType:
    return require("faiss", extra="faiss")


def _innermost(index: Any) -> Any:
    """The search structure inside rotations and refinements, as its own class."""
    faiss = _faiss()
    index = faiss.downcast_index(index)
    if isinstance(index, faiss.IndexPreTransform):
        for step in (faiss.downcast_VectorTransform(index.chain.at(i)) for i in range(index.chain.size())):
            if not isinstance(step, faiss.OPQMatrix | faiss.RandomRotationMatrix):
                raise ConfigError(
                    f"{type(step).__name__} changes inner products (PCA subtracts the mean); only rotations "
                    "such as OPQ may stand before the index: choose a smaller vector in the model instead"
                )
        return _innermost(index.index)
    if isinstance(index, faiss.IndexRefine):
        return _innermost(index.base_index)
    return index


def _default_effort(inner: Any) -> int:
    return max(8, inner.nlist // 16) if isinstance(inner, _faiss().IndexIVF) else 128


def _parameters(index: Any, effort: int) -> Any:
    """Search parameters of one call: nothing of the shared index is changed, so threads do not meet."""
    faiss = _faiss()
    index = faiss.downcast_index(index)
    if isinstance(index, faiss.IndexPreTransform):
        return faiss.SearchParametersPreTransform(index_params=_parameters(index.index, effort))
    if isinstance(index, faiss.IndexRefine):
        inner = _parameters(index.base_index, effort)
        return faiss.IndexRefineSearchParameters(base_index_params=inner, k_factor=index.k_factor)
    if isinstance(index, faiss.IndexHNSW):
        return faiss.SearchParametersHNSW(efSearch=effort)
    if isinstance(index, faiss.IndexIVF):
        return faiss.SearchParametersIVF(nprobe=min(effort, index.nlist))
    return None


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    """One query is searched by one thread: waking more costs longer than they help."""
    if count is None:
        yield
        return
    faiss = _faiss()
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(count)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


def _reason(error: RuntimeError) -> str:
    """FAISS's message without the C++ function and file it comes from."""
    return str(error).rsplit("Error: ", 1)[-1].strip()
