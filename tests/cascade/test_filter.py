"""A filter drops what may not be shown, and nothing else."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from twotower.cascade.filter import Filter, allowed, contains, presentable
from twotower.cascade.stage import Request
from twotower.errors import ConfigError, MismatchError
from twotower.types import NO_ITEM, Batch, Candidates, Ragged

N = 9


def listed(keys: list[list[int]], scores: list[list[float]] | None = None) -> Candidates:
    tensor = torch.tensor(keys)
    falling = -torch.arange(tensor.shape[1]).float().expand(tensor.shape)
    given_scores = falling if scores is None else torch.tensor(scores)
    return Candidates(
        tensor, given_scores.masked_fill(tensor == NO_ITEM, -torch.inf), Batch(first=tensor * 2)
    )


def request(queries: int, **rest) -> Request:
    return Request(Batch(user=torch.arange(queries)), **rest)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_equals_the_loop(data):
    queries, k = data.draw(st.integers(1, 3)), data.draw(st.integers(0, 8))
    rows = [data.draw(st.permutations(range(N))) for _ in range(queries)]
    masks = st.lists(st.booleans(), min_size=N, max_size=N)
    mask, own = data.draw(masks), [data.draw(masks) for _ in range(queries)]
    gone = [data.draw(st.lists(st.integers(0, 20))) for _ in range(queries)]
    asked = request(queries, exclude=Ragged.of(gone), allow=torch.tensor(own))
    out = Filter(torch.tensor(mask)).run(asked, listed(rows), k)
    for q, row in enumerate(rows):
        wanted = [key for key in row if mask[key] and own[q][key] and key not in gone[q]][:k]
        assert out.keys[q][out.mask[q]].tolist() == wanted
        assert out.pair["first"][q][out.mask[q]].tolist() == [2 * key for key in wanted]
        assert out.scores[q][out.mask[q]].tolist() == [-row.index(key) for key in wanted]
        assert out.pair["filter_rank"][q].tolist() == list(range(out.keys.shape[1]))


def test_one_mask_for_all_queries_or_one_each():
    keys = torch.tensor([[0, 1, NO_ITEM], [1, 2, 0]])
    assert allowed(torch.tensor([True, False, True]), keys).tolist() == [
        [True, False, False],
        [False, True, True],
    ]
    each = torch.tensor([[False, True, True], [True, False, True]])
    asked = request(2, allow=each)
    assert presentable(asked, keys).tolist() == [[False, True, False], [False, True, True]]


def test_without_a_mask_or_a_wish_nothing_changes():
    given_list = listed([[3, 4, NO_ITEM]])
    assert torch.equal(Filter().run(request(1), given_list, 5).keys, given_list.keys)


@pytest.mark.parametrize("width", [0, 2])
def test_an_empty_list_stays_empty(width):
    empty = Candidates(torch.full((2, width), NO_ITEM), torch.full((2, width), -torch.inf))
    asked = request(2, exclude=Ragged.of([[1], []]), allow=torch.zeros(N, dtype=torch.bool))
    assert Filter(torch.ones(N, dtype=torch.bool)).run(asked, empty, 5).counts.tolist() == [0, 0]
    assert (
        Filter().run(request(0), Candidates(torch.empty(0, 3).long(), torch.empty(0, 3)), 5).keys.shape[0]
        == 0
    )


def test_an_empty_catalogue_allows_nothing_and_has_nothing():
    assert not allowed(torch.zeros(0, dtype=torch.bool), torch.full((1, 2), NO_ITEM)).any()


def test_masks_that_do_not_belong_to_the_candidates_are_refused():
    with pytest.raises(MismatchError, match=r"item key 9.*ends with 8"):
        Filter(torch.ones(N, dtype=torch.bool)).run(request(1), listed([[9]]), 1)
    with pytest.raises(MismatchError, match="mask for 2 queries"):
        Filter().run(request(1, allow=torch.ones(2, N, dtype=torch.bool)), listed([[1]]), 1)
    with pytest.raises(MismatchError, match="2 lists of excluded"):
        contains(Ragged.of([[1], [2]]), torch.tensor([[1]]))
    with pytest.raises(ConfigError, match="mask"):
        Filter(torch.ones(N))
    with pytest.raises(ConfigError, match="stands first"):
        Filter().run(request(1), None, 1)


def test_says_its_memory():
    assert (Filter().bytes_per_item, Filter(torch.ones(N, dtype=torch.bool)).bytes_per_item) == (0, 1)
