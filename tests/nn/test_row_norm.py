"""Batch normalisation beside torch's own: of one row, and around gaps."""

import pytest
import torch
from torch import nn

from twotower.nn.row_norm import BatchNorm, RowNorm


@pytest.mark.parametrize("rows", [2, 7])
def test_of_several_rows_it_is_torchs_own(rows):
    ours, theirs, x = BatchNorm(3), nn.BatchNorm1d(3), torch.randn(rows, 3)
    assert torch.equal(ours(x), theirs(x))
    assert all(torch.equal(ours.state_dict()[key], t) for key, t in theirs.state_dict().items())
    assert torch.equal(ours.eval()(x), theirs.eval()(x))


def test_one_row_goes_by_the_running_statistics_and_leaves_them():
    norm = BatchNorm(3)
    norm(torch.randn(9, 3))
    before, x = (
        {key: t.clone() for key, t in norm.state_dict().items()},
        torch.randn(1, 3, requires_grad=True),
    )
    out = norm(x)
    assert all(torch.equal(before[key], t) for key, t in norm.state_dict().items())
    torch.testing.assert_close(out, norm.eval()(x))
    out.sum().backward()
    assert x.grad is not None
    assert x.grad.any()


def test_gaps_count_nowhere_in_training():
    x, real = torch.randn(4, 5, 3), torch.rand(4, 5) < 0.5
    with_gaps, without = RowNorm(3), RowNorm(3)
    out = with_gaps(x.masked_fill(~real[..., None], torch.inf), real)
    assert torch.equal(out[real], without(x[real]))
    assert not out[~real].any()
    assert all(torch.equal(a, b) for a, b in zip(with_gaps.buffers(), without.buffers(), strict=True))
    assert with_gaps(x, torch.zeros(4, 5, dtype=torch.bool)).shape == x.shape  # nobody at all
