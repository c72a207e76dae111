"""Padding is trimmed, batches stay within their budget, every row comes once."""

import pytest
import torch

from twotower.nn.text.lengths import lengths, micro_batches, trimmed


def test_lengths_and_trimming():
    tokens = torch.tensor([[3, 0, 4, 0, 0], [0, 0, 0, 0, 0], [1, 0, 0, 0, 0]])
    assert lengths(tokens).tolist() == [3, 0, 1]
    assert trimmed(tokens).tolist() == [[3, 0, 4], [0, 0, 0], [1, 0, 0]]
    assert trimmed(tokens[1:2]).tolist() == [[0]]  # one column is left, so that there is something to pool
    assert trimmed(tokens[:0]).shape == (0, 1)
    assert trimmed(torch.empty(2, 0, dtype=torch.int64)).tolist() == [[0], [0]]


@pytest.mark.parametrize("budget", [1, 7, 64, 10**9])
def test_every_row_once_and_no_batch_above_its_budget(budget):
    length = torch.randint(0, 20, (200,), generator=torch.Generator().manual_seed(0))
    batches = list(micro_batches(length, budget))
    assert sorted(torch.cat(batches).tolist()) == list(range(200))
    for rows in batches:
        assert len(rows) == 1 or len(rows) * int(length[rows].clamp(min=1).max()) <= budget
    longest = [int(length[rows].clamp(min=1).max()) for rows in batches]
    assert longest == sorted(longest, reverse=True)


def test_no_rows_no_batches():
    assert list(micro_batches(torch.empty(0, dtype=torch.int64), 10)) == []
