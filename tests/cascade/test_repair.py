"""Only broken lists are searched again, each under the clock."""

import pytest
import torch

from twotower.cascade.placing import Lists, broken, place
from twotower.cascade.repair import repair
from twotower.cascade.tally import EMPTY, Limit


def lists(groups: list[list[int]], *limits: Limit) -> Lists:
    codes = torch.tensor(groups)[..., None]
    there = torch.ones(codes.shape[:2], dtype=torch.bool)
    lengths = torch.full((len(groups),), codes.shape[1])
    return Lists(limits, [codes] * len(limits), there, torch.full(codes.shape[:2], EMPTY), lengths)


def test_a_list_that_can_be_unbroken_becomes_so_and_the_others_stay():
    asked = lists([[1, 0, 0], [0, 1, 0], [0, 0, 0]], Limit(0, 2, spacing=True))
    order = place(asked)
    assert order.tolist() == [[0, 1, 2], [0, 1, 2], [0, 1, 2]]
    better = repair(asked, order, 100, lambda: False)
    assert better.tolist() == [[1, 0, 2], [0, 1, 2], [0, 1, 2]]
    assert broken(asked, better).any(1).tolist() == [False, False, True]
    assert repair(asked, order, 0, lambda: False).tolist() == order.tolist()


def test_where_not_all_can_hold_quotas_do():
    spacing, quota = Limit(0, 2, spacing=True), Limit(1, 2, at_least=2, one_group=True)
    asked = lists([[EMPTY, 0, 0]], spacing, quota)
    order = repair(asked, torch.tensor([[0, 1, 2]]), 100, lambda: False)
    assert order.tolist() == [[1, 2, 0]]
    assert broken(asked, order).tolist() == [[0, 1, 0]]


@pytest.mark.parametrize(("looks", "mended"), [(0, 0), (3, 0), (8, 1), (99, 3)])
def test_out_of_time_what_was_not_mended_stays(looks, mended):
    """A list of three takes four steps, and one look before it."""
    asked = lists([[1, 0, 0]] * 3, Limit(0, 2, spacing=True))
    left = iter(range(looks))
    better = repair(asked, place(asked), 100, lambda: next(left, None) is None)
    assert better.tolist() == [[1, 0, 2]] * mended + [[0, 1, 2]] * (3 - mended)
