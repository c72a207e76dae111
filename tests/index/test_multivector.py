"""The multi-vector index against a loop over items: what `Index` promises, with many vectors an item."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from twotower.errors import ConfigError, DataError, MismatchError, StorageError
from twotower.index.base import Index
from twotower.index.filtered import search_allowed
from twotower.index.multivector import Effort, MultiVectorConfig, MultiVectorIndex
from twotower.index.multivector_delta import MultiVectorDelta
from twotower.types import NO_ITEM, Candidates, Ragged

DIM, ITEMS = 16, 1500
KEPT: list[dict[str, object]] = [{"storage": "float32"}, {"storage": "bfloat16"}, {"bits": 4}, {"bits": 1}]
KEEP = pytest.mark.parametrize("kept", KEPT, ids=str)
CHEAP = Effort(probes=6, candidates=6, rescored=2)


def ragged(items: Sequence[Tensor]) -> Ragged:
    lengths = torch.tensor([0, *(len(item) for item in items)])
    return Ragged(torch.cat([torch.empty(0, DIM), *items]), lengths.cumsum(0))


def world(items: int = ITEMS, queries: int = 12, seed: int = 0) -> tuple[list[Tensor], Tensor]:
    """Items of 0 to 6 unit vectors around 40 topics; queries of 1 to 5 tokens, padded with zeros."""
    draw = torch.Generator().manual_seed(seed)
    topics = torch.randn(40, DIM, generator=draw)

    def tokens(n: int) -> Tensor:
        own = topics[torch.randint(40, (n,), generator=draw)]
        return torch.nn.functional.normalize(own + 0.5 * torch.randn(n, DIM, generator=draw), dim=-1)

    of = [tokens(n) for n in torch.randint(7, (items,), generator=draw).tolist()]
    asked = [tokens(n) for n in torch.randint(1, 6, (queries,), generator=draw).tolist()]
    return of, torch.nn.utils.rnn.pad_sequence([*asked, torch.zeros(5, DIM)], batch_first=True)[:-1]


def build(items: Sequence[Tensor], keys: Tensor | None = None, **config: object) -> MultiVectorIndex:
    options = MultiVectorConfig.parse({"storage": "float32", **config})
    return MultiVectorIndex.build(ragged(items), keys, "model", config=options)


def naive(
    items: Sequence[Tensor], keys: Tensor, query: Tensor, k: int, exclude: Ragged | None = None
) -> Candidates:
    scores = torch.full((len(query), len(items)), -torch.inf)
    for q, tokens in enumerate(query):
        for i, item in enumerate(items):
            if len(item) and (exclude is None or int(keys[i]) not in exclude[q].tolist()):
                scores[q, i] = (tokens @ item.T).amax(1).sum()
    own = keys.expand(len(query), -1).masked_fill(scores == -torch.inf, NO_ITEM)
    found = Candidates(own, scores).sorted().best(k)
    missing = (0, k - found.keys.shape[1])
    pad = torch.nn.functional.pad
    return Candidates(pad(found.keys, missing, value=NO_ITEM), pad(found.scores, missing, value=-torch.inf))


def recall(found: Candidates, truth: Candidates) -> float:
    hits = (found.keys[:, :, None] == truth.keys[:, None, :]) & truth.mask[:, None, :]
    return float(hits.sum() / truth.mask.sum())


def assert_same_lists(found: Candidates, truth: Candidates) -> None:
    """The same items with the same scores. An item stands here under several keys, and a matrix product of
    another shape rounds its score otherwise: such keys may change places, no others."""
    torch.testing.assert_close(found.scores, truth.scores)
    assert torch.equal(found.keys.sort(1).values, truth.keys.sort(1).values)
    by_key = [torch.gather(c.scores, 1, c.keys.argsort(1)) for c in (found, truth)]
    torch.testing.assert_close(*by_key)


def kept_of(index: MultiVectorIndex) -> list[Tensor]:
    """The items' vectors as the index has them."""
    return list(index.vectors.take(torch.arange(len(index))))


