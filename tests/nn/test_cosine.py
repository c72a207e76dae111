"""Unit vectors and the learned factor: finite gradients, and a way back from the bound."""

import math

import pytest
import torch

from twotower.errors import ConfigError
from twotower.models.mol import MoLConfig
from twotower.models.two_tower import TwoTowerConfig
from twotower.nn.cosine import LEAST_TEMPERATURE, STEEPEST, factor, unit


def test_nothing_has_a_bounded_gradient():
    vectors = torch.zeros(1, 4, requires_grad=True)
    unit(vectors).sum().backward()
    assert vectors.grad.abs().max() <= 1000


def test_ordinary_vectors_have_length_one():
    vectors = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(unit(vectors), vectors / vectors.norm(dim=1, keepdim=True))


@pytest.mark.parametrize(("at", "sign", "slope"), [(1.0, 1, math.e), (1.0, -1, -math.e), (6.0, -1, 0.0)])
def test_the_factor_is_an_exponential_up_to_its_bound(at, sign, slope):
    log_scale = torch.tensor(at, requires_grad=True)
    (sign * factor(log_scale)).backward()
    assert log_scale.grad.item() == pytest.approx(slope, rel=1e-6)


def test_training_comes_back_from_beyond_the_bound():
    log_scale = torch.nn.Parameter(torch.tensor(STEEPEST + 0.1))
    optimizer = torch.optim.Adam([log_scale], lr=0.01)
    for _ in range(50):
        optimizer.zero_grad()
        factor(log_scale).backward()  # a loss that a smaller factor makes smaller
        optimizer.step()
    assert log_scale < STEEPEST - 0.2


@pytest.mark.parametrize("config", [TwoTowerConfig, MoLConfig])
def test_a_temperature_below_the_bound_is_refused(config):
    assert config.parse({"temperature": LEAST_TEMPERATURE}).temperature == LEAST_TEMPERATURE
    with pytest.raises(ConfigError, match="temperature"):
        config.parse({"temperature": 0.005})
