"""Filtered search gives k wherever k are allowed, and the right ones."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from twotower.baselines.popularity import Popularity
from twotower.errors import ConfigError, MismatchError
from twotower.index import filtered
from twotower.index.delta import DeltaIndex
from twotower.index.exact import ExactIndex
from twotower.index.faiss_index import FaissIndex
from twotower.index.filtered import allowed_at, search_allowed, search_wider
from twotower.index.recall import recall
from twotower.types import NO_ITEM, Candidates, Ragged

N, D, Q = 3000, 8, 7
SHARES = [0.0, 1e-4, 0.01, 0.1, 0.5, 1.0]
FLOOR = 0.9


def whole(rows: int, seed: int, low: int = -3, high: int = 4) -> Tensor:
    """Vectors of small whole numbers: sums are exact, and ties abound."""
    draw = torch.Generator().manual_seed(seed)
    return torch.randint(low, high, (rows, D), generator=draw).float()


def normal(rows: int, seed: int) -> Tensor:
    return torch.randn(rows, D, generator=torch.Generator().manual_seed(seed))


def mask_of(share: float, per_query: bool, seed: int = 5) -> Tensor:
    """Allows ``share`` of the items, and at least one where it is not 0."""
    draw = torch.Generator().manual_seed(seed)
    noise = torch.rand((Q, N) if per_query else (N,), generator=draw)
    allow = noise < share
    if share > 0:
        allow |= noise == noise.amin(-1, keepdim=True)
    return allow


def brute_force(
    vectors: Tensor, query: Tensor, k: int, allow: Tensor, exclude: Ragged | None = None
) -> Candidates:
    scores = query @ vectors.T
    may = allow.expand(len(query), -1).clone()
    for row, gone in enumerate(exclude or []):
        may[row, gone[gone < len(vectors)]] = False
    keys = torch.arange(len(vectors)).expand(len(query), -1).masked_fill(~may, NO_ITEM)
    found = Candidates(keys, scores.masked_fill(~may, -torch.inf)).sorted().best(k)
    short = k - found.keys.shape[1]
    pad = torch.nn.functional.pad
    return Candidates(
        pad(found.keys, (0, short), value=NO_ITEM), pad(found.scores, (0, short), value=-torch.inf)
    )


def same(found: Candidates, truth: Candidates) -> bool:
    return torch.equal(found.keys, truth.keys) and torch.equal(found.scores, truth.scores)


class Plain:
    """An exact index that this module knows nothing of."""

    exact, produced_by = True, ""

    def __init__(self, vectors: Tensor) -> None:
        self.inner, self.asked = ExactIndex.build(vectors), []

    def search(self, query: Tensor, k: int, exclude: Ragged | None = None) -> Candidates:
        self.asked.append((len(query), k))
        return self.inner.search(query, k, exclude)


@pytest.fixture(scope="module")
def exact_indexes() -> dict[str, Any]:
    vectors = whole(N, 0)
    changed = DeltaIndex(ExactIndex.build(torch.cat([vectors[:2000], whole(1000, 9)])))
    changed.upsert(torch.arange(2000, N), vectors[2000:])
    fewer = DeltaIndex(ExactIndex.build(torch.cat([vectors, whole(300, 4)])))
    fewer.delete(torch.arange(N, N + 300))
    fewer.upsert(torch.tensor([5]), vectors[[6]])
    fewer.delete(torch.tensor([5]))
    fewer.upsert(torch.tensor([5]), vectors[[5]])
    return {"exact": ExactIndex.build(vectors), "delta": changed, "fewer": fewer, "another": Plain(vectors)}


@pytest.fixture(scope="module")
def approximate() -> dict[str, Any]:
    found: dict[str, Any] = {
        f: FaissIndex.build(normal(N, 0), factory=f) for f in ("HNSW16", "IVF16,Flat", "Flat")
    }
    changed = DeltaIndex(FaissIndex.build(torch.cat([normal(N, 0)[:2700], normal(300, 7)]), factory="HNSW16"))
    changed.upsert(torch.arange(2700, N), normal(N, 0)[2700:])
    return {**found, "changed": changed}


@pytest.mark.parametrize("per_query", [False, True])
@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("name", ["exact", "delta", "fewer", "another"])
def test_exact_indexes_equal_brute_force_with_a_mask(exact_indexes, name, share, per_query):
    query, allow = whole(Q, 1), mask_of(share, per_query)
    gone = Ragged.of([[row, 7 * row, 2 * N] for row in range(Q)])
    for k, exclude in ((1, None), (50, gone), (50, None)):
        found = search_allowed(exact_indexes[name], query, k, allow, exclude)
        assert same(found, brute_force(whole(N, 0), query, k, allow, exclude))


@pytest.mark.parametrize("wide", [False, True], ids=["as the rule says", "always wider"])
@pytest.mark.parametrize("per_query", [False, True])
@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("factory", ["HNSW16", "IVF16,Flat", "Flat", "changed"])
def test_approximate_ones_deliver_k_and_keep_their_recall(
    approximate, monkeypatch, factory, share, per_query, wide
):
    if wide:
        monkeypatch.setattr(filtered, "ITEMS_PER_EFFORT", 0)
        monkeypatch.setattr(filtered, "EXACT_SHARE", 0)
    query, allow, k = normal(Q, 1), mask_of(share, per_query), 20
    found = search_allowed(approximate[factory], query, k, allow)
    truth = brute_force(normal(N, 0), query, k, allow)
    assert torch.equal(found.counts, truth.counts)
    assert bool(allowed_at(allow, found.keys)[found.mask].all())
    unfiltered = recall(approximate[factory], ExactIndex.build(normal(N, 0)), query, k)
    hit = (found.keys[:, :, None] == truth.keys[:, None, :]).any(1) & truth.mask
    assert hit.sum() >= min(FLOOR, unfiltered) * truth.mask.sum()
    assert torch.equal(found.keys, found.sorted().keys)
    at = found.keys.clamp(min=0)
    true = torch.einsum("qd,qkd->qk", query, normal(N, 0)[at])
    torch.testing.assert_close(found.scores[found.mask], true[found.mask])


def test_few_allowed_items_of_a_changed_index_are_not_looked_for_ever_wider(approximate, monkeypatch):
    asked = []
    monkeypatch.setattr(FaissIndex, "search", lambda self, query, k, exclude=None, **more: asked.append(k))
    allow = mask_of(0.01, per_query=False)
    found = search_allowed(approximate["changed"], normal(Q, 1), 20, allow)
    assert torch.equal(found.keys, brute_force(normal(N, 0), normal(Q, 1), 20, allow).keys)
    assert asked == []


def test_a_mask_against_the_query_is_settled_exactly(approximate, monkeypatch):
    monkeypatch.setattr(filtered, "ITEMS_PER_EFFORT", 0)
    query, vectors = normal(Q, 1), normal(N, 0)
    against = query @ vectors.T < 0  # half of the items, and none of the best
    for index in approximate.values():
        found = search_allowed(index, query, 20, against)
        truth = brute_force(vectors, query, 20, against)
        assert torch.equal(found.keys, truth.keys)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**20),
    st.integers(1, 12),
    st.integers(0, 30),
    st.booleans(),
    st.booleans(),
    st.integers(0, 5),
)
def test_any_mask_of_any_length_over_any_keys(seed, k, reach, per_query, excluding, queries):
    draw = torch.Generator().manual_seed(seed)
    vectors, query = whole(20, seed, -1, 2), whole(queries, seed + 1, -1, 2)
    keys = torch.randperm(30, generator=draw)[:20]
    allow = torch.rand((queries, reach) if per_query else (reach,), generator=draw) < 0.4
    lists = [torch.randperm(30, generator=draw)[: queries + 2].tolist() for _ in range(queries)]
    exclude = Ragged.of(lists) if excluding else None
    index, plain = ExactIndex.build(vectors, keys), Plain(vectors)
    plain.inner = index
    spread = torch.full((30, D), -100.0).index_copy(0, keys, vectors)  # row = key
    there = torch.zeros(30, dtype=torch.bool).index_fill(0, keys, True)
    may = torch.nn.functional.pad(allow, (0, 30 - reach)) & there
    truth = brute_force(spread, query, k, may, exclude)
    assert same(search_allowed(index, query, k, allow, exclude), truth)
    assert same(search_allowed(plain, query, k, allow, exclude), truth)


def test_without_a_mask_it_is_the_search_of_the_index(exact_indexes):
    query = whole(Q, 1)
    assert same(search_allowed(exact_indexes["exact"], query, 9), exact_indexes["exact"].search(query, 9))


def test_other_indexes_are_asked_for_as_many_as_the_share_demands():
    plain = Plain(normal(N, 0))
    search_allowed(plain, normal(Q, 1), 10, mask_of(0.5, False))
    (rows, n), *again = plain.asked
    assert rows == Q
    assert 30 <= n <= 60
    assert not again


def test_only_queries_still_short_are_asked_again():
    plain = Plain(normal(N, 0))
    query = normal(Q, 1)
    allow = torch.ones(Q, N, dtype=torch.bool)
    allow[2] = plain.inner.search(query, N).keys[2].argsort() >= N - 30  # its worst thirty
    found = search_allowed(plain, query, 10, allow)
    assert found.counts.tolist() == [10] * Q
    assert all(rows == 1 for rows, _ in plain.asked[1:])


def test_wide_searches_are_cut_to_what_memory_holds(monkeypatch):
    monkeypatch.setattr(filtered, "RESULTS_AT_ONCE", 2000)
    plain, query, allow = Plain(whole(N, 0)), whole(Q, 1), mask_of(0.01, per_query=True)
    truth = brute_force(whole(N, 0), query, 20, allow)
    assert same(search_allowed(plain, query, 20, allow), truth)
    assert {rows for rows, _ in plain.asked} == {1}


def test_nobody_allowed_nobody_asked():
    plain = Plain(normal(N, 0))
    assert search_allowed(plain, normal(Q, 1), 3, torch.zeros(N, dtype=torch.bool)).counts.tolist() == [0] * Q
    assert plain.asked == []


def test_a_search_that_ends_early_is_not_asked_for_ever():
    popular = Popularity().fit(Ragged.of([[0, 1, 1]]), 4)
    histories = Ragged.of([[], []])
    allow = torch.tensor([True] * 3 + [False, True, True, True])  # speaks of items the source never saw

    def search(rows: Tensor, n: int) -> Candidates:
        return popular.search(histories.take(rows), n)

    assert search_wider(search, 2, 6, allow).keys.tolist() == [[1, 0, 2, -1, -1, -1]] * 2


def test_nobody_asks():
    for index in (ExactIndex.build(normal(9, 0)), Plain(normal(9, 0)), FaissIndex.build(normal(9, 0))):
        for allow in (torch.ones(9, dtype=torch.bool), torch.ones(0, 9, dtype=torch.bool)):
            assert search_allowed(index, torch.empty(0, D), 3, allow).keys.shape == (0, 3)


@pytest.mark.parametrize("index", [ExactIndex.build(torch.empty(0, D)), FaissIndex.build(torch.empty(0, D))])
def test_an_empty_index_has_nothing_to_show(index):
    assert search_allowed(index, normal(2, 1), 3, torch.ones(9, dtype=torch.bool)).counts.tolist() == [0, 0]


def test_what_is_wrong_with_a_request_is_said():
    index, query, allow = ExactIndex.build(normal(9, 0)), normal(2, 1), torch.ones(9, dtype=torch.bool)
    with pytest.raises(ConfigError, match="allow has 3 rows for 2 queries"):
        search_allowed(index, query, 3, allow.expand(3, 9))
    with pytest.raises(ConfigError, match=r"bool mask .* found torch.int64 \(9,\)"):
        search_allowed(index, query, 3, allow.long())
    with pytest.raises(MismatchError, match="vectors with 8 floats"):
        search_allowed(index, torch.zeros(2, 5), 3, allow)
    for other in (index, FaissIndex.build(normal(9, 0)), Plain(normal(9, 0))):
        with pytest.raises(ConfigError, match="k must be at least 1"):
            search_allowed(other, query, 0, allow)
