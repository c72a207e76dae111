"""What `twotower.index.base.Index` promises, for every member; of many vectors an item, with one each."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from twotower.errors import ConfigError, DataError, MismatchError, StorageError
from twotower.index.base import Index
from twotower.index.build import IndexConfig, TokenIndex, build_index, load_index
from twotower.index.delta import DeltaIndex
from twotower.index.exact_tokens import ExactTokens
from twotower.index.multivector import MultiVectorConfig, MultiVectorIndex
from twotower.index.multivector_delta import MultiVectorDelta
from twotower.index.scoring import score_keys
from twotower.types import NO_ITEM, Candidates, Ragged

RECALL_FLOOR = {
    "exact": 1.0,
    "Flat": 1.0,
    "HNSW16": 0.95,
    "IVF16,Flat": 0.9,
    "RR16,IVF16,SQ8": 0.9,
    "multi-vector": 0.95,
    "exact multi-vector": 1.0,
}
ITEMS, DIM = 2_000, 16


class Member(NamedTuple):
    """A kind of index; with ``delta``, one that came to what it holds by additions, updates and deletions."""

    name: str
    delta: bool = False

    def build(self, vectors: Tensor, keys: Tensor | None = None, produced_by: str = "model") -> Index:
        if self.name == "multi-vector":
            config = MultiVectorConfig(storage="float32")
            many: TokenIndex = MultiVectorIndex.build(vectors, keys, produced_by, config=config)
            return changed(MultiVectorDelta(many), vectors, keys, one_each) if self.delta else many
        if self.name == "exact multi-vector":
            many = ExactTokens.build(vectors, keys, produced_by)
            return changed(MultiVectorDelta(many), vectors, keys, one_each) if self.delta else many
        config = IndexConfig()
        if self.name != "exact":
            effort = 64 if "HNSW" in self.name else 8
            config = IndexConfig(kind="faiss", factory=self.name, effort=effort)
        index = build_index(config, vectors, keys, produced_by)
        return changed(DeltaIndex(index), vectors, keys) if self.delta else index

    def load(self, directory: Path, expect: str | None = None) -> Index:
        """Whatever the directory holds."""
        return load_index(directory, expect)


MEMBERS = [Member(name) for name in RECALL_FLOOR]
MEMBERS += [
    Member(name, delta=True)
    for name in ("exact", "HNSW16", "RR16,IVF16,SQ8", "multi-vector", "exact multi-vector")
]


@pytest.fixture(params=MEMBERS, ids=lambda member: f"delta over {member.name}" * member.delta or member.name)
def member(request: pytest.FixtureRequest) -> Member:
    found: Member = request.param
    return found


@pytest.fixture
def build(member: Member) -> Callable[..., Index]:
    return member.build


def changed(
    delta: DeltaIndex | MultiVectorDelta,
    vectors: Tensor,
    keys: Tensor | None,
    given: Callable[[Tensor], Any] = lambda vectors: vectors,
) -> Index:
    """The same items in the end: half were deleted and came again, a third changed, others came and went."""
    keys = torch.arange(len(vectors)) if keys is None else keys
    delta.upsert(keys[::3], given(torch.full_like(vectors[::3], 50.0)))
    others = torch.arange(100) + 10**6
    delta.add(others, given(torch.full((100, vectors.shape[1]), 50.0)))
    delta.delete(torch.cat([others, keys[::2]]))
    delta.upsert(keys[::3], given(vectors[::3]))
    delta.upsert(keys[::2], given(vectors[::2]))
    return delta


def one_each(vectors: Tensor) -> Ragged:
    """Items of one vector each."""
    return Ragged(vectors, torch.arange(len(vectors) + 1))


def world(items: int = ITEMS, queries: int = 40, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Items of log-normal norms with a decaying spectrum, and queries out of their distribution.

    A query is the mean of four items and noise, as a user is; all similarities may be negative.
    """
    generator = torch.Generator().manual_seed(seed)
    spectrum = 0.8 ** torch.arange(DIM)
    items_ = torch.randn(items, DIM, generator=generator) * spectrum
    items_ *= torch.randn(items, 1, generator=generator).mul(0.5).exp()
    chosen = torch.randint(items, (queries, 4), generator=generator)
    noise = torch.randn(queries, DIM, generator=generator) * spectrum
    return items_, items_[chosen].mean(1) + 0.3 * noise


