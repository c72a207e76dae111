"""FAISS behind the contract: the transformation, the effort, the fall-back and FAISS's own refusals."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from twotower.errors import ConfigError, MismatchError, StorageError
from twotower.index.build import IndexConfig, build_index, load_index
from twotower.index.exact import ExactIndex
from twotower.index.faiss_index import FaissIndex, GraphSpace
from twotower.index.recall import recall
from twotower.types import Ragged

faiss = pytest.importorskip("faiss")


def world(items: int = 3_000, *, decay: float = 0.7, norms: float = 0.5) -> tuple[Tensor, Tensor]:
    """Items of log-normal norms and a spectrum that decays, and queries that are means of four and noise."""
    generator = torch.Generator().manual_seed(0)
    spectrum = decay ** torch.arange(16)
    vectors = torch.randn(items, 16, generator=generator) * spectrum
    vectors *= torch.randn(items, 1, generator=generator).mul(norms).exp()
    centres = vectors[torch.randint(items, (50, 4), generator=generator)].mean(1)
    return vectors, centres + 0.3 * torch.randn(50, 16, generator=generator) * spectrum


@pytest.mark.parametrize(
    ("decay", "norms", "better", "worse"),
    [(0.6, 0.3, "distance", "product"), (1.0, 0.7, "product", "distance")],
)
def test_which_graph_finds_more_depends_on_the_data(
    decay: float, norms: float, better: GraphSpace, worse: GraphSpace
) -> None:
    vectors, query = world(decay=decay, norms=norms)
    truth = ExactIndex.build(vectors)
    found = {
        space: recall(
            FaissIndex.build(vectors, factory="HNSW8", effort=50, ef_construction=40, graph_space=space),
            truth,
            query,
            k=50,
        )
        for space in (better, worse)
    }
    assert found[better] > 1.3 * found[worse]
    assert found[better] > 0.75


@pytest.mark.parametrize("factory", ["HNSW8", "IVF64,Flat", "RR16,IVF64,SQ8", "IVF64,SQ8,RFlat"])
def test_more_effort_finds_more(factory: str) -> None:
    vectors, query = world()
    index = FaissIndex.build(vectors, factory=factory, effort=1, ef_construction=20)
    truth = ExactIndex.build(vectors).search(query, 10).keys
    little, much = (
        (index.search(query, 10, effort=effort).keys[:, :, None] == truth[:, None, :]).sum()
        for effort in (None, 64)
    )
    assert little < much
    assert much > 0.95 * truth.numel()


def test_the_default_effort_fits_the_structure() -> None:
    vectors, _ = world()
    efforts = {f: FaissIndex.build(vectors, factory=f).effort for f in ("HNSW4", "IVF256,Flat", "IVF16,Flat")}
    assert efforts == {"HNSW4": 128, "IVF256,Flat": 16, "IVF16,Flat": 8}


def test_transformations_that_change_inner_products_are_refused() -> None:
    for factory in ("PCA8,Flat", "L2norm,Flat", "ITQ8,Flat"):
        with pytest.raises(ConfigError, match="changes inner products"):
            FaissIndex.build(world(50)[0], factory=factory)


def test_queries_that_faiss_leaves_short_are_searched_exactly() -> None:
    vectors, query = world()
    index = FaissIndex.build(vectors, factory="IVF64,Flat", effort=1)  # a probed cell has about 50 items
    found, truth = index.search(query, 500), ExactIndex.build(vectors).search(query, 500)
    assert torch.equal(found.keys, truth.keys)
    gone = Ragged.of(index.search(query, 200).keys.tolist())
    assert torch.equal(index.search(query, 100, gone).keys, truth.keys[:, 200:300])


def test_the_threads_of_the_caller_are_left_as_they_were() -> None:
    vectors, query = world()
    index = FaissIndex.build(vectors, factory="IVF8,Flat")
    before = faiss.omp_get_max_threads()
    one = index.search(query[:1], 10)
    assert faiss.omp_get_max_threads() == before
    assert torch.equal(one.keys, index.search(query, 10).keys[:1])


@pytest.mark.parametrize(
    ("factory", "reason"), [("HNSM32", "could not parse"), ("IVF4096,Flat", "should be at least as large")]
)
def test_what_faiss_refuses_is_a_config_error(factory: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=f"factory='{factory}' of 50 vectors with 16 floats.*{reason}"):
        FaissIndex.build(world(50)[0], factory=factory)


def test_a_file_that_faiss_cannot_read_is_a_storage_error(tmp_path: Path) -> None:
    FaissIndex.build(world(50)[0], factory="Flat").save(tmp_path)
    stored = next(tmp_path.glob("index-*.faiss"))
    stored.write_bytes(bytes(stored.stat().st_size))
    with pytest.raises(StorageError, match="not a readable faiss index"):
        FaissIndex.load(tmp_path, verify=False)


def test_an_exact_index_is_no_faiss_index(tmp_path: Path) -> None:
    build_index(IndexConfig(), world(50)[0]).save(tmp_path)
    with pytest.raises(MismatchError, match="holds: exact index"):
        FaissIndex.load(tmp_path)
    assert load_index(tmp_path).exact


def test_bytes_per_item_counts_graph_and_vectors() -> None:
    vectors, _ = world()
    exact = ExactIndex.build(vectors).bytes_per_item
    assert exact == 16 * 4 + 8
    graph = FaissIndex.build(vectors, factory="HNSW32").bytes_per_item
    assert exact + 17 * 4 + 32 * 2 * 4 < graph < exact + 17 * 4 + 32 * 2 * 4 * 1.5