@KEEP
def test_finds_what_a_loop_over_all_items_finds(kept: dict[str, object]) -> None:
    items, query = world()
    keys = torch.randperm(3 * ITEMS, generator=torch.Generator().manual_seed(1))[:ITEMS]
    index = build(items, keys, **kept)
    assert isinstance(index, Index)
    assert (len(index), index.dim, index.produced_by) == (ITEMS, DIM, "model")
    own, sorted_keys = kept_of(index), keys.sort().values
    truth = naive(own, sorted_keys, query, 20)
    found = index.search(query, 20)
    assert recall(found, truth) >= 0.99
    # scores are those of what is kept, best first
    for q in range(len(query)):
        at = torch.searchsorted(sorted_keys, found.keys[q])
        again = torch.stack([(query[q] @ own[i].T).amax(1).sum() for i in at.tolist()])
        torch.testing.assert_close(found.scores[q], again, rtol=1e-5, atol=1e-5)
    assert torch.equal(found.keys, found.sorted().keys)
    # the less is kept, the further from the vectors themselves
    floor = {"float32": 0.99, "bfloat16": 0.99, "4 bits": 0.85, "1 bits": 0.6}[index.vectors.dtype]
    assert recall(found, naive(items, keys, query, 20)) >= floor


def test_every_stage_may_be_too_short_and_none_changes_a_score() -> None:
    items, query = world()
    index, keys = build(items, centroids=64), torch.arange(ITEMS)
    truth = naive(items, keys, query, 30)
    efforts = [CHEAP, Effort(probes=6, candidates=20), Effort(probes=64, candidates=40, rescored=10)]
    shares = []
    for effort in efforts:
        found = index.search(query, 30, effort=effort)
        shares.append(recall(found, truth))
        assert found.mask.all()
        at = found.keys[0, -1]  # the last one's score is true as well
        torch.testing.assert_close(found.scores[0, -1], (query[0] @ items[int(at)].T).amax(1).sum())
    assert shares[0] <= shares[1] <= shares[2]
    assert shares[0] >= 0.5
    assert shares[2] == 1.0


def test_all_negative_similarities() -> None:
    items, query = world(600)
    negative = [-item.abs() - 0.1 for item in items]
    index = build(negative)
    found = index.search(query.abs(), 10)
    assert found.mask.all()
    assert (found.scores < 0).all()
    assert recall(found, naive(negative, torch.arange(600), query.abs(), 10)) >= 0.9


def test_equal_scores_stand_by_rising_key_also_at_the_cut() -> None:
    keys = torch.randperm(600, generator=torch.Generator().manual_seed(2))
    index = build([torch.ones(2, DIM) * (1 + i % 2) for i in range(600)], keys)
    twice = keys[1::2].sort().values.tolist()
    once = keys[0::2].sort().values.tolist()
    query = torch.ones(2, 3, DIM)
    assert index.search(query, 600).keys.tolist() == [twice + once] * 2
    assert index.search(query, 7).keys.tolist() == [twice[:7]] * 2


@pytest.mark.parametrize("items", [0, 1, 90])
def test_k_above_the_size_pads_and_items_without_tokens_are_never_found(items: int, tmp_path: Path) -> None:
    of, query = world(items, 3)
    index = build(of, **KEPT[0])
    index.save(tmp_path)
    for one in (index, MultiVectorIndex.load(tmp_path)):
        found = one.search(query, items + 5)
        assert torch.equal(found.keys, naive(of, torch.arange(items), query, items + 5).keys)
        assert (found.scores[:, items:] == -torch.inf).all()


def test_exclusion_costs_no_place() -> None:
    items, query = world()
    index, keys = build(items), torch.arange(ITEMS)
    best = index.search(query, 60).keys
    rows = [[*row, *row[:3], 10**9, NO_ITEM] for row in best.tolist()]
    rows[3], rows[5], rows[6] = [], list(range(ITEMS)), list(range(ITEMS - 7))
    exclude = Ragged.of(rows)
    found, truth = index.search(query, 20, exclude), naive(items, keys, query, 20, exclude)
    assert torch.equal(found.counts, truth.counts)
    assert recall(found, truth) >= 0.99
    for kept, gone in zip(found.keys.tolist(), rows, strict=True):
        assert not set(kept) & set(gone) - {NO_ITEM}