def brute_force(vectors: Tensor, keys: Tensor, query: Tensor, k: int, exclude: Ragged | None) -> Candidates:
    scores = query @ vectors.T
    if exclude is not None:
        for row, gone in enumerate(exclude):
            scores[row, torch.isin(keys, gone)] = -torch.inf
    found = Candidates(
        keys.expand(len(query), -1).masked_fill(scores == -torch.inf, NO_ITEM), scores
    ).sorted()
    missing = (0, max(0, k - found.keys.shape[1]))
    return Candidates(
        torch.nn.functional.pad(found.keys, missing, value=NO_ITEM)[:, :k],
        torch.nn.functional.pad(found.scores, missing, value=-torch.inf)[:, :k],
    )


def recall(found: Candidates, truth: Candidates) -> float:
    hits = (found.keys[:, :, None] == truth.keys[:, None, :]) & truth.mask[:, None, :]
    return float(hits.sum() / truth.mask.sum())


def test_finds_what_brute_force_finds(build: Callable[..., Index], member: Member) -> None:
    vectors, query = world()
    keys = torch.randperm(3 * ITEMS, generator=torch.Generator().manual_seed(1))[:ITEMS]
    index = build(vectors, keys)
    assert isinstance(index, Index)
    assert (len(index), index.dim, index.produced_by) == (ITEMS, DIM, "model")
    found, truth = index.search(query, 20), brute_force(vectors, keys, query, 20, None)
    floor = RECALL_FLOOR[member.name]
    assert recall(found, truth) >= floor
    if index.exact:
        assert torch.equal(found.keys, truth.keys)
    if floor == 1.0:
        torch.testing.assert_close(found.scores, truth.scores)


def test_named_items_have_the_scores_that_a_search_gives_them(build: Callable[..., Index]) -> None:
    vectors, query = world()
    keys = torch.randperm(3 * ITEMS, generator=torch.Generator().manual_seed(1))[:ITEMS]
    index = build(vectors, keys)
    found = index.search(query, 20)
    scores = score_keys(index, query, found.keys)
    torch.testing.assert_close(scores, found.scores.masked_fill(~found.mask, 0))
    some = torch.stack([keys[:30], torch.arange(30) + 10**6, torch.full((30,), NO_ITEM)], 1).flatten()
    scores = score_keys(index, query, some.expand(len(query), -1))
    torch.testing.assert_close(scores[:, ::3], query @ vectors[:30].T)
    assert not scores.view(len(query), 30, 3)[..., 1:].any()  # deleted, and no item at all
    assert score_keys(index, query, torch.empty(len(query), 0, dtype=torch.int64)).shape == (len(query), 0)


def test_scores_are_true_inner_products_best_first(build: Callable[..., Index]) -> None:
    vectors, query = world()
    found = build(vectors).search(query, 30)
    torch.testing.assert_close(found.scores, (query @ vectors.T).gather(1, found.keys), rtol=1e-4, atol=1e-5)
    assert (found.scores.diff(dim=1) <= 0).all()
    assert torch.equal(found.keys, found.sorted().keys)


def test_all_negative_similarities(build: Callable[..., Index]) -> None:
    vectors, query = -world()[0].abs() - 0.1, world()[1].abs()
    found = build(vectors).search(query, 10)
    assert found.mask.all()
    assert (found.scores < 0).all()


def test_equal_scores_stand_by_rising_key(build: Callable[..., Index]) -> None:
    keys = torch.randperm(600, generator=torch.Generator().manual_seed(2))
    index = build(torch.ones(600, DIM) * torch.tensor([1.0, 2.0]).repeat(300)[:, None], keys)
    found = index.search(torch.ones(2, DIM), 600)
    assert found.scores.tolist() == [[2.0 * DIM] * 300 + [1.0 * DIM] * 300] * 2
    twice, once = keys[1::2].sort().values.tolist(), keys[0::2].sort().values.tolist()
    assert found.keys.tolist() == [twice + once] * 2
    if index.exact:
        assert index.search(torch.ones(1, DIM), 7).keys.tolist() == [twice[:7]], "also at the cut"


@pytest.mark.parametrize("queries", [1, 40])
def test_k_above_the_size_pads(build: Callable[..., Index], queries: int) -> None:
    vectors, query = world(300, queries)
    found = build(vectors).search(query, 333)
    assert found.keys.shape == (queries, 333)
    assert torch.equal(found.keys[:, :300].sort().values, torch.arange(300).expand(queries, -1))
    assert (found.keys[:, 300:] == NO_ITEM).all()
    assert (found.scores[:, 300:] == -torch.inf).all()


