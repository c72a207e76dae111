"""Requests cut into rows, and what a stage tells the next one."""

import torch

from twotower.cascade.stage import Request, no_candidates, rank_pair
from twotower.types import NO_ITEM, Batch, Candidates, Ragged


def test_rows_are_a_request_of_their_own():
    request = Request(
        Batch(user=torch.arange(4)),
        Ragged.of([[0], [1, 1], [], [3]]),
        Ragged.of([[], [5], [6], []]),
        {"rank": 3},
        time=torch.tensor([4, 5, 6, 7]),
    )
    part = request.rows(1, 3)
    assert (len(request), len(part)) == (4, 2)
    assert part.query["user"].tolist() == [1, 2]
    assert [row.tolist() for row in part.history] == [[1, 1], []]
    assert [row.tolist() for row in part.exclude] == [[5], [6]]
    assert part.depths == {"rank": 3}
    assert part.time.tolist() == [5, 6]


def test_rows_keep_what_is_allowed_to_all_and_cut_what_is_allowed_to_each():
    all_of_them, each = torch.tensor([True, False, True]), torch.arange(12).reshape(4, 3) % 2 == 0
    query = Batch(user=torch.arange(4))
    assert Request(query).rows(1, 3).allow is None
    assert torch.equal(Request(query, allow=all_of_them).rows(1, 3).allow, all_of_them)
    assert torch.equal(Request(query, allow=each).rows(1, 3).allow, each[1:3])


def test_rows_beyond_the_end_are_not_there():
    assert len(Request(Batch(user=torch.arange(3)), Ragged.of([[], [], []])).rows(2, 100)) == 1


def test_a_request_without_columns_is_as_long_as_its_histories():
    assert len(Request(Batch(), Ragged.of([[1], []]))) == 2
    assert len(Request(Batch())) == 0


def test_an_empty_slot_hands_on_a_score_that_poisons_no_average():
    found = Candidates(torch.tensor([[4, NO_ITEM]]), torch.tensor([[-3.0, -torch.inf]]))
    told = rank_pair("retrieve", found).pair
    assert told["retrieve_score"].tolist() == [[-3.0, 0.0]]
    assert told["retrieve_rank"].tolist() == [[0.0, 1.0]]


def test_no_candidates_for_so_many_queries():
    assert no_candidates(3).keys.shape == (3, 0)
