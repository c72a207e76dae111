"""The values that travel between the parts, against plain lists."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from twotower.types import NO_ITEM, Batch, Candidates, Ragged, RepSpec

rows = st.lists(st.lists(st.integers(0, 9), max_size=4), max_size=6)


def as_lists(ragged):
    return [row.tolist() for row in ragged]


@given(rows, st.data())
@settings(max_examples=100, deadline=None)
def test_ragged_takes_rows_like_a_list_of_lists(lists, data):
    ragged = Ragged.of(lists)
    assert (as_lists(ragged), len(ragged)) == (lists, len(lists))
    assert ragged.lengths.tolist() == [len(row) for row in lists]
    assert ragged.row_of_value().tolist() == [i for i, row in enumerate(lists) for _ in row]
    places = st.integers(0, len(lists) - 1)
    wanted = data.draw(st.lists(places, max_size=8)) if lists else []
    assert as_lists(ragged.take(torch.tensor(wanted, dtype=torch.int64))) == [lists[i] for i in wanted]


@given(rows, st.one_of(st.none(), st.integers(0, 6)))
@settings(max_examples=100, deadline=None)
def test_ragged_is_padded_on_the_right_and_cut_at_the_width(lists, width):
    wide = max(map(len, lists), default=0) if width is None else width
    expected = [[*row[:wide], *[-1] * (wide - len(row))] for row in lists]
    padded = Ragged.of(lists).padded(fill=-1, width=width)
    assert padded.shape == (len(lists), wide)
    assert padded.tolist() == expected


def test_ragged_values_may_have_axes_of_their_own():
    tokens = Ragged(torch.arange(6.0).reshape(3, 2), torch.tensor([0, 1, 1, 3]))
    assert tokens.padded().tolist() == [
        [[0.0, 1.0], [0.0, 0.0]],
        [[0.0, 0.0], [0.0, 0.0]],
        [[2.0, 3.0], [4.0, 5.0]],
    ]
    assert tokens.take(torch.tensor([2, 0])).values.tolist() == [[2.0, 3.0], [4.0, 5.0], [0.0, 1.0]]


@pytest.mark.parametrize("offsets", [[1, 3], [0, 2], [0, 2, 1, 3]])
def test_ragged_refuses_offsets_that_do_not_fit(offsets):
    with pytest.raises(ValueError, match="offsets must rise from 0"):
        Ragged(torch.arange(3), torch.tensor(offsets))


def test_batch_takes_own_candidates():
    batch = Batch(a=torch.arange(4), b=torch.arange(8).reshape(4, 2))
    own = batch.take(torch.tensor([[0, 3], [1, 1], [2, 0]]))
    assert own["a"].tolist() == [[0, 3], [1, 1], [2, 0]]
    assert own["b"].shape == (3, 2, 2)
    assert own["b"][0, 1].tolist() == [6, 7]
    assert (batch.rows, Batch().rows) == (4, 0)


def test_batch_slices_and_joins():
    batch = Batch(a=torch.arange(4))
    assert batch.slice(1, 3)["a"].tolist() == [1, 2]
    assert sorted(batch.join(Batch(b=torch.arange(4)))) == ["a", "b"]
    with pytest.raises(ValueError, match=r"both sides: \['a'\]"):
        batch.join(Batch(a=torch.arange(4)))


@pytest.mark.parametrize(
    ("shape", "dtype", "size"), [((), "int64", 8), ((3, 2), "float32", 24), ((64,), "bfloat16", 128)]
)
def test_a_spec_knows_its_bytes(shape, dtype, size):
    assert RepSpec("x", shape, dtype).bytes_per_item == size


scores = st.sampled_from([-math.inf, -2.0, -1.0, 0.0, 1.0])


@given(st.lists(st.tuples(st.integers(-1, 30), scores), max_size=12))
@settings(max_examples=200, deadline=None)
def test_sorting_is_by_score_then_key_with_empty_slots_last(slots):
    keys = torch.tensor([[key for key, _ in slots]], dtype=torch.int64)
    values = torch.tensor([[score for _, score in slots]], dtype=torch.float32)
    place = torch.arange(len(slots)).expand(1, -1)
    out = Candidates(keys, values, Batch(place=place, two=torch.stack([place, place], -1))).sorted()
    real = sorted((-score, key) for key, score in slots if key != NO_ITEM)
    assert out.keys[0].tolist() == [key for _, key in real] + [NO_ITEM] * (len(slots) - len(real))
    assert out.scores[0].tolist() == [-score for score, _ in real] + [-math.inf] * (len(slots) - len(real))
    for new, old in enumerate(out.pair["place"][0].tolist()):  # pair fields travel with their item
        assert out.keys[0, new] == keys[0, old]
        assert out.pair["two"][0, new].tolist() == [old, old]


def test_a_score_that_is_nan_stands_last_of_the_real_candidates():
    keys = torch.tensor([[7, 1, NO_ITEM, 3, 2, NO_ITEM, 5]])
    scores = torch.tensor([[math.nan, -9.0, math.nan, -math.inf, math.nan, 4.0, 6.0]])
    out = Candidates(keys, scores, Batch(place=torch.arange(7)[None])).sorted()
    assert out.keys.tolist() == [[5, 1, 2, 3, 7, NO_ITEM, NO_ITEM]]  # as minus infinity, ties by rising key
    assert out.scores[0].isnan().tolist() == [False, False, True, False, True, False, False]
    assert out.scores[0, 5:].tolist() == [-math.inf] * 2
    assert out.pair["place"][0, :5].tolist() == [6, 1, 4, 3, 0]


def test_best_counts_and_mask():
    found = Candidates(
        torch.tensor([[4, 2, NO_ITEM], [NO_ITEM] * 3]), torch.zeros(2, 3), Batch(rank=torch.zeros(2, 3))
    )
    assert found.counts.tolist() == [2, 0]
    assert found.best(1).keys.tolist() == [[4], [NO_ITEM]]
    assert found.best(1).pair["rank"].shape == (2, 1)
    assert found.best(9).keys.shape == (2, 3)
    assert found.best(0).counts.tolist() == [0, 0]


def test_pair_fields_are_added_and_replaced():
    found = Candidates(torch.tensor([[4]]), torch.zeros(1, 1)).with_pair(a=torch.zeros(1, 1))
    both = found.with_pair(a=torch.ones(1, 1), b=torch.ones(1, 1))
    assert found.pair["a"].item() == 0
    assert (both.pair["a"].item(), sorted(both.pair)) == (1, ["a", "b"])


@pytest.mark.parametrize(
    ("keys", "values", "pair", "message"),
    [
        (torch.zeros(2, 3), torch.zeros(2, 2), {}, r"\(2, 3\).*\(2, 2\)"),
        (torch.zeros(3), torch.zeros(3), {}, r"must be \(Q, K\)"),
        (torch.zeros(2, 3), torch.zeros(2, 3), {"x": torch.zeros(2)}, "pair field 'x'"),
    ],
)
def test_candidates_check_their_shapes(keys, values, pair, message):
    with pytest.raises(ValueError, match=message):
        Candidates(keys, values, Batch(pair))
