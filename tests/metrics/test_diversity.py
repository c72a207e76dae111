"""Diversity of lists: the definitions pair by pair, closed forms, and edges."""

import itertools
import math
from collections import Counter

import pytest
import torch

from twotower.errors import DataError
from twotower.metrics.diversity import distinct_values, intra_list_distance, value_entropy

DRAW = torch.Generator().manual_seed(0)
N = 15
VECTORS = torch.randn(N, 4, generator=DRAW)
BAGS = torch.randint(0, 6, (N, 3), generator=DRAW)
LISTS = torch.stack([torch.randperm(N, generator=DRAW)[:8] for _ in range(6)])
LISTS[torch.arange(8) >= 8 - 2 * torch.arange(6)[:, None].clamp(max=4)] = -1
MEASURES = [(intra_list_distance, VECTORS), (distinct_values, BAGS), (value_entropy, BAGS)]


@pytest.mark.parametrize("k", [2, 5, 8, 100])
def test_distance_is_the_mean_over_pairs(k):
    for row, found in zip(LISTS, intra_list_distance(LISTS, VECTORS, k).tolist(), strict=True):
        keys = [key for key in row[:k].tolist() if key >= 0]
        pairs = [
            1 - torch.cosine_similarity(VECTORS[a].double(), VECTORS[b].double(), dim=0).item()
            for a, b in itertools.combinations(keys, 2)
        ]
        assert len(pairs) == 0 or found == pytest.approx(sum(pairs) / len(pairs))
        assert math.isnan(found) == (len(pairs) == 0)


@pytest.mark.parametrize("codes", [BAGS, BAGS[:, 0]])
@pytest.mark.parametrize("k", [1, 3, 8])
def test_values_are_counted_without_padding_and_the_unknown(codes, k):
    distinct, entropy = distinct_values(LISTS, codes, k).tolist(), value_entropy(LISTS, codes, k).tolist()
    for row, found, bits in zip(LISTS, distinct, entropy, strict=True):
        keys = row[:k][row[:k] >= 0]
        if not len(keys):
            assert math.isnan(found)
            assert math.isnan(bits)
            continue
        counts = Counter(value for value in codes[keys].flatten().tolist() if value > 1)
        shares = [n / counts.total() for n in counts.values()]
        assert found == len(counts)
        assert bits == pytest.approx(-sum(p * math.log2(p) for p in shares))


def test_four_kinds_equally_often_are_two_bits():
    kinds = torch.arange(8) % 4 + 2
    assert value_entropy(torch.arange(8)[None], kinds, k=8).tolist() == [2.0]
    assert distinct_values(torch.arange(8)[None], kinds, k=3).tolist() == [3.0]


def test_opposite_items_are_two_apart_and_zeros_are_at_right_angles():
    vectors = torch.tensor([[1.0, 2.0], [-2.0, -4.0], [0.0, 0.0]])
    found = intra_list_distance(torch.tensor([[0, 1], [0, 2], [2, -1]]), vectors, k=2)
    torch.testing.assert_close(found[:2], torch.tensor([2.0, 1.0]).double())
    assert found[2].isnan()


def test_items_without_a_value_show_none():
    assert distinct_values(torch.tensor([[0, 1]]), torch.tensor([0, 1]), k=2).tolist() == [0]
    assert value_entropy(torch.tensor([[0, 1]]), torch.tensor([0, 1]), k=2).tolist() == [0]


@pytest.mark.parametrize(("measure", "about"), MEASURES)
def test_empty_lists_say_nothing(measure, about):
    assert measure(torch.full((2, 3), -1), about, k=3).isnan().all()
    assert measure(torch.empty(2, 0, dtype=torch.int64), about, k=3).isnan().all()
    assert measure(LISTS, about, k=0).isnan().all()
    assert measure(LISTS[:0], about, k=3).shape == (0,)


@pytest.mark.parametrize(("measure", "about"), MEASURES)
def test_keys_outside_the_catalogue_are_refused(measure, about):
    for bad in (N, -2):
        with pytest.raises(DataError, match="outside the catalogue of 15"):
            measure(torch.tensor([[0, bad]]), about, k=2)
