"""The split of a linear layer is algebra."""

import pytest
import torch

from twotower.nn.split import SplitLinear


@pytest.mark.parametrize("sizes", [(3, 2), (3, 2, 4), (0, 5), (4,)])
def test_parts_add_up_to_the_whole(sizes):
    torch.manual_seed(0)
    layer = SplitLinear(sizes, 6).double()
    parts = [torch.randn(7, size, dtype=torch.float64) for size in sizes]
    added = sum(layer.part(which, x) for which, x in enumerate(parts))
    torch.testing.assert_close(added, layer.whole(torch.cat(parts, -1)))


def test_the_bias_goes_with_the_first_part_only():
    layer = SplitLinear((2, 3), 4)
    assert torch.equal(layer.part(0, torch.zeros(2)), layer.linear.bias)
    assert torch.equal(layer.part(1, torch.zeros(3)), torch.zeros(4))


def test_a_querys_part_is_computed_once_for_all_candidates():
    torch.manual_seed(0)
    layer, query, item = SplitLinear((3, 2), 4), torch.randn(5, 3), torch.randn(8, 2)
    shared = layer.part(0, query)[:, None] + layer.part(1, item)
    for q in range(5):
        for c in range(8):
            torch.testing.assert_close(shared[q, c], layer.whole(torch.cat([query[q], item[c]])))


def test_gradients_are_those_of_the_whole():
    torch.manual_seed(0)
    layer, q, i = SplitLinear((3, 2), 4), torch.randn(6, 3), torch.randn(6, 2)
    (layer.part(0, q) + layer.part(1, i)).square().sum().backward()
    ours = layer.linear.weight.grad.clone()
    layer.zero_grad()
    layer.whole(torch.cat([q, i], 1)).square().sum().backward()
    torch.testing.assert_close(ours, layer.linear.weight.grad)
