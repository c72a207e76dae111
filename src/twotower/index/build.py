"""From a config and vectors to an index, and from a directory back to one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, get_args, overload

from pydantic import Discriminator, Field, Tag, field_validator
from torch import Tensor

from twotower.config import Config, nearest
from twotower.errors import ConfigError
from twotower.index import exact, exact_tokens, faiss_index, multivector
from twotower.index.manifest import open_artefact
from twotower.types import Ragged

VectorIndex = exact.ExactIndex | faiss_index.FaissIndex
"""Finds items of one vector by inner product."""
TokenIndex = exact_tokens.ExactTokens | multivector.MultiVectorIndex
"""Finds items of many vectors by MaxSim."""
BuiltIndex = VectorIndex | TokenIndex


OneVector = Literal["exact", "faiss"]


class IndexConfig(Config):
    """Which index, and what a search may spend; for items of many vectors, of these two the exact one."""

    kind: OneVector = "exact"
    factory: str = Field("HNSW32", description="faiss: factory string, such as HNSW32 or IVF256,Flat")
    effort: int | None = Field(
        None, ge=1, description="faiss: efSearch of a graph (128), nprobe of an inverted file (cells / 16)"
    )
    ef_construction: int = Field(200, ge=1, description="faiss: care taken while building a graph")
    graph_space: faiss_index.GraphSpace = Field(
        "distance", description="faiss: a graph of vectors of equal norm, or of raw inner products"
    )

    @field_validator("kind", mode="before")
    @classmethod
    def _known(cls, kind: Any) -> Any:
        """Says what a recipe may name: it chooses from `AnyIndex`, of which this is a part."""
        known = (*get_args(OneVector), "multivector")
        if kind in known:
            return kind
        if str(kind).lower().startswith("hnsw"):
            graph = "HNSW is {kind: faiss, factory: HNSW32}"
            raise ValueError(f"found {kind!r}; known: {', '.join(known)}; {graph}")
        raise ValueError(f"found {kind!r}{nearest(str(kind), known)}")


def _which(values: Any) -> str:
    kind = values.get("kind") if isinstance(values, dict) else getattr(values, "kind", None)
    return "multivector" if kind == "multivector" else "vector"


AnyIndex = Annotated[
    Annotated[IndexConfig, Tag("vector")] | Annotated[multivector.MultiVectorConfig, Tag("multivector")],
    Discriminator(_which),
]
"""For recipes: told apart by ``kind``, which is exact where it is not given."""


def check_fits(config: AnyIndex, many: bool) -> None:
    """Refuse an index that does not find items of ``many`` vectors each, or else of one.

    >>> check_fits(IndexConfig(kind="faiss"), many=True)
    Traceback (most recent call last):
    twotower.errors.ConfigError: index faiss finds items of one vector, these have many: exact or multivector
    """
    if many and config.kind == "faiss":
        raise ConfigError("index faiss finds items of one vector, these have many: exact or multivector")
    if not many and config.kind == "multivector":
        raise ConfigError("index multivector finds items of many vectors, these have one: exact or faiss")


@overload
def build_index(
    config: AnyIndex, vectors: Tensor, keys: Tensor | None = None, produced_by: str = ""
) -> VectorIndex: ...


@overload
def build_index(
    config: AnyIndex, vectors: Ragged, keys: Tensor | None = None, produced_by: str = ""
) -> TokenIndex: ...


def build_index(
    config: AnyIndex, vectors: Tensor | Ragged, keys: Tensor | None = None, produced_by: str = ""
) -> BuiltIndex:
    """An index of ``vectors`` (C, D), or (N, D) of C items, with ``keys`` (C,), by default 0 .. C-1.

    Raises
    ------
    ConfigError
        The index is not for items of one vector, or of many; or as the index's own ``build``.

    >>> import torch
    >>> index = build_index(IndexConfig(), torch.eye(3), produced_by="digest of the model")
    >>> index.search(torch.tensor([[1.0, 3.0, 2.0]]), k=2).keys.tolist()
    [[1, 2]]
    """
    check_fits(config, many=isinstance(vectors, Ragged))
    if isinstance(vectors, Ragged):
        if isinstance(config, multivector.MultiVectorConfig):
            return multivector.MultiVectorIndex.build(vectors, keys, produced_by, config=config)
        return exact_tokens.ExactTokens.build(vectors, keys, produced_by)
    assert isinstance(config, IndexConfig)
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
        exact_tokens.KIND: exact_tokens.ExactTokens,
        multivector.KIND: multivector.MultiVectorIndex,
    }
    kind = open_artefact(directory, tuple(kinds), expect, verify=False).kind
    return kinds[kind].load(directory, expect, verify=verify)
