"""A network whose first layer is computed in parts is the network over all parts side by side."""

import pytest
import torch

from twotower.nn.split_mlp import SplitMLP


@pytest.mark.parametrize("norm", ["none", "layer", "batch"])
def test_the_sum_of_shares_through_the_rest_is_the_whole_network(norm):
    torch.manual_seed(0)
    network = SplitMLP((3, 2, 1), (6, 5), norm=norm, dropout=0.5).eval()
    parts = [torch.randn(4, n) for n in (3, 2, 1)]
    shares = sum(network.part(which, x) for which, x in enumerate(parts))
    whole = network.rest(network.first.whole(torch.cat(parts, -1)))
    torch.testing.assert_close(network(shares), whole, atol=1e-5, rtol=1e-5)


def test_costs_are_two_per_multiply_add():
    network = SplitMLP((3, 2), (6, 5))
    assert [network.part_flops(which) for which in (0, 1)] == [2 * 3 * 6, 2 * 2 * 6]
    assert network.rest_flops == 2 * 6 * 5