def test_exclusion_costs_no_place(build: Callable[..., Index]) -> None:
    """Each query loses its own best 100 and still gets 20, as long as the catalogue has them."""
    vectors, query = world()
    index = build(vectors)
    best = index.search(query, 100).keys
    rows = [[*row, *row[:3], 10**9, NO_ITEM] for row in best.tolist()]
    rows[3] = []
    rows[5] = list(range(ITEMS))
    rows[6] = list(range(ITEMS - 7))
    found = index.search(query, 20, Ragged.of(rows))
    assert not any(
        set(kept) & set(gone) - {NO_ITEM} for kept, gone in zip(found.keys.tolist(), rows, strict=True)
    )
    assert found.counts.tolist() == [0 if row == 5 else 7 if row == 6 else 20 for row in range(len(query))]
    if index.exact:
        truth = brute_force(vectors, torch.arange(ITEMS), query, 20, Ragged.of(rows))
        assert torch.equal(found.keys, truth.keys)


def test_saving_and_loading_change_nothing(member: Member, tmp_path: Path) -> None:
    vectors, query = world()
    index = member.build(vectors, torch.arange(ITEMS) + 5)
    index.save(tmp_path / "index")
    again = type(index).load(tmp_path / "index", expect="model")
    assert (type(again), len(again), again.produced_by) == (type(index), ITEMS, "model")
    before = index.search(query, 20)
    for one in (again, member.load(tmp_path / "index", expect="model")):
        after = one.search(query, 20)
        assert torch.equal(before.keys, after.keys)
        assert torch.equal(before.scores, after.scores)
    assert again.bytes_per_item == index.bytes_per_item >= DIM * 4


def test_the_index_of_another_model_is_refused(member: Member, tmp_path: Path) -> None:
    index = member.build(world(300)[0])
    index.save(tmp_path)
    with pytest.raises(MismatchError, match="produced by model, expected other"):
        member.load(tmp_path, expect="other")
    with pytest.raises(MismatchError, match=r"expected \(Q, 16\)"):
        index.search(torch.ones(1, DIM + 1), 5)


def test_a_damaged_index_is_refused(member: Member, tmp_path: Path) -> None:
    member.build(world(300)[0]).save(tmp_path)
    for path in tmp_path.glob("*-*.*"):
        whole = bytearray(path.read_bytes())
        whole[len(whole) // 2] ^= 1
        path.write_bytes(whole)
        with pytest.raises(StorageError, match="checksum is wrong"):
            member.load(tmp_path)
        whole[len(whole) // 2] ^= 1
        path.write_bytes(whole)
    member.load(tmp_path)


def test_no_query_is_no_error(build: Callable[..., Index]) -> None:
    assert build(world(300)[0]).search(torch.empty(0, DIM), 5, Ragged.of([])).keys.shape == (0, 5)


def test_an_empty_catalogue_finds_nothing(member: Member, tmp_path: Path) -> None:
    index = member.build(torch.empty(0, DIM))
    index.save(tmp_path)
    for one in (index, member.load(tmp_path)):
        found = one.search(torch.ones(2, DIM), 3, Ragged.of([[1], []]))
        assert found.keys.tolist() == [[NO_ITEM] * 3] * 2


def test_broken_requests_are_named(build: Callable[..., Index]) -> None:
    vectors, query = world(300)
    index = build(vectors)
    with pytest.raises(ConfigError, match="k must be at least 1, found 0"):
        index.search(query, 0)
    with pytest.raises(ConfigError, match="1 rows for 40 queries"):
        index.search(query, 5, Ragged.of([[1]]))
    with pytest.raises(DataError, match="query vector holds NaN"):
        index.search(query.masked_fill(query > 1, torch.nan), 5)


def test_broken_vectors_are_named(build: Callable[..., Index]) -> None:
    vectors, _ = world(300)
    vectors[17, 3] = torch.nan
    with pytest.raises(
        DataError, match="1 of 300 item vectors hold NaN or infinity, first the one of key 34"
    ):
        build(vectors, torch.arange(300) * 2)
    with pytest.raises(ConfigError, match="occur once"):
        build(torch.ones(300, DIM), torch.arange(300) // 2)
    with pytest.raises(ConfigError, match="0 or more"):
        build(torch.ones(300, DIM), torch.arange(300) - 1)
    with pytest.raises(ConfigError, match="as many keys"):
        build(torch.ones(300, DIM), torch.arange(299))
    with pytest.raises(ConfigError, match=r"must be \(C, D\)"):
        build(torch.ones(300))
