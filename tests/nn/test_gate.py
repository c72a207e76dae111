import math

import pytest
import torch

from twotower.nn.gate import LightSE, SENet, gate

FIELDS = torch.tensor([[[1.0, 3.0], [-2.0, 0.0], [0.5, 0.5]]])  # means 2, -1, 0.5


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def test_senet_is_the_naive_loop():
    torch.manual_seed(0)
    senet = SENet(3, reduction=2)
    squeezed = torch.tensor([2.0, -1.0, 0.5])
    first, _, second, _ = senet.weigh
    assert first.weight.shape == (1, 3)
    inside = max(0.0, (first.weight[0] @ squeezed).item() + first.bias.item())
    for f in range(3):
        a = sigmoid(second.weight[f, 0].item() * inside + second.bias[f].item())
        torch.testing.assert_close(senet(FIELDS)[0, f], FIELDS[0, f] * a)


def test_light_se_is_the_naive_loop():
    torch.manual_seed(0)
    light = LightSE(3)
    squeezed = torch.tensor([2.0, -1.0, 0.5])
    raw = [
        math.exp((row @ squeezed).item() + b.item())
        for row, b in zip(light.weigh.weight, light.weigh.bias, strict=True)
    ]
    for f in range(3):
        torch.testing.assert_close(light(FIELDS)[0, f], FIELDS[0, f] * (1 + raw[f] / sum(raw)))


@pytest.mark.parametrize("kind", ["none", "senet", "light_se"])
def test_any_leading_axes_and_no_row_sees_another(kind):
    torch.manual_seed(0)
    module = gate(kind, 3)
    fields = torch.randn(4, 5, 3, 2)
    out = module(fields)
    assert out.shape == fields.shape
    torch.testing.assert_close(module(fields[1, 2]), out[1, 2])


def test_no_gate_is_no_change():
    assert torch.equal(gate("none", 3)(FIELDS), FIELDS)
