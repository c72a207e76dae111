"""Dynamic pooling of padded images against torch's adaptive pooling of each one alone."""

import pytest
import torch
from torch.nn.functional import adaptive_max_pool2d

from twotower.nn.dynamic_pooling import dynamic_max_pool


@pytest.mark.parametrize("grid", [(1, 1), (3, 4), (6, 9), (8, 20)])
def test_each_image_is_pooled_as_if_it_were_alone(grid):
    draw = torch.Generator().manual_seed(0)
    images = torch.randn(40, 2, 6, 9, generator=draw)
    rows = torch.randint(1, 7, (40,), generator=draw)
    columns = torch.randint(1, 10, (40,), generator=draw)
    found = dynamic_max_pool(images, rows, columns, grid)
    for n, (a, b) in enumerate(zip(rows.tolist(), columns.tolist(), strict=True)):
        torch.testing.assert_close(found[n], adaptive_max_pool2d(images[n, :, :a, :b], grid))


def test_what_stands_in_the_padding_counts_for_nothing():
    image = torch.full((1, 1, 2, 3), -1.0)
    image[..., 2] = 9.0
    assert dynamic_max_pool(image, torch.tensor([2]), torch.tensor([2]), (1, 2)).tolist() == [[[[-1, -1]]]]


def test_an_empty_image_is_zero():
    images = torch.ones(3, 1, 2, 2)
    found = dynamic_max_pool(images, torch.tensor([0, 2, 1]), torch.tensor([2, 0, 1]), (2, 2))
    assert found[:2].eq(0).all()
    assert found[2].eq(1).all()
