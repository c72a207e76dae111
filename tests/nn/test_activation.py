"""PReLU and Dice against their formulas, one number at a time."""

import math

import pytest
import torch

from twotower.nn.activation import Dice, PReLU, activation


def test_prelu_bends_each_channel_by_its_own_slope():
    layer = PReLU(2)
    layer.alpha.data = torch.tensor([0.5, -1.0])
    x = torch.tensor([[[2.0, 3.0]], [[-2.0, -3.0]]])
    assert layer(x).tolist() == [[[2.0, 3.0]], [[-1.0, 3.0]]]


@pytest.mark.parametrize("shape", [(4, 3), (2, 5, 3), (2, 0, 3)])
def test_dice_in_eval_mode_is_its_formula_with_running_statistics(shape):
    torch.manual_seed(0)
    layer = Dice(3).eval()
    torch.nn.init.normal_(layer.alpha)
    layer.norm.running_mean.uniform_(-1, 1)
    layer.norm.running_var.uniform_(0.5, 2)
    x = torch.randn(shape)
    out = layer(x).detach()
    assert out.shape == shape
    for row, found in zip(x.reshape(-1, 3), out.reshape(-1, 3), strict=True):
        for d in range(3):
            mean, variance = float(layer.norm.running_mean[d]), float(layer.norm.running_var[d])
            p = 1 / (1 + math.exp(-(float(row[d]) - mean) / math.sqrt(variance + 1e-8)))
            expected = p * float(row[d]) + (1 - p) * float(layer.alpha.detach()[d]) * float(row[d])
            assert float(found[d]) == pytest.approx(expected, abs=1e-6)


def test_dice_in_training_uses_the_batch_and_learns_its_running_statistics():
    layer = Dice(1)
    x = torch.tensor([[1.0], [3.0]])
    p = torch.sigmoid(torch.tensor([[-1.0], [1.0]]))  # mean 2, variance 1
    torch.testing.assert_close(layer(x), p * x, atol=1e-5, rtol=0)
    for _ in range(200):
        layer(x)
    assert float(layer.norm.running_mean) == pytest.approx(2, abs=1e-3)
    assert float(layer.norm.running_var) == pytest.approx(2, abs=1e-3), "the unbiased variance"


def test_activations_by_name():
    assert [type(activation(name, 2)).__name__ for name in ("relu", "prelu", "dice")] == [
        "ReLU",
        "PReLU",
        "Dice",
    ]
