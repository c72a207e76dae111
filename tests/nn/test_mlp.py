"""Layers in a row, and a norm that sees candidates as rows."""

import pytest
import torch
from torch import nn

from twotower.nn.dropout import Dropout
from twotower.nn.mlp import RowNorm, mlp


def test_is_linear_layers_with_relu_between():
    torch.manual_seed(0)
    net = mlp([3, 5, 2], last=False)
    first, last = (layer for layer in net if isinstance(layer, nn.Linear))
    x = torch.randn(7, 3)
    torch.testing.assert_close(net(x), last(first(x).clamp(min=0)))


@pytest.mark.parametrize(("last", "kinds"), [(True, [4, 3, 2]), (False, [4, 3])])
def test_what_follows_the_last_layer_is_chosen(last, kinds):
    net = mlp([5, 4, 3, 2], norm="layer", dropout=0.5, last=last)
    assert [norm.normalized_shape[0] for norm in net if isinstance(norm, nn.LayerNorm)] == kinds
    assert sum(isinstance(layer, Dropout) for layer in net) == len(kinds)
    assert sum(isinstance(layer, nn.ReLU) for layer in net) == len(kinds)


def test_without_relu_at_the_end_a_tower_may_point_anywhere():
    torch.manual_seed(0)
    assert (mlp([3, 8, 8], last=False)(torch.randn(50, 3)) < 0).any()


def test_one_size_is_no_layer():
    assert len(mlp([3])) == 0


def test_row_norm_treats_candidates_as_rows():
    torch.manual_seed(0)
    x = 3 * torch.randn(4, 6, 5) + 1
    out = RowNorm(5)(x)
    expected = (x - x.mean((0, 1))) / (x.var((0, 1), unbiased=False) + 1e-5).sqrt()
    torch.testing.assert_close(out, expected)


def test_row_norm_in_eval_mode_is_the_same_for_any_layout():
    torch.manual_seed(0)
    norm = RowNorm(5)
    norm(torch.randn(30, 5) * 2 + 1)
    norm.eval()
    x = torch.randn(4, 6, 5)
    torch.testing.assert_close(norm(x)[2, 3], norm(x[2, 3][None])[0])
