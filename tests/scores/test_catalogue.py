"""Best k of the whole catalogue: equal to a full sort with the tie rule, for any chunk size."""

import pytest
import torch

from twotower.errors import ConfigError
from twotower.scores.catalogue import chunks, top_k, top_k_of
from twotower.types import NO_ITEM, Ragged

INF = float("inf")
KINDS = ("normal", "tied", "negative", "equal")


def make_scores(kind: str, n_queries: int = 7, n_items: int = 1500) -> torch.Tensor:
    generator = torch.Generator().manual_seed(n_items)
    normal = torch.randn(n_queries, n_items, generator=generator)
    return {
        "normal": normal,
        "tied": (normal * 2).round(),
        "negative": -normal.abs() - 1,
        "equal": torch.zeros_like(normal),
    }[kind]


def by_sorting(scores: torch.Tensor, k: int, exclude: Ragged | None = None):
    """The oracle: Python's sort of (score descending, key ascending)."""
    keys, values = [], []
    for row, scores_of_row in enumerate(scores.tolist()):
        banned = set() if exclude is None else set(exclude[row].tolist())
        left = [i for i, s in enumerate(scores_of_row) if i not in banned and s != -INF]
        best = sorted(left, key=lambda i: (-scores_of_row[i], i))[:k]
        keys.append(best + [NO_ITEM] * (k - len(best)))
        values.append([scores_of_row[i] for i in best] + [-INF] * (k - len(best)))
    return torch.tensor(keys), torch.tensor(values)


def assert_best(found, scores, k, exclude=None):
    keys, values = by_sorting(scores, k, exclude)
    assert torch.equal(found.keys, keys)
    assert torch.equal(found.scores, values)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("k", [1, 4, 100, 1500, 1600])
@pytest.mark.parametrize("chunk", [13, 700, 1500])
def test_equals_sorting(kind, k, chunk):
    scores = make_scores(kind)
    memory_mb = chunk * 4 * len(scores) / 2**20
    found = top_k_of(lambda a, b: scores[:, a:b], len(scores), 1500, k, memory_mb=memory_mb)
    assert_best(found, scores, k)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("memory_mb", [0.001, 64.0])
def test_excluded_items_never_return_and_k_is_still_filled(kind, memory_mb):
    scores = make_scores(kind, 4, 300)
    before = scores.clone()
    everything_but_two = [i for i in range(300) if i not in (5, 250)]
    exclude = Ragged.of([[0, 299, 17], [], everything_but_two, scores[3].topk(50).indices.tolist()])
    found = top_k_of(lambda a, b: scores[:, a:b], 4, 300, 20, exclude=exclude, memory_mb=memory_mb)
    assert_best(found, scores, 20, exclude)
    assert found.counts.tolist() == [20, 20, 2, 20]
    assert torch.equal(scores, before)  # a scorer's own tensor is not written over


@pytest.mark.parametrize("memory_mb", [0.0005, 64.0])
def test_vectors_with_exclusion_and_mask(memory_mb):
    generator = torch.Generator().manual_seed(3)
    # small integers: products are exact, so chunks cannot differ by rounding, and ties abound
    query = torch.randint(-2, 3, (9, 4), generator=generator).float()
    item = torch.randint(-2, 3, (200, 4), generator=generator).float()
    mask = torch.rand(200, generator=generator) < 0.8
    exclude = Ragged.of([list(range(row * 3)) for row in range(9)])
    found = top_k(query, item, 10, exclude=exclude, mask=mask, memory_mb=memory_mb)
    assert_best(found, (query @ item.T).masked_fill(~mask, -INF), 10, exclude)


def test_scores_of_minus_infinity_are_no_candidates():
    scores = torch.full((2, 400), -INF)
    scores[1, 399] = -1e30
    found = top_k_of(lambda a, b: scores[:, a:b], 2, 400, 3)
    assert found.keys.tolist() == [[NO_ITEM] * 3, [399, NO_ITEM, NO_ITEM]]


def test_negative_zero_ties_with_zero():
    scores = torch.tensor([[-0.0, 0.0, -0.0, 0.0]])
    assert top_k_of(lambda a, b: scores[:, a:b], 1, 4, 3).keys.tolist() == [[0, 1, 2]]


def test_no_queries_and_no_items():
    assert top_k(torch.zeros(0, 3), torch.zeros(5, 3), 2).keys.shape == (0, 2)
    assert top_k(torch.zeros(2, 3), torch.zeros(0, 3), 2).keys.tolist() == [[NO_ITEM] * 2] * 2


def test_factorized_top_k_of_a_hundred_candidates():
    """TensorFlow Recommenders' FactorizedTopK test: streaming, brute force and in-top-k agree."""
    generator = torch.Generator().manual_seed(42)
    query, item = torch.randn(100, 4, generator=generator), torch.randn(100, 4, generator=generator)
    scores = query @ item.T
    positive = scores.diagonal()
    rank = (scores > positive[:, None]).sum(1)
    for k in (1, 5, 10, 50):
        streamed = top_k(query, item, k, memory_mb=0.004)
        whole = top_k(query, item, k)
        assert torch.equal(streamed.keys, whole.keys)
        found = (whole.keys == torch.arange(100)[:, None]).any(1)
        assert torch.equal(found, rank < k)


def test_half_precision_scores_are_compared_in_float32():
    scores = torch.tensor([[1.0, 2.0]], dtype=torch.bfloat16)
    assert top_k_of(lambda a, b: scores[:, a:b], 1, 2, 1).scores.dtype == torch.float32


def test_chunks_keep_the_budget_and_cover_all():
    for n_queries, n_items, memory_mb in ((1, 10, 1.0), (1000, 5000, 1.0), (10**7, 3, 1.0), (5, 0, 1.0)):
        parts = chunks(n_queries, n_items, memory_mb)
        assert [i for start, stop in parts for i in range(start, stop)] == list(range(n_items))
        assert all(stop - start == 1 or 4 * n_queries * (stop - start) <= 2**20 for start, stop in parts)


def test_mistakes_are_named():
    scores = torch.zeros(2, 3)
    with pytest.raises(ConfigError, match="k must be at least 1"):
        top_k(scores, scores, 0)
    with pytest.raises(ConfigError, match="1 lists for 2 queries"):
        top_k_of(lambda a, b: scores[:, a:b], 2, 3, 1, exclude=Ragged.of([[0]]))
    with pytest.raises(ConfigError, match="the scorer gave"):
        top_k_of(lambda a, b: scores, 2, 2, 1)


@pytest.mark.parametrize("memory_mb", [4e-6, 32.0])
def test_nan_is_no_candidate_in_whatever_chunks(memory_mb):
    nan = float("nan")
    scores = torch.tensor([[nan, 1.0, 2.0, 0.0], [nan, nan, nan, 3.0]])
    found = top_k_of(lambda start, stop: scores[:, start:stop], 2, 4, k=2, memory_mb=memory_mb)
    assert found.keys.tolist() == [[2, 1], [3, -1]]
