"""MMR against the formula, candidate by candidate."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from twotower.cascade.likeness import by_angle, by_values
from twotower.cascade.mmr import mmr


def naive(relevance, matrix, k, weight):
    """One query: every pick compares every candidate with every pick before it."""
    chosen = []
    while len(chosen) < min(k, len(relevance)):
        best, column = -float("inf"), None
        for i in range(len(relevance)):
            closest = max((matrix[i][j] for j in chosen), default=0.0)
            gain = weight * relevance[i] - (1 - weight) * closest
            if i not in chosen and gain > best + 1e-9:
                best, column = gain, i
        chosen.append(column)
    return chosen


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 9), st.integers(0, 10), st.sampled_from([0.0, 0.3, 0.7, 1.0]))
def test_equals_the_naive_search(seed, width, k, weight):
    draw = torch.Generator().manual_seed(seed)
    vectors = torch.randn(3, width, 3, generator=draw)
    relevance = torch.rand(3, width, generator=draw)
    unit = torch.nn.functional.normalize(vectors.double(), dim=-1)
    matrix = ((1 + unit @ unit.mT) / 2).tolist()
    found = mmr(relevance, by_angle(vectors), k, weight=weight).tolist()
    wanted = relevance.double().tolist()
    assert found == [naive(wanted[row], matrix[row], k, weight) for row in range(3)]


def test_by_hand():
    # sorts: 2 2 3 3; after column 0 its twin loses 0.5, so the other sort goes first
    sort = by_values(torch.tensor([[2, 2, 3, 3]]))
    relevance = torch.tensor([[1.0, 0.8, 0.4, 0.2]])
    assert mmr(relevance, sort, 4, weight=0.5).tolist() == [[0, 2, 1, 3]]
    assert mmr(relevance, sort, 4, weight=0.8).tolist() == [[0, 1, 2, 3]]  # .64 - .2 against .32


def test_the_most_alike_pick_counts_and_not_the_sum():
    # column 3 shares half a bag with both of 0 and 1, column 2 is the same as 0
    bags = by_values(torch.tensor([[[2, 3], [4, 5], [2, 3], [2, 4]]]))
    assert mmr(torch.tensor([[1.0, 0.9, 0.6, 0.3]]), bags, 4, weight=0.5).tolist() == [[0, 1, 3, 2]]


@pytest.mark.parametrize("weight", [0.0, 0.5, 1.0])
def test_equals_stand_in_their_order(weight):
    same = by_angle(torch.ones(2, 5, 3))
    assert mmr(torch.ones(2, 5), same, 5, weight=weight).tolist() == [[0, 1, 2, 3, 4]] * 2


def test_empty_slots_are_last_and_change_nothing():
    draw = torch.Generator().manual_seed(3)
    vectors, relevance = torch.randn(1, 6, 4, generator=draw), torch.rand(1, 6, generator=draw)
    mask = torch.tensor([[True, True, False, True, False, True]])
    real = mask[0].nonzero()[:, 0]
    alone = mmr(relevance[:, real], by_angle(vectors[:, real]), 4, weight=0.4)
    found = mmr(relevance, by_angle(vectors), 6, weight=0.4, mask=mask)
    assert found[0].tolist() == [*real[alone[0]].tolist(), 2, 4]


def test_nothing_in_nothing_out():
    empty = by_angle(torch.zeros(2, 0, 3))
    assert mmr(torch.zeros(2, 0), empty, 4, weight=0.5).shape == (2, 0)
    assert mmr(torch.zeros(0, 3), by_angle(torch.zeros(0, 3, 3)), 2, weight=0.5).shape == (0, 2)
