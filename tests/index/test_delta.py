"""The delta over an index: after any additions, updates and deletions it is the index built afresh."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from twotower.errors import ConfigError, DataError, MismatchError
from twotower.index.build import IndexConfig, build_index, load_index
from twotower.index.delta import DeltaIndex
from twotower.index.exact import ExactIndex
from twotower.index.faiss_index import FaissIndex
from twotower.index.filtered import search_allowed
from twotower.types import NO_ITEM, Candidates, Ragged

DIM = 8


def draw(n: int, generator: torch.Generator) -> Tensor:
    """Small whole numbers: inner products are exact whatever the order of summation, and many are equal."""
    return torch.randint(-3, 4, (n, DIM), generator=generator).float()


class Truth:
    """What the index should hold, as a plain mapping."""

    def __init__(self, vectors: Tensor) -> None:
        self.of = dict(enumerate(vectors))

    def index(self) -> ExactIndex:
        keys = torch.tensor(list(self.of), dtype=torch.int64)
        return ExactIndex.build(torch.stack(list(self.of.values())) if self.of else torch.empty(0, DIM), keys)


def change(index: DeltaIndex, truth: Truth, generator: torch.Generator, new_keys: int) -> int:
    """One random addition, update or deletion of a few items; returns how many were changed."""
    kind = int(torch.randint(3, (1,), generator=generator))
    n = int(torch.randint(1, 12, (1,), generator=generator))
    keys = torch.randperm(new_keys, generator=generator)[:n]
    if kind == 2:
        there = sum(truth.of.pop(key, None) is not None for key in keys.tolist())
        assert index.delete(keys) == there
        return n
    if kind == 1:
        keys = torch.tensor([key for key in keys.tolist() if key not in truth.of], dtype=torch.int64)
    vectors = draw(len(keys), generator)
    (index.add if kind == 1 else index.upsert)(keys, vectors)
    truth.of.update(zip(keys.tolist(), vectors, strict=True))
    return n


def same(found: Candidates, wanted: Candidates) -> bool:
    return torch.equal(found.keys, wanted.keys) and torch.equal(found.scores, wanted.scores)


@pytest.mark.parametrize("compact_every", [0, 300])
def test_ten_thousand_changes_leave_what_building_afresh_gives(compact_every: int) -> None:
    generator = torch.Generator().manual_seed(compact_every)
    vectors = draw(600, generator)
    index, truth = DeltaIndex(ExactIndex.build(vectors)), Truth(vectors)
    query = draw(20, generator)
    changed, step = 0, 0
    while changed < 10_000:
        changed += change(index, truth, generator, new_keys=900)
        step += 1
        if compact_every and step % compact_every == 0:
            index.compact()
            assert (index.n_fresh, index.n_gone) == (0, 0)
        if step % 100 == 0 or changed >= 10_000:
            seen = Ragged.of(torch.randint(900, (20, 30), generator=generator).tolist())
            wanted = truth.index()
            assert len(index) == len(wanted)
            for k in (1, 25, 1_000):
                assert same(index.search(query, k), wanted.search(query, k))
                assert same(index.search(query, k, seen), wanted.search(query, k, seen))


def test_ten_thousand_changes_over_faiss_stay_within_the_floor() -> None:
    pytest.importorskip("faiss")
    generator = torch.Generator().manual_seed(1)
    spectrum = 0.8 ** torch.arange(DIM)
    vectors = torch.randn(2_000, DIM, generator=generator) * spectrum
    index = DeltaIndex(FaissIndex.build(vectors, factory="HNSW16", effort=64))
    alive = dict(enumerate(vectors))
    for _ in range(100):
        keys = torch.randperm(3_000, generator=generator)[:100]
        new = torch.randn(60, DIM, generator=generator) * spectrum
        index.upsert(keys[:60], new)
        index.delete(keys[60:])
        alive.update(zip(keys[:60].tolist(), new, strict=True))
        for key in keys[60:].tolist():
            alive.pop(key, None)
    truth = ExactIndex.build(torch.stack(list(alive.values())), torch.tensor(list(alive)))
    query = torch.randn(50, DIM, generator=generator) * spectrum
    wanted = truth.search(query, 20).keys

    def recall() -> float:
        return float((index.search(query, 20).keys[:, :, None] == wanted[:, None, :]).sum() / wanted.numel())

    assert index.n_gone > 1_500, "most of the base has been replaced or deleted"
    assert recall() >= 0.95
    index.compact()
    assert repr(index) == f"DeltaIndex(FaissIndex(HNSW16, {len(truth):,} items of 8 floats, effort=64) " + (
        "+ 0 fresh - 0 gone)"
    )
    assert recall() >= 0.95


KEYS = st.lists(st.integers(0, 9), unique=True, max_size=4)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(["upsert", "delete", "compact"]), KEYS), max_size=12),
    st.integers(0, 9),
)
def test_any_order_of_changes(changes: list[tuple[str, list[int]]], size: int) -> None:
    generator = torch.Generator().manual_seed(size)
    vectors = draw(size, generator)
    index, truth = DeltaIndex(ExactIndex.build(vectors)), Truth(vectors)
    query = draw(3, generator)
    for kind, keys in changes:
        if kind == "upsert":
            new = draw(len(keys), generator)
            index.upsert(torch.tensor(keys, dtype=torch.int64), new)
            truth.of.update(zip(keys, new, strict=True))
        elif kind == "delete":
            index.delete(torch.tensor(keys, dtype=torch.int64))
            for key in keys:
                truth.of.pop(key, None)
        else:
            index.compact()
        assert same(index.search(query, 12), truth.index().search(query, 12))
        assert len(index) == len(truth.of)


def test_a_search_looks_past_any_number_of_deleted_items() -> None:
    """The 900 best of one query are deleted, which no spread of deletions over the base would suggest."""
    generator = torch.Generator().manual_seed(3)
    vectors = torch.randn(1_000, DIM, generator=generator)
    index = DeltaIndex(ExactIndex.build(vectors))
    query = torch.randn(2, DIM, generator=generator)
    order = index.search(query, 1_000).keys
    index.delete(order[0, :900])
    assert index.search(query[:1], 20).keys.tolist() == order[:1, 900:920].tolist()
    rest = torch.tensor([key for key in order[1].tolist() if key in order[0, 900:].tolist()])
    assert index.search(query, 100).keys[1].tolist() == rest.tolist()
    assert index.search(query, 103).keys[0, -3:].tolist() == [NO_ITEM] * 3
    gone = Ragged.of([order[0, 900:990].tolist(), []])
    assert index.search(query, 20, gone).counts.tolist() == [10, 20]
    index.delete(order[0])
    assert (len(index), index.search(query, 3).counts.tolist()) == (0, [0, 0])
    index.compact()
    assert (len(index), index.search(query, 3).counts.tolist()) == (0, [0, 0])


def test_a_mask_of_what_may_be_shown_reaches_new_items() -> None:
    generator = torch.Generator().manual_seed(4)
    vectors = draw(300, generator)
    index, truth = DeltaIndex(ExactIndex.build(vectors)), Truth(vectors)
    for _ in range(60):
        change(index, truth, generator, new_keys=400)
    allow = torch.rand(5, 400, generator=generator) < 0.1
    query = draw(5, generator)
    for mask in (allow, allow[0], allow[:, :350]):
        assert same(search_allowed(index, query, 12, mask), search_allowed(truth.index(), query, 12, mask))


def test_what_is_deleted_comes_back_only_when_it_is_added_again() -> None:
    index = DeltaIndex(ExactIndex.build(torch.ones(3, DIM)))
    query = torch.ones(1, DIM)
    assert index.delete(torch.tensor([1, 1, 77])) == 1
    assert index.delete(torch.tensor([1])) == 0
    for _ in range(2):
        assert index.search(query, 3).keys.tolist() == [[0, 2, NO_ITEM]]
        index.compact()
    index.add(torch.tensor([1]), torch.full((1, DIM), 2.0))
    assert index.search(query, 3).keys.tolist() == [[1, 0, 2]]
    with pytest.raises(ConfigError, match="1 of 2 keys are in the index already, first 1"):
        index.add(torch.tensor([5, 1]), torch.ones(2, DIM))
    assert index.search(query, 4).keys.tolist() == [[1, 0, 2, NO_ITEM]], "nothing of a refused batch is added"


class Interrupting(ExactIndex):
    """Calls back in the middle of being rebuilt, as a change from another thread would come."""

    meanwhile = staticmethod(lambda: None)

    def rebuilt(self, vectors: Tensor, keys: Tensor) -> Interrupting:
        self.meanwhile()
        return Interrupting.build(vectors, keys, self.produced_by)


def test_changes_while_compacting_survive(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(5)
    vectors = draw(60, generator)
    index, truth = DeltaIndex(Interrupting.build(vectors)), Truth(vectors)
    for _ in range(20):
        change(index, truth, generator, new_keys=90)
    query = draw(5, generator)

    def meanwhile() -> None:
        for _ in range(8):
            change(index, truth, generator, new_keys=90)
            assert same(index.search(query, 90), truth.index().search(query, 90))

    monkeypatch.setattr(Interrupting, "meanwhile", staticmethod(meanwhile))
    for _ in range(5):
        index.compact()
        assert len(index) == len(truth.of)
        assert same(index.search(query, 90), truth.index().search(query, 90))


def test_searches_beside_changes_see_whole_states() -> None:
    """Every state holds one generation of vectors; a search that saw half a change would mix two."""
    index = DeltaIndex(ExactIndex.build(torch.zeros(50, DIM)))
    stop, mixed = threading.Event(), []

    def search() -> None:
        while not stop.is_set():
            found = index.search(torch.ones(1, DIM), 50)
            if len(found.scores.unique()) > 1 or int(found.counts) != 50:
                mixed.append(found)

    thread = threading.Thread(target=search)
    thread.start()
    for generation in range(1, 60):
        index.upsert(torch.arange(50), torch.full((50, DIM), float(generation)))
        if generation % 7 == 0:
            index.compact()
    stop.set()
    thread.join()
    assert not mixed


def test_a_compaction_that_fails_changes_nothing() -> None:
    pytest.importorskip("faiss")
    index = DeltaIndex(FaissIndex.build(torch.eye(DIM).repeat(8, 1), factory="IVF16,Flat"))
    index.delete(torch.arange(60))
    before = index.search(torch.ones(1, DIM), 5)
    with pytest.raises(ConfigError, match="of 4 vectors"):
        index.compact()
    assert same(index.search(torch.ones(1, DIM), 5), before)


@pytest.mark.parametrize(
    "config",
    [
        IndexConfig(),
        IndexConfig(kind="faiss", factory="HNSW8", ef_construction=33, graph_space="product", effort=17),
        IndexConfig(kind="faiss", factory="HNSW8"),
        IndexConfig(kind="faiss", factory="RR4,IVF8,SQ8", effort=3),
    ],
    ids=str,
)
def test_a_new_base_is_made_as_the_old_one_was(config: IndexConfig, tmp_path: Path) -> None:
    pytest.importorskip("faiss")
    vectors = torch.randn(400, DIM, generator=torch.Generator().manual_seed(0))
    build_index(config, vectors, produced_by="model").save(tmp_path)
    new, afresh = load_index(tmp_path).rebuilt(-vectors, torch.arange(400)), build_index(config, -vectors)
    assert (repr(new), new.produced_by) == (repr(afresh), "model")
    if isinstance(new, FaissIndex) and isinstance(afresh, FaissIndex):
        assert new._by_distance == afresh._by_distance
        if "HNSW" in config.factory:
            assert new._faiss.hnsw.efConstruction == config.ef_construction


def test_saving_compacts_and_any_loader_reads_it(tmp_path: Path) -> None:
    index = DeltaIndex(ExactIndex.build(torch.eye(DIM), produced_by="model"))
    index.upsert(torch.tensor([3, 20]), torch.ones(2, DIM))
    index.delete(torch.tensor([0]))
    index.save(tmp_path)
    query = torch.arange(DIM).float()[None]
    for again in (load_index(tmp_path, "model"), DeltaIndex.load(tmp_path, "model")):
        assert same(again.search(query, 9), index.search(query, 9))
    with pytest.raises(MismatchError, match="produced by model"):
        DeltaIndex.load(tmp_path, "other")


def test_broken_changes_are_named_and_change_nothing() -> None:
    index = DeltaIndex(ExactIndex.build(torch.eye(DIM)))
    broken = torch.ones(2, DIM)
    broken[1, 0] = torch.nan
    with pytest.raises(DataError, match="1 of 2 item vectors hold NaN or infinity, first the one of key 9"):
        index.upsert(torch.tensor([3, 9]), broken)
    with pytest.raises(MismatchError, match="vectors of 9 floats for an index of 8"):
        index.upsert(torch.tensor([3]), torch.ones(1, DIM + 1))
    with pytest.raises(ConfigError, match="occur once"):
        index.upsert(torch.tensor([3, 3]), torch.ones(2, DIM))
    with pytest.raises(ConfigError, match="as many keys"):
        index.upsert(torch.tensor([3]), torch.ones(2, DIM))
    with pytest.raises(ConfigError, match="0 or more"):
        index.upsert(torch.tensor([NO_ITEM]), torch.ones(1, DIM))
    assert (index.n_fresh, index.n_gone, len(index)) == (0, 0, DIM)


def test_changing_nothing_is_no_error_and_the_callers_memory_is_not_kept() -> None:
    index = DeltaIndex(ExactIndex.build(torch.empty(0, DIM)))
    index.upsert(torch.empty(0, dtype=torch.int64), torch.empty(0, DIM))
    assert index.delete(torch.empty(0, dtype=torch.int64)) == 0
    index.compact()
    vectors = torch.ones(2, DIM)
    index.upsert(torch.tensor([4, 2]), vectors)
    vectors.zero_()
    assert index.search(torch.ones(1, DIM), 2).scores.tolist() == [[DIM, DIM]]
    assert index.bytes_per_item == DIM * 4 + 8
