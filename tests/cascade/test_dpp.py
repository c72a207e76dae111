"""The fast greedy search against determinants, computed anew for every candidate and every pick."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from twotower.cascade.dpp import SPENT, dpp
from twotower.cascade.likeness import by_angle, by_values


def kernel(relevance, vectors, weight, strength=1.0):
    """L = diag(q) S diag(q) of one query, as the paper writes it."""
    unit = torch.nn.functional.normalize(vectors.double(), dim=-1)
    q = torch.exp(weight / (2 * (1 - weight)) * relevance.double())
    alike = strength * (1 + unit @ unit.mT) / 2 + (1 - strength) * torch.eye(len(unit))
    return q[:, None] * alike * q


def naive(matrix, k, window=None):
    chosen = []
    while len(chosen) < min(k, len(matrix)):
        before = chosen if window is None else chosen[len(chosen) - min(len(chosen), window - 1) :]
        left = [i for i in range(len(matrix)) if i not in chosen]
        value = [torch.linalg.slogdet(matrix[[*before, i]][:, [*before, i]]).logabsdet for i in left]
        best = max(value) - 1e-9  # of equals the first, whatever rounding says
        chosen.append(next(i for i, v in zip(left, value, strict=True) if v >= best))
    return chosen


def by_distance(relevance, matrix, k, weight, window):
    """The same for a likeness without full rank, where determinants are zero: distances from the span."""
    chosen = []
    while len(chosen) < k:
        before = chosen[len(chosen) - min(len(chosen), window - 1) :]
        across = matrix[:, before]
        inside = (across @ torch.linalg.pinv(across[before], rtol=1e-8) * across).sum(1)
        gain = weight * relevance + (1 - weight) * (1 - inside).clamp_min(SPENT).log()
        gain[chosen] = -torch.inf
        chosen.append(int((gain >= gain.max() - 1e-9).nonzero()[0]))
    return chosen


def drawn(seed, width, dims, queries=2):
    draw = torch.Generator().manual_seed(seed)
    return torch.rand(queries, width, generator=draw), torch.randn(queries, width, dims, generator=draw)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 10**6),
    st.integers(1, 10),
    st.integers(0, 11),
    st.sampled_from([0.0, 0.4, 0.7, 0.9]),
    st.sampled_from([None, 2, 3, 4, 20]),
)
def test_equals_the_greedy_search_by_determinants(seed, width, k, weight, window):
    relevance, vectors = drawn(seed, width, dims=12)  # more dimensions than items: nothing is spent
    found = dpp(relevance, by_angle(vectors), k, weight=weight, window=window).tolist()
    assert found == [naive(kernel(relevance[q], vectors[q], weight), k, window) for q in range(2)]


def test_equals_it_over_a_long_list_and_many_windows():
    relevance, vectors = drawn(5, width=60, dims=16)
    found = dpp(relevance, by_angle(vectors), 60, weight=0.5, window=6).tolist()
    assert found == [naive(kernel(relevance[q], vectors[q], 0.5), 60, window=6) for q in range(2)]


@pytest.mark.parametrize("window", [None, 5])
def test_a_strength_below_one_keeps_twins_apart_and_every_determinant_above_zero(window):
    relevance, vectors = drawn(7, width=20, dims=3)
    vectors[:, 10:] = vectors[:, :10]
    found = dpp(relevance, by_angle(vectors), 20, weight=0.6, strength=0.8, window=window).tolist()
    assert found == [naive(kernel(relevance[q], vectors[q], 0.6, 0.8), 20, window) for q in range(2)]


def test_with_strength_one_category_may_come_twice_before_another_comes_once():
    sort = by_values(torch.tensor([[2, 2, 2, 3]]))
    relevance = torch.tensor([[1.0, 0.9, 0.8, 0.0]])
    for strength, order in ((1.0, [0, 3, 1, 2]), (0.9, [0, 1, 3, 2]), (0.0, [0, 1, 2, 3])):
        assert dpp(relevance, sort, 4, weight=0.7, strength=strength).tolist() == [order]


@pytest.mark.parametrize("seed", range(5))
def test_is_bounded_by_the_best_set_and_no_worse_than_greedy_promises(seed):
    relevance, vectors = drawn(seed, width=8, dims=10, queries=1)
    matrix = kernel(relevance[0], vectors[0], 0.6)
    for k in (1, 2, 3):
        best = max(torch.det(matrix[list(s)][:, list(s)]) for s in itertools.combinations(range(8), k))
        found = dpp(relevance, by_angle(vectors), k, weight=0.6)[0].tolist()
        reached = torch.det(matrix[found][:, found])
        assert reached <= best * (1 + 1e-9)
        assert reached >= best / math.factorial(k) ** 2 * (1 - 1e-9)  # Civril and Magdon-Ismail 2009
        if k == 1:
            assert reached == best


def test_by_hand():
    # a right angle has the likeness 1/2 and leaves d^2 = 3/4, the opposite direction has 0 and leaves all
    vectors = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]]])
    relevance = torch.tensor([[1.0, 0.4, 0.0]])
    assert dpp(relevance, by_angle(vectors), 3, weight=0.0).tolist() == [[0, 2, 1]]
    assert dpp(relevance, by_angle(vectors), 3, weight=0.5).tolist() == [[0, 1, 2]]  # .4 + log .75 > 0


def test_relevance_alone_and_the_size_of_a_scale_are_no_trouble():
    relevance, vectors = drawn(1, width=9, dims=3)
    order = relevance.argsort(dim=1, descending=True).tolist()
    assert dpp(relevance, by_angle(vectors), 9, weight=1.0).tolist() == order
    assert dpp(relevance, by_angle(vectors), 9, weight=1 - 1e-9).tolist() == order  # q = exp(5e8) overflows


@pytest.mark.parametrize("window", [None, 2, 3, 5])
def test_when_nothing_is_new_the_list_goes_on_by_relevance(window):
    same = by_angle(torch.ones(1, 6, 4))
    relevance = torch.tensor([[0.2, 0.9, 0.9, 1.0, 0.0, 0.3]])
    assert dpp(relevance, same, 6, weight=0.3, window=window).tolist() == [[3, 1, 2, 5, 0, 4]]


def test_one_of_each_sort_first_then_the_rest_by_relevance():
    sort = by_values(torch.tensor([[2, 2, 2, 3, 3, 4]]))
    relevance = torch.tensor([[1.0, 0.9, 0.8, 0.7, 0.6, 0.0]])
    assert dpp(relevance, sort, 6, weight=0.5).tolist() == [[0, 3, 5, 1, 2, 4]]


def test_a_window_forgets_and_the_sorts_take_turns():
    sort = by_values(torch.tensor([[2, 2, 2, 3, 3, 3]]))
    relevance = torch.tensor([[1.0, 0.9, 0.8, 0.7, 0.6, 0.0]])
    assert dpp(relevance, sort, 6, weight=0.5, window=2).tolist() == [[0, 3, 1, 4, 2, 5]]


@pytest.mark.parametrize("window", [3, 4, 5])
def test_twins_in_the_window_do_not_keep_what_has_left_it(window):
    """Picks that added nothing must not hide the direction that is to be forgotten."""
    sorts = torch.tensor([[2] * 4 + [3] * 4 + [4] * 4])
    order = dpp(torch.linspace(1, 0, 12)[None], by_values(sorts), 12, weight=0.4, window=window)[0]
    shown = sorts[0][order].tolist()
    if window == 3:
        assert [set(shown[i : i + 3]) for i in range(0, 12, 3)] == [{2, 3, 4}] * 4
    relevance, vectors = drawn(2, width=14, dims=3, queries=1)
    vectors[:, 7:] = vectors[:, :7]  # twins, and a rank of 4
    found = dpp(relevance, by_angle(vectors), 14, weight=0.4, window=window)[0].tolist()
    matrix = kernel(torch.zeros(14), vectors[0], 0.4)
    assert found == by_distance(relevance[0].double(), matrix, 14, 0.4, window)


@pytest.mark.parametrize("weight", [0.0, 0.5, 1.0])
def test_equals_stand_in_their_order(weight):
    assert (
        dpp(torch.ones(2, 5), by_angle(torch.ones(2, 5, 3)), 5, weight=weight).tolist()
        == [[0, 1, 2, 3, 4]] * 2
    )


@pytest.mark.parametrize("window", [None, 3])
def test_empty_slots_are_last_and_change_nothing(window):
    relevance, vectors = drawn(3, width=6, dims=5, queries=1)
    mask = torch.tensor([[True, True, False, True, False, True]])
    real = mask[0].nonzero()[:, 0]
    alone = dpp(relevance[:, real], by_angle(vectors[:, real]), 4, weight=0.4, window=window)
    found = dpp(relevance, by_angle(vectors), 6, weight=0.4, window=window, mask=mask)
    assert found[0].tolist() == [*real[alone[0]].tolist(), 2, 4]


def test_fewer_picks_are_the_first_of_more():
    relevance, vectors = drawn(4, width=20, dims=6)
    for window in (None, 4):
        many = dpp(relevance, by_angle(vectors), 15, weight=0.5, window=window)
        assert torch.equal(dpp(relevance, by_angle(vectors), 7, weight=0.5, window=window), many[:, :7])


def test_nothing_in_nothing_out():
    empty = by_angle(torch.zeros(2, 0, 3))
    assert dpp(torch.zeros(2, 0), empty, 4, weight=0.5).shape == (2, 0)
    assert dpp(torch.zeros(2, 0), empty, 4, weight=0.5, window=2).shape == (2, 0)
    assert dpp(torch.zeros(0, 3), by_angle(torch.zeros(0, 3, 3)), 2, weight=0.5).shape == (0, 2)
