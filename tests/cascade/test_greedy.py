"""The best that is left, the first of equals, empty slots last."""

import torch

from twotower.cascade.greedy import Picks


def test_picks_by_falling_gain_and_the_first_of_equals():
    picks = Picks(torch.ones(2, 4, dtype=torch.bool))
    gain = torch.tensor([[1.0, 3.0, 3.0, 2.0], [-9.0, -9.0, -7.0, -7.0]])
    for _ in range(4):
        picks.best(gain)
    assert picks.columns.tolist() == [[1, 2, 3, 0], [2, 3, 0, 1]]
    assert picks.last(2).tolist() == [[3, 0], [0, 1]]
    assert picks.last(0).shape == (2, 0)


def test_what_differs_by_rounding_only_is_equal():
    picks = Picks(torch.ones(1, 2, dtype=torch.bool))
    assert picks.best(torch.tensor([[0.3, 0.1 + 0.2]], dtype=torch.float64)).tolist() == [0]


def test_empty_slots_come_last_however_low_the_gains():
    picks = Picks(torch.tensor([[False, True, False, True]]))
    for _ in range(4):
        picks.best(torch.tensor([[5.0, -1e30, 6.0, -1e29]]))
    assert picks.columns.tolist() == [[3, 1, 0, 2]]


def test_before_the_first_pick_there_is_none():
    assert Picks(torch.ones(3, 2, dtype=torch.bool)).columns.shape == (3, 0)
