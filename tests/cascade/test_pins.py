"""Which column stands at which place, and who is missed there."""

import polars as pl
import pytest
import torch

from twotower.cascade.attributes import Attributes
from twotower.cascade.pins import Pins
from twotower.cascade.ruleset import Pin
from twotower.cascade.stage import Request
from twotower.cascade.tally import EMPTY
from twotower.types import NO_ITEM, Batch, Candidates

ITEMS = Attributes(pl.DataFrame({"id": [10, 11, 12, 13]}), item="id")
PINS = Pins([Pin(places={1: 12, 3: 10}), Pin(places={2: 99}), Pin(places={4: 13}, insert=True)], ITEMS)
KEYS = torch.tensor([[0, 1, 2], [1, 3, NO_ITEM]])
LENGTHS = torch.tensor([3, 2])


def test_columns_of_the_lists_that_hold_the_item_and_reach_the_place():
    assert PINS.columns(KEYS, LENGTHS, 3).tolist() == [[2, EMPTY, 0], [EMPTY, EMPTY, EMPTY]]
    assert PINS.columns(KEYS, torch.tensor([2, 2]), 2).tolist() == [[2, EMPTY], [EMPTY, EMPTY]]


def test_who_is_missed_at_the_place_or_at_the_end_of_a_shorter_list():
    assert PINS.missed(torch.tensor([[2, 1, 0], [1, 3, -1]]), LENGTHS, 3).tolist() == [
        [0, 2, 0],
        [1, 2 | 1, 0],
    ]
    assert PINS.missed(torch.tensor([[2, 1, 0]]), torch.tensor([3]), 9).tolist() == [[0, 2, 4]]
    assert PINS.missed(torch.tensor([[2]]), torch.tensor([1]), 1).tolist() == [[0]]
    assert PINS.missed(torch.tensor([[NO_ITEM]]), torch.tensor([0]), 5).tolist() == [[0]]


def test_inserts_once_and_only_where_it_is_missing():
    given = Candidates(KEYS, KEYS.float().masked_fill(KEYS < 0, -torch.inf), Batch(first=KEYS + 1.0))
    more = PINS.insert(Request(Batch(user=torch.arange(2))), given)
    assert more.keys.tolist() == [[0, 1, 2, 3], [1, 3, NO_ITEM, NO_ITEM]]
    assert more.pair["first"][:, 3].tolist() == [0, 0]
    assert more.scores[0, 3] == -torch.inf


@pytest.mark.parametrize("size", [0, 3])
def test_inserts_no_item_beyond_the_mask_of_the_request(size):
    asked = Request(Batch(user=torch.arange(1)), allow=torch.ones(size, dtype=torch.bool))
    given = Candidates(KEYS[:1], KEYS[:1].float())
    assert PINS.insert(asked, given).keys.tolist() == [[0, 1, 2, NO_ITEM]]
