"""Requests chosen to be looked at."""

import torch

from twotower.evaluate.shown import choose_requests
from twotower.metrics.funnel import Survival
from twotower.types import Ragged


def fate():
    """Six queries: two keep an item, three lose one to rank, one to the retriever."""
    alive = torch.tensor([[1, 1, 1, 1, 1, 0], [1, 1, 0, 0, 0, 0]], dtype=torch.bool)
    return Survival(("retrieve", "rank"), Ragged.of([[1], [2], [3], [4], [5], [6]]), alive)


def drawn(n, seed=0):
    return choose_requests(fate(), n, torch.Generator().manual_seed(seed)).tolist()


def test_every_fate_is_there_in_turn():
    for seed in range(5):
        kept, by_rank, unfound, *rest = drawn(6, seed)
        assert kept in (0, 1)
        assert by_rank in (2, 3, 4)
        assert unfound == 5
        assert sorted([kept, by_rank, unfound, *rest]) == list(range(6))


def test_no_more_than_asked_or_there():
    assert drawn(0) == []
    assert len(drawn(2)) == 2
    assert len(drawn(100)) == 6


def test_the_same_seed_draws_the_same():
    assert drawn(4, 3) == drawn(4, 3)
    assert len({tuple(drawn(4, seed)) for seed in range(20)}) > 1


def test_nothing_relevant_is_nothing_to_choose():
    empty = Survival(("retrieve",), Ragged.of([[], []]), torch.zeros(1, 0, dtype=torch.bool))
    assert choose_requests(empty, 3, torch.Generator()).tolist() == []
