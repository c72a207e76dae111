"""Overlap at all depths at once, against the measure at one."""

import pytest
import torch

from twotower.evaluate.agreement import overlap_by_depth
from twotower.metrics.funnel import overlap
from twotower.metrics.ranking import average

Q, N = 17, 30


@pytest.mark.parametrize(("mine", "theirs"), [(20, 8), (8, 8), (5, 12)])
def test_every_depth_is_the_measure_at_that_depth(mine, theirs):
    draw = torch.Generator().manual_seed(mine)
    orders = [torch.stack([torch.randperm(N, generator=draw) for _ in range(Q)]) for _ in range(2)]
    keys, reference = orders[0][:, :mine].clone(), orders[1][:, :theirs].clone()
    for lists in (keys, reference):  # some end early, one is empty
        ends = torch.randint(1, lists.shape[1] + 1, (Q, 1), generator=draw)
        ends[3] = 0
        lists[torch.arange(lists.shape[1]) >= ends] = -1
    values = overlap_by_depth(keys, reference)
    assert values.shape == (theirs,)
    for k in range(1, theirs + 1):
        assert values[k - 1] == pytest.approx(average(overlap(keys, reference, k)).value)


def test_nothing_to_agree_with_has_no_value():
    assert overlap_by_depth(torch.tensor([[1, 2]]), torch.tensor([[-1, -1]])).isnan().all()
    assert overlap_by_depth(torch.tensor([[1, 2]]), torch.empty(1, 0, dtype=torch.int64)).shape == (0,)


def test_an_empty_list_agrees_with_nothing():
    assert overlap_by_depth(torch.empty(1, 0, dtype=torch.int64), torch.tensor([[4, 5]])).tolist() == [
        0.0,
        0.0,
    ]
