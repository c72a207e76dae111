"""From a config and vectors to an index, and from a directory back to one."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field
from torch import Tensor

from twotower.config import Config
from twotower.index import exact, faiss_index
from twotower.index.manifest import open_artefact

BuiltIndex = exact.ExactIndex | faiss_index.FaissIndex


class IndexConfig(Config):
    """Which index, and what a search may spend."""

    kind: Literal["exact", "faiss"] = "exact"
    factory: str = Field("HNSW32", description="faiss: factory string, such as HNSW32 or IVF256,Flat")
    effort: int | None = Field(
        None, ge=1, description="faiss: efSearch of a graph (128), nprobe of an inverted file (cells / 16)"
    )
    ef_construction: int = Field(200, ge=1, description="faiss: care taken while building a graph")
    graph_space: faiss_index.GraphSpace = Field(
        "distance", description="faiss: a graph of vectors of equal norm, or of raw inner products"
    )


def build_index(
    config: IndexConfig, vectors: Tensor, keys: Tensor | None = None, produced_by: str = ""
) -> BuiltIndex:
    """An index of ``vectors`` (C, D) with ``keys`` (C,), by default 0 .. C-1.

    >>> import torch
    >>> index = build_index(IndexConfig(), torch.eye(3), produced_by="digest of the model")
    >>> index.search(torch.tensor([[1.0, 3.0, 2.0]]), k=2).keys.tolist()
    [[1, 2]]
    """
    if config.kind == "exact":
        return exact.ExactIndex.build(vectors, keys, produced_by)
    return faiss_index.FaissIndex.build(
        vectors,
        keys,
        produced_by,
        factory=config.factory,
        effort=config.effort,
        ef_construction=config.ef_construction,
        graph_space=config.graph_space,
    )


def load_index(directory: str | Path, expect: str | None = None, *, verify: bool = True) -> BuiltIndex:
    """The index a directory holds, of whatever kind; ``expect`` is the digest of its model."""
    kinds: dict[str, type[BuiltIndex]] = {
        exact.KIND: exact.ExactIndex,
        faiss_index.KIND: faiss_index.FaissIndex,
    }
    kind = open_artefact(directory, tuple(kinds), expect, verify=False).kind
    return kinds[kind].load(directory, expect, verify=verify)
