"""BM25 against the formula, one pair at a time, and what it promises as a retriever."""

from __future__ import annotations

import math

import pytest
import torch

from twotower.baselines.bm25 import BM25, Postings
from twotower.errors import ConfigError, DataError, MismatchError
from twotower.types import Ragged

V, N, Q, K1, B = 40, 60, 9, 1.2, 0.75


def drawn(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Documents (N, 12) and queries (Q, 6): some empty, tokens repeated, UNKNOWN among them."""
    draw = torch.Generator().manual_seed(seed)
    documents = (torch.rand(N, 12, generator=draw) ** 2 * (V - 1)).long() + 1
    documents *= torch.arange(12) < torch.randint(0, 13, (N, 1), generator=draw)
    documents[3] = 0
    queries = torch.randint(1, V, (Q, 6), generator=draw)
    queries *= torch.arange(6) < torch.randint(1, 7, (Q, 1), generator=draw)
    queries[0, :3], queries[1] = 5, 0  # a token three times; nothing at all
    return documents, queries


def naive(
    query: list[int], document: list[int], documents: list[list[int]], variant: str = "lucene"
) -> float:
    """The sum over the query's tokens, written down."""
    lengths = [sum(token != 0 for token in other) for other in documents]
    norm = K1 * (1 - B + B * sum(token != 0 for token in document) / (sum(lengths) / len(lengths)))
    total = 0.0
    for token in query:
        tf = document.count(token)
        if token in (0, 1) or not tf:
            continue
        n, df = len(documents), sum(token in other for other in documents)
        idf = {
            "lucene": math.log(1 + (n - df + 0.5) / (df + 0.5)),
            "robertson": max(0.0, math.log((n - df + 0.5) / (df + 0.5))),
            "atire": math.log(n / df) * (K1 + 1),
        }[variant]
        total += idf * tf / (tf + norm)
    return total


@pytest.mark.parametrize("variant", ["lucene", "robertson", "atire"])
@pytest.mark.parametrize("seed", [0, 1])
def test_it_is_the_formula_searched_and_asked_for_pairs(variant: str, seed: int) -> None:
    documents, queries = drawn(seed)
    bm25 = BM25(K1, B, variant).fit(documents, V)
    plain = documents.tolist()
    expected = torch.tensor([[naive(q, d, plain, variant) for d in plain] for q in queries.tolist()])
    every = torch.arange(N).expand(Q, N)
    torch.testing.assert_close(bm25.scores_of(queries, every), expected)
    found = bm25.search(queries, N)
    for row in range(Q):
        order = sorted((-score, key) for key, score in enumerate(expected[row].tolist()) if score > 0)
        real = found.keys[row][found.mask[row]].tolist()
        assert sorted(real) == sorted(key for _, key in order)
        torch.testing.assert_close(found.scores[row][: len(real)], -torch.tensor([s for s, _ in order]))


def test_scores_of_given_documents_are_those_of_the_search_to_the_bit() -> None:
    documents, queries = drawn()
    bm25 = BM25().fit(documents, V)
    found = bm25.search(queries, 20)
    given = bm25.scores_of(queries, found.keys)
    assert torch.equal(given[found.mask], found.scores[found.mask])
    assert (given[~found.mask] == 0).all()
    shuffled = queries[:, torch.tensor([4, 1, 5, 0, 3, 2])]  # the same words in another order
    assert torch.equal(bm25.search(shuffled, 20).scores, found.scores)


def test_by_hand() -> None:
    bm25 = BM25(k1=1.0, b=0.0).fit(torch.tensor([[2, 2, 3], [3, 0, 0]]), 4)
    # token 2: in 1 of 2, ln(1 + 1.5 / 1.5), twice there: 2 / 3; token 3: in both, ln(1 + 0.5 / 2.5), 1 / 2
    two, three = math.log(2) * 2 / 3, math.log(1.2) / 2
    scores = bm25.scores_of(torch.tensor([[2, 3], [2, 2]]), torch.tensor([[0, 1], [0, 1]]))
    torch.testing.assert_close(scores, torch.tensor([[two + three, three], [2 * two, 0.0]]))


def test_a_document_without_a_shared_token_is_no_candidate() -> None:
    documents = torch.tensor([[2, 1], [3, 4], [0, 0]])
    found = BM25().fit(documents, 6).search(torch.tensor([[2, 0], [1, 0], [0, 0], [5, 99]]), 3)
    assert found.keys.tolist() == [[0, -1, -1], *[[-1, -1, -1]] * 3]  # UNKNOWN, nothing, in none, beyond all
    assert (found.scores[1:] == -torch.inf).all()


def test_an_unknown_word_is_part_of_the_length() -> None:
    bm25 = BM25().fit(torch.tensor([[2, 1, 1], [2, 0, 0]]), 3)
    assert bm25.search(torch.tensor([[2]]), 2).keys.tolist() == [[1, 0]]


def test_ties_stand_in_the_order_of_keys_and_k_may_exceed_the_size() -> None:
    bm25 = BM25().fit(torch.tensor([[3, 2], [4, 4], [2, 3], [2, 5]]), 6)
    assert bm25.search(torch.tensor([[2]]), 2).keys.tolist() == [[0, 2]]
    assert bm25.search(torch.tensor([[2]]), 9).keys.tolist() == [[0, 2, 3, *[-1] * 6]]
    assert bm25.search(torch.zeros(0, 4, dtype=torch.int64), 3).keys.shape == (0, 3)


def test_excluded_and_not_allowed_documents_cost_no_place() -> None:
    documents, queries = drawn()
    bm25 = BM25().fit(documents, V)
    whole = bm25.search(queries, N)
    allow = torch.rand(Q, N, generator=torch.Generator().manual_seed(4)) < 0.6
    exclude = Ragged.of([[row, row + 9, N + 4, -1] for row in range(Q)])
    found = bm25.search(queries, 7, exclude, allow)
    for row in range(Q):
        keys = [key for key in whole.keys[row].tolist() if key >= 0 and allow[row, key]]
        kept = [key for key in keys if key not in (row, row + 9)][:7]
        assert found.keys[row].tolist() == kept + [-1] * (7 - len(kept))
    same = bm25.search(queries, 7, exclude, allow[2])
    assert torch.equal(same.keys[2], found.keys[2])
    short = bm25.search(queries, 7, allow=torch.ones(10, dtype=torch.bool))  # keys beyond it are not allowed
    assert int(short.keys.max()) < 10
    long = bm25.search(queries, 7, allow=torch.ones(99, dtype=torch.bool))
    assert torch.equal(long.keys, whole.keys[:, :7])
    assert not bm25.search(queries, 7, allow=torch.zeros(N, dtype=torch.bool)).mask.any()


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    documents, queries = drawn()
    bm25 = BM25().fit(documents, V)
    keys = torch.randint(-1, N + 5, (Q, 8), generator=torch.Generator().manual_seed(2))
    found, given = bm25.search(queries, 9), bm25.scores_of(queries, keys)
    monkeypatch.setattr("twotower.baselines.bm25.SCORES_AT_ONCE", 2 * N)
    again = bm25.search(queries, 9)
    assert torch.equal(again.keys, found.keys)
    assert torch.equal(again.scores, found.scores)
    assert torch.equal(bm25.scores_of(queries, keys), given)
    assert (given[(keys < 0) | (keys >= N)] == 0).all()
    assert bm25.scores_of(queries, keys[:, :0]).shape == (Q, 0)


def test_restored_it_scores_the_same_bytes() -> None:
    documents, queries = drawn()
    bm25 = BM25(0.9, 0.4).fit(documents, V)
    again = BM25(0.9, 0.4).restore(N, V, bm25.state())
    assert torch.equal(again.search(queries, 9).scores, bm25.search(queries, 9).scores)
    every = torch.arange(N).expand(Q, N)
    assert torch.equal(again.scores_of(queries, every), bm25.scores_of(queries, every))
    assert again.bytes_per_item == bm25.bytes_per_item > 0


def test_another_or_a_damaged_state_is_refused() -> None:
    documents, _ = drawn()
    state = BM25().fit(documents, V).state()
    starts, found = state["starts"], state["documents"]
    last = int(found.max())
    for n, size, changed in (
        (last, V, {}),
        (N, V + 1, {}),
        (N, V, {"weights": state["weights"][1:]}),
        (N, V, {"starts": starts.float()}),
        (N, V, {"starts": starts.flip(0)}),
        (N, V, {"documents": found - 1}),
        (N, V, {"more": starts}),
    ):
        with pytest.raises(MismatchError, match="fit it again"):
            BM25().restore(n, size, {**state, **changed})


def test_wrong_options_and_texts_are_named() -> None:
    with pytest.raises(ConfigError, match=r"b from 0 to 1, found 1\.2 and 2"):
        BM25(b=2)
    with pytest.raises(ConfigError, match="k1 of at least 0"):
        BM25(k1=-1)
    with pytest.raises(ConfigError, match="'bm25l' of BM25; known: atire"):
        BM25(variant="bm25l")
    with pytest.raises(ConfigError, match="call fit first"):
        BM25().search(torch.tensor([[2]]), 1)
    with pytest.raises(DataError, match="not one of 2 documents holds a known token"):
        BM25().fit(torch.tensor([[0], [1]]), 3)
    with pytest.raises(DataError, match="token indices 0 to 3 in a vocabulary of 3"):
        BM25().fit(torch.tensor([[0], [3]]), 3)
    bm25 = BM25().fit(torch.tensor([[2]]), 3)
    with pytest.raises(ConfigError, match="exclude has 2 rows for 1 queries"):
        bm25.search(torch.tensor([[2]]), 1, Ragged.of([[], []]))
    with pytest.raises(ConfigError, match="allow must be a bool mask"):
        bm25.search(torch.tensor([[2]]), 1, allow=torch.ones(3, 1, dtype=torch.bool))


def nothing() -> torch.Tensor:
    return torch.empty(0, dtype=torch.int64)


@pytest.mark.parametrize("variant", ["lucene", "robertson", "atire"])
def test_changed_it_is_a_fit_to_the_documents_that_there_are_to_the_bit(variant: str) -> None:
    documents, queries = drawn()
    more, _ = drawn(1)
    now, there = torch.cat([documents, torch.zeros(9, 12, dtype=torch.int64)]), torch.arange(N + 9) < N
    before = Postings.of(documents, V)
    kept = [tensor.clone() for tensor in vars(before).values()]
    bm25, postings = BM25(K1, B, variant).learn(before), before
    for gone, keys in (
        ([0, 7, 59], [3, 12, 60]),  # deleted; changed, one of them empty before; new
        ([60, 500], [7]),  # the new one, and one that never was; back again
        ([], [66, 61]),  # between them keys without a document
        ([12], []),
    ):
        rows = more[torch.tensor(keys, dtype=torch.int64) % N, : 12 if keys else 0]
        at = torch.tensor(keys, dtype=torch.int64)
        postings = postings.changed(torch.tensor(gone, dtype=torch.int64), at, rows)
        there[[key for key in gone if key < len(there)]] = False
        now[at, : rows.shape[1]], there[at] = rows, True
        changed = bm25.with_changes(postings)
        alive = there.nonzero()[:, 0]
        afresh = BM25(K1, B, variant).fit(now[there], V)
        found, expected = changed.search(queries, 30), afresh.search(queries, 30)
        assert torch.equal(found.keys, torch.where(expected.mask, alive[expected.keys.clamp(min=0)], -1))
        assert torch.equal(found.scores, expected.scores)
        every = torch.arange(len(alive)).expand(Q, -1)
        assert torch.equal(changed.scores_of(queries, alive[every]), afresh.scores_of(queries, every))
        dead = (~there).nonzero()[:, 0].expand(Q, -1)
        assert (changed.scores_of(queries, dead) == 0).all()
    assert all(torch.equal(a, b) for a, b in zip(vars(before).values(), kept, strict=True))
    assert torch.equal(
        bm25.search(queries, 9).scores, BM25(K1, B, variant).fit(documents, V).search(queries, 9).scores
    )


def test_without_any_document_it_finds_nothing_and_can_begin_again() -> None:
    postings = Postings.of(torch.tensor([[2, 3], [3, 4]]), 6).changed(
        torch.arange(2), nothing(), torch.zeros(0, 2)
    )
    none = BM25().learn(postings)
    assert not none.search(torch.tensor([[2, 3]]), 2).mask.any()
    assert none.scores_of(torch.tensor([[2, 3]]), torch.tensor([[0, 1]])).tolist() == [[0, 0]]
    again = none.with_changes(postings.changed(nothing(), torch.tensor([1]), torch.tensor([[2, 1]])))
    assert again.search(torch.tensor([[2, 3]]), 2).keys.tolist() == [[1, -1]]
    with pytest.raises(DataError, match="token indices 2 to 6 in a vocabulary of 6"):
        postings.changed(nothing(), torch.tensor([1]), torch.tensor([[2, 6]]))
