"""Exact MaxSim over items of many vectors: equal to a loop; what `Index` promises is tested in contracts."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from twotower.errors import ConfigError, MismatchError, StorageError
from twotower.index.build import IndexConfig, build_index, load_index
from twotower.index.delta import DeltaIndex
from twotower.index.exact_tokens import KIND, QUERIES_AT_ONCE, ExactTokens
from twotower.index.filtered import search_allowed
from twotower.index.manifest import publish
from twotower.index.multivector import MultiVectorConfig, MultiVectorIndex
from twotower.index.multivector_delta import MultiVectorDelta
from twotower.types import NO_ITEM, Candidates, Ragged

DIM, ITEMS, QUERIES = 5, 120, QUERIES_AT_ONCE + 3


def ragged(items: list[Tensor]) -> Ragged:
    lengths = torch.tensor([0, *(len(item) for item in items)])
    return Ragged(torch.cat([torch.empty(0, DIM), *items]), lengths.cumsum(0))


def world(seed: int = 0) -> tuple[list[Tensor], Tensor]:
    """Items of 0 to 4 vectors of whole numbers, so that sums are exact and many tie; queries of 1 to 3."""
    draw = torch.Generator().manual_seed(seed)

    def some(rows: int, most: int) -> list[Tensor]:
        lengths = torch.randint(most + 1, (rows,), generator=draw).tolist()
        return [torch.randint(-3, 4, (n, DIM), generator=draw).float() for n in lengths]

    asked = [torch.cat([torch.ones(1, DIM), more]) for more in some(QUERIES, 2)]
    return some(ITEMS, 4), pad_sequence(asked, batch_first=True)


def naive(items: list[Tensor], query: Tensor, k: int, may: Tensor, keys: Tensor | None = None) -> Candidates:
    """A loop over all pairs; ``may`` (Q, C) bool."""
    scores = torch.full(may.shape, -torch.inf)
    for q, tokens in enumerate(query):
        for i, item in enumerate(items):
            if len(item) and may[q, i]:
                scores[q, i] = sum(max(float(t @ v) for v in item) for t in tokens)
    keys = torch.arange(len(items)) if keys is None else keys
    own = keys.expand(may.shape).masked_fill(scores == -torch.inf, NO_ITEM)
    return Candidates(own, scores).sorted().best(k)


def same(found: Candidates, truth: Candidates) -> bool:
    return torch.equal(found.keys, truth.keys) and torch.equal(found.scores, truth.scores)


def test_equals_a_loop_with_and_without_what_is_excluded() -> None:
    items, query = world()
    index = ExactTokens.build(ragged(items))
    may = torch.ones(QUERIES, ITEMS, dtype=torch.bool)
    assert same(index.search(query, 30), naive(items, query, 30, may))
    exclude = Ragged.of([[q, 5, 5, 10_000] for q in range(QUERIES)])
    may[torch.arange(QUERIES), torch.arange(QUERIES)] = False
    may[:, 5] = False
    assert same(index.search(query, 30, exclude), naive(items, query, 30, may))


@pytest.mark.parametrize("share", [0.0, 0.05, 0.5, 1.0])
@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("exact", [False, True])
def test_equals_a_loop_over_what_is_allowed(share: float, own: bool, exact: bool, monkeypatch) -> None:
    """Of a multi-vector index as well: where few are allowed it scores these, and nearly all of so few."""
    monkeypatch.setattr("twotower.index.filtered.ITEMS_AT_ONCE", 4)
    items, query = world()
    config = IndexConfig() if exact else MultiVectorConfig(storage="float32", rescored=10)
    index = build_index(config, ragged(items))
    shape = (QUERIES, ITEMS) if own else (ITEMS,)
    allow = torch.rand(shape, generator=torch.Generator().manual_seed(1)) < share
    exclude = Ragged.of([[q] for q in range(QUERIES)])
    may = allow.expand(QUERIES, ITEMS).clone()
    may[torch.arange(QUERIES), torch.arange(QUERIES)] = False
    found = search_allowed(index, query, 20, allow, exclude)
    assert torch.equal(found.keys, naive(items, query, 20, may).keys)


def test_one_changed_by_a_delta_equals_one_built_of_the_same(tmp_path: Path) -> None:
    items, query = world()
    others = world(seed=2)[0]
    delta = MultiVectorDelta(ExactTokens.build(ragged(items), produced_by="model"))
    delta.upsert(torch.tensor([3, 500]), ragged([others[0], others[1]]))
    delta.delete(torch.tensor([7, 8]))
    keys = torch.tensor([n for n in range(ITEMS) if n not in (7, 8)] + [500])
    now = [{3: others[0], 500: others[1]}.get(n, items[min(n, ITEMS - 1)]) for n in keys.tolist()]
    truth = naive(now, query, 20, torch.ones(QUERIES, len(keys), dtype=torch.bool), keys)
    assert same(delta.search(query, 20), truth)
    delta.save(tmp_path)
    for one in (delta, load_index(tmp_path, "model"), MultiVectorDelta.load(tmp_path, "model")):
        assert len(one) == len(keys)
        assert same(one.search(query, 20), truth)
    with pytest.raises(MismatchError, match="items of many vectors; `MultiVectorDelta` loads it"):
        DeltaIndex.load(tmp_path)
    build_index(IndexConfig(), torch.ones(2, DIM)).save(tmp_path / "one")
    with pytest.raises(MismatchError, match="items of one vector; `DeltaIndex` loads it"):
        MultiVectorDelta.load(tmp_path / "one")


def test_a_config_says_which_index_and_refuses_what_does_not_fit() -> None:
    items, _ = world()
    assert isinstance(build_index(IndexConfig(), ragged(items)), ExactTokens)
    assert isinstance(build_index(MultiVectorConfig(), ragged(items)), MultiVectorIndex)
    with pytest.raises(ConfigError, match="index faiss finds items of one vector"):
        build_index(IndexConfig(kind="faiss"), ragged(items))
    with pytest.raises(ConfigError, match="index multivector finds items of many vectors"):
        build_index(MultiVectorConfig(), torch.ones(3, DIM))


def test_nothing_to_find_and_nobody_who_asks(tmp_path: Path) -> None:
    ExactTokens.build(ragged([torch.empty(0, DIM)] * 2)).save(tmp_path)
    index = ExactTokens.load(tmp_path)
    assert index.search(torch.ones(2, 3, DIM), 4).keys.tolist() == [[NO_ITEM] * 4] * 2
    assert index.search(torch.ones(0, 3, DIM), 4).keys.shape == (0, 4)
    assert ExactTokens.build(ragged([])).search(torch.ones(1, 3, DIM), 2).keys.tolist() == [[NO_ITEM] * 2]


def test_queries_and_manifests_that_cannot_be_read(tmp_path: Path) -> None:
    index = ExactTokens.build(ragged([torch.ones(2, DIM)]))
    with pytest.raises(MismatchError, match="built from another model"):
        index.search(torch.ones(1, 3, DIM + 1), 2)
    with publish(tmp_path, kind=KIND, produced_by="", about={"rows": 3}):
        pass
    with pytest.raises(StorageError, match="lacks its sizes"):
        ExactTokens.load(tmp_path)
