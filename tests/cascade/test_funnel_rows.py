"""Traces of many requests as one table."""

import polars as pl
import torch

from twotower.cascade.funnel_rows import Served, funnel_rows, scalars
from twotower.data.catalogue import Catalogue
from twotower.data.funnel_part import FunnelAbout
from twotower.types import NO_ITEM, Batch, Candidates

ABOUT = FunnelAbout(stages=("first", "second"))
ITEMS = Catalogue(pl.Series("item", [10, 11, 12, 13, 14]))


def listed(keys, **pair):
    keys = torch.tensor(keys)
    scores = (10.0 - keys).masked_fill(keys == NO_ITEM, -torch.inf)
    return Candidates(keys, scores, Batch({name: torch.tensor(values) for name, values in pair.items()}))


def test_a_row_is_what_the_last_list_says():
    one = Served(
        ["a", "b"],
        [7, None],
        [100, 101],
        (),
        1,
        (
            listed([[0, 1, 2], [3, NO_ITEM, NO_ITEM]], x=[[1.0, 2.0, 3.0], [4.0, 0.0, 0.0]]),
            listed([[1, 0], [3, NO_ITEM]], x=[[5.0, 6.0], [7.0, 0.0]]),
        ),
    )
    # another width, a degraded stage that handed on nothing, and an item that the second stage brought
    two = Served(["c"], [9], [102], ("second",), None, (listed([[2]], x=[[8.0]]), listed([[4, 2]])))
    rows = funnel_rows([one, two], ABOUT, ITEMS)
    assert rows.drop("degraded", "sources").rows() == [
        ("a", 7, 11, 100, "exposed", 0, 9.0, 5.0),
        ("a", 7, 10, 100, "second", 1, 10.0, 6.0),
        ("a", 7, 12, 100, "first", 2, 8.0, 3.0),
        ("b", None, 13, 101, "exposed", 0, 7.0, 7.0),
        ("c", 9, 14, 102, "exposed", 0, 6.0, None),
        ("c", 9, 12, 102, "exposed", 1, 8.0, None),
    ]
    assert rows["degraded"].to_list() == [[], [], [], [], ["second"], ["second"]]
    assert rows["sources"].to_list() == [["first"]] * 6


def test_chosen_rows_keep_the_fields_of_one_number():
    found = listed([[0, 1], [2, 3]], x=[[1.0, 2.0], [3.0, 4.0]]).with_pair(vector=torch.zeros(2, 2, 5))
    chosen = scalars(found, [1])
    assert chosen.keys.tolist() == [[2, 3]]
    assert {name: tensor.tolist() for name, tensor in chosen.pair.items()} == {"x": [[3.0, 4.0]]}
    assert scalars(found, [0, 1]).keys is found.keys  # nothing is copied where nothing is left out
