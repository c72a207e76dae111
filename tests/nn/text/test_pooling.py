"""Pooling is what a loop over the real tokens finds."""

import pytest
import torch

from twotower.nn.text.pooling import pool


@pytest.mark.parametrize("how", ["mean", "first", "max"])
def test_padding_has_no_share(how):
    vectors = torch.randn(4, 5, 3) - 4  # all negative: a maximum must not find the zeros of padding
    length = torch.tensor([5, 2, 1, 0])
    mask = torch.arange(5) < length[:, None]
    vectors[~mask] = torch.nan
    out = pool(vectors, mask, how)
    for row in range(3):
        real = vectors[row, : length[row]]
        expected = {"mean": real.mean(0), "first": real[0], "max": real.max(0).values}[how]
        torch.testing.assert_close(out[row], expected)
    assert (out[3] == 0).all()
