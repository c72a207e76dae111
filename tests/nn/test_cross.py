"""The cross layer is eq. 1 of DCN-V2."""

import pytest
import torch

from twotower.nn.cross import CrossLayer


@pytest.mark.parametrize("rank", [0, 2])
def test_equals_the_formula_feature_by_feature(rank):
    torch.manual_seed(0)
    layer, x0, x = CrossLayer(5, rank), torch.randn(5), torch.randn(5)
    if rank:
        down, up = layer.linear
        assert down.weight.shape == (2, 5)
        weight, bias = up.weight @ down.weight, up.bias
    else:
        weight, bias = layer.linear.weight, layer.linear.bias
    expected = [x0[i] * (sum(weight[i, j] * x[j] for j in range(5)) + bias[i]) + x[i] for i in range(5)]
    torch.testing.assert_close(layer(x0, x), torch.stack(expected))


def test_works_on_candidates():
    torch.manual_seed(0)
    layer, x0, x = CrossLayer(4), torch.randn(3, 7, 4), torch.randn(3, 7, 4)
    torch.testing.assert_close(layer(x0, x)[1, 6], layer(x0[1, 6], x[1, 6]))