def test_what_is_allowed_is_found_however_little_it_is() -> None:
    items, query = world()
    index = build(items)
    allow = torch.arange(ITEMS) % 50 == 7
    found = search_allowed(index, query, 10, allow)
    assert torch.equal(
        found.keys,
        naive(
            items,
            torch.arange(ITEMS),
            query,
            10,
            Ragged.of([torch.arange(ITEMS)[~allow].tolist()] * len(query)),
        ).keys,
    )


@KEEP
def test_saving_and_loading_change_nothing(kept: dict[str, object], tmp_path: Path) -> None:
    items, query = world()
    index = build(items, torch.arange(ITEMS) + 5, **kept)
    index.save(tmp_path)
    again = MultiVectorIndex.load(tmp_path, expect="model")
    before, after = index.search(query, 20), again.search(query, 20)
    assert torch.equal(before.keys, after.keys)
    assert torch.equal(before.scores, after.scores)
    assert (repr(again), again.bytes_per_item) == (repr(index), index.bytes_per_item)
    with pytest.raises(MismatchError, match="produced by model, expected other"):
        MultiVectorIndex.load(tmp_path, expect="other")
    for path in tmp_path.glob("*-*.bin"):
        whole = bytearray(path.read_bytes())
        whole[len(whole) // 2] ^= 1
        path.write_bytes(whole)
        with pytest.raises(StorageError, match="checksum is wrong"):
            MultiVectorIndex.load(tmp_path)
        whole[len(whole) // 2] ^= 1
        path.write_bytes(whole)


def test_codes_take_the_bytes_they_should() -> None:
    items, _ = world()
    tokens = sum(map(len, items))
    sizes = {str(kept): build(items, **kept).vectors.n_bytes for kept in KEPT}
    rest = 8 * ITEMS + 8 * (ITEMS + 1) + 4 * tokens + 4 * DIM * len(build(items).vectors.centroids)
    assert [size - rest for size in sizes.values()] == [tokens * n for n in (64, 32, 8, 2)]


def test_padding_of_a_query_and_one_without_tokens() -> None:
    items, query = world(400)
    index = build(items)
    wider = torch.nn.functional.pad(query, (0, 0, 0, 3))
    assert torch.equal(index.search(wider, 9).scores, index.search(query, 9).scores)
    nothing = index.search(torch.zeros(1, 4, DIM), 3)
    full = [i for i, item in enumerate(items) if len(item)][:3]
    assert (nothing.keys.tolist(), nothing.scores.tolist()) == ([full], [[0.0] * 3])
    assert index.search(torch.empty(0, 4, DIM), 3, Ragged.of([])).keys.shape == (0, 3)


def test_one_vector_an_item_is_an_index_of_inner_products() -> None:
    vectors = torch.randn(300, DIM, generator=torch.Generator().manual_seed(0))
    index = MultiVectorIndex.build(vectors, config=MultiVectorConfig(storage="float32"))
    found = index.search(vectors[:4], 5)
    torch.testing.assert_close(found.scores, (vectors[:4] @ vectors.T).topk(5).values)


def test_broken_requests_and_vectors_are_named() -> None:
    items, query = world(300)
    index = build(items)
    with pytest.raises(ConfigError, match="k must be at least 1, found 0"):
        index.search(query, 0)
    with pytest.raises(ConfigError, match="1 rows for 12 queries"):
        index.search(query, 5, Ragged.of([[1]]))
    with pytest.raises(DataError, match="query vector holds NaN"):
        index.search(query.masked_fill(query > 0.5, torch.nan), 5)
    with pytest.raises(MismatchError, match=r"expected \(Q, 16\) or \(Q, L, 16\)"):
        index.search(torch.ones(1, 2, DIM + 1), 5)
    bad = [item.clone() for item in items]
    first = next(i for i, item in enumerate(items) if len(item))
    bad[first][0, 3] = torch.nan
    with pytest.raises(DataError, match=f"1 of 300 .* the one of key {2 * first}"):
        build(bad, torch.arange(300) * 2)
    with pytest.raises(ConfigError, match="occur once"):
        build(items, torch.arange(300) // 2)
    with pytest.raises(ConfigError, match="0 or more"):
        build(items, torch.arange(300) - 1)
    with pytest.raises(ConfigError, match="as many keys"):
        build(items, torch.arange(299))
    with pytest.raises(ConfigError, match=r"must be \(C, D\)"):
        MultiVectorIndex.build(torch.ones(300))
    with pytest.raises(ConfigError, match="bits"):
        MultiVectorConfig.parse({"bits": 3})


def test_numbers_too_large_for_their_storage_are_refused() -> None:
    tokens = torch.tensor([[1e5, 0.0], [1.0, -1e5]])
    with pytest.raises(DataError, match=r"holds 100000, too much for torch.float16\n.*bfloat16"):
        MultiVectorIndex.build(tokens)
    index = MultiVectorIndex.build(tokens, config=MultiVectorConfig(storage="bfloat16"))
    assert index.search(torch.tensor([[0.0, 1.0]]), 2).keys.tolist() == [[0, 1]]


def test_where_no_item_has_a_token_nothing_is_found() -> None:
    none = Ragged(torch.empty(0, DIM), torch.zeros(101, dtype=torch.int64))
    assert MultiVectorIndex.build(none).search(torch.ones(1, 2, DIM), 3).keys.tolist() == [[-1, -1, -1]]


# -- changes ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("start", [0, 40])
def test_random_changes_leave_what_building_afresh_gives(start: int, tmp_path: Path) -> None:
    draw = torch.Generator().manual_seed(3)
    pool, query = world(400, 4, seed=5)
    of = dict(enumerate(pool[:start]))
    index = MultiVectorDelta(build(list(of.values())))
    for step in range(24):
        keys = torch.randperm(70, generator=draw)[: 1 + step % 5]
        if step % 3 == 2:
            there = [key for key in keys.tolist() if key in of]
            assert index.delete(keys) == len(there)
            for key in there:
                del of[key]
        else:
            new = [pool[int(i)] for i in torch.randint(400, (len(keys),), generator=draw)]
            index.upsert(keys, ragged(new))
            of |= dict(zip(keys.tolist(), new, strict=True))
        if step % 8 == 7:
            index.compact()
            assert (index.n_fresh, index.n_gone) == (0, 0)
        at = torch.tensor(sorted(of))
        exclude = Ragged.of([at[:3].tolist(), [], [10**6], at[::2].tolist()])
        truth = naive([of[key] for key in at.tolist()], at, query, 75, exclude)
        found = index.search(query, 75, exclude)
        assert_same_lists(found, truth)
        assert len(index) == len(of)
    index.save(tmp_path)
    again = MultiVectorDelta.load(tmp_path, "model")
    assert_same_lists(again.search(query, 75, exclude), truth)
    with pytest.raises(ConfigError, match="1 of 1 keys are in the index already"):
        index.add(at[:1], ragged(pool[:1]))
    with pytest.raises(MismatchError, match="vectors of 3 floats for an index of 16"):
        index.upsert(at[:1], Ragged(torch.ones(1, 3), torch.tensor([0, 1])))


@pytest.mark.parametrize("bits", [None, 2])
def test_compacting_encodes_nothing_again(bits: int | None) -> None:
    items, _ = world(300)
    base = build(items, bits=bits)
    before = kept_of(base)
    index = MultiVectorDelta(base)
    index.delete(torch.arange(0, 300, 7))
    index.upsert(torch.tensor([1, 500]), ragged([items[8], items[9]]))
    index.compact()
    now = index._state.base
    assert torch.equal(now.vectors.centroids, base.vectors.centroids)
    for key in (2, 150, 299):
        position = now.vectors.positions(torch.tensor([key]))
        assert torch.equal(now.vectors.take(position).values, before[key])
    assert int(now.vectors.keys[-1]) == 500


def test_the_centroids_follow_a_collection_that_grows() -> None:
    items, query = world(400)
    index = MultiVectorDelta(build(items[:50]))
    index.upsert(torch.arange(50, 400), ragged(items[50:]))
    index.compact()
    base = index._state.base
    assert base.fitted == base.vectors.n_tokens == sum(map(len, items))
    assert recall(index.search(query, 10), naive(items, torch.arange(400), query, 10)) >= 0.99
