"""FTRL-proximal against Algorithm 1 of the paper, one coordinate at a time."""

import copy
import math

import pytest
import torch
from torch import nn

from twotower.errors import ConfigError
from twotower.train.ftrl import FTRL


class Coordinate:
    """Algorithm 1 of McMahan et al. (2013), as printed, for one weight."""

    def __init__(self, w, alpha, beta, l1, l2):
        self.alpha, self.beta, self.l1, self.l2 = alpha, beta, l1, l2
        self.n, self.z = 0.0, 0.0
        if w:
            self.z = -w * (beta / alpha + l2) - math.copysign(l1, w)

    @property
    def w(self):
        if abs(self.z) <= self.l1:
            return 0.0
        rate = (self.beta + math.sqrt(self.n)) / self.alpha + self.l2
        return -(self.z - math.copysign(self.l1, self.z)) / rate

    def learn(self, g):
        sigma = (math.sqrt(self.n + g * g) - math.sqrt(self.n)) / self.alpha
        self.z += g - sigma * self.w
        self.n += g * g


def gradients(rows, dim, steps=6):
    """Sparse gradients with repeated rows; some rows are never named."""
    draw = torch.Generator().manual_seed(3)
    for _ in range(steps):
        at = torch.randint(rows - 2, (1, 5), generator=draw)
        values = torch.randn(5, dim, generator=draw, dtype=torch.float64)
        yield torch.sparse_coo_tensor(at, values, (rows, dim), check_invariants=True)


@pytest.mark.parametrize("dense", [True, False])
@pytest.mark.parametrize("start", [0.0, 0.7])
@pytest.mark.parametrize(("l1", "l2"), [(0.0, 0.0), (0.8, 0.0), (0.3, 2.0)])
def test_every_coordinate_follows_algorithm_1(dense, start, l1, l2):
    weight = nn.Parameter(torch.full((7, 2), start, dtype=torch.float64))
    optimizer = FTRL([weight], lr=0.5, beta=1.5, l1=l1, l2=l2)
    expected = [[Coordinate(start, 0.5, 1.5, l1, l2) for _ in range(2)] for _ in range(7)]
    for gradient in gradients(7, 2):
        weight.grad = gradient.to_dense() if dense else gradient
        optimizer.step()
        for row, line in enumerate(gradient.to_dense().tolist()):
            for column, g in enumerate(line):
                expected[row][column].learn(g)
    torch.testing.assert_close(
        weight.detach(), torch.tensor([[c.w for c in row] for row in expected], dtype=torch.float64)
    )


def test_rows_without_a_gradient_stay_as_they_are():
    table = nn.Embedding(6, 3, sparse=True)
    before = table.weight.detach().clone()
    optimizer = FTRL(table.parameters(), lr=0.1, l1=0.01)
    table(torch.tensor([4, 1, 4])).sum().backward()
    optimizer.step()
    changed = (table.weight.detach() != before).any(1)
    assert changed.nonzero()[:, 0].tolist() == [1, 4]


def test_a_gradient_of_zero_changes_nothing():
    weight = nn.Parameter(torch.tensor([[0.3, -0.2, 0.0]], dtype=torch.float64))
    optimizer = FTRL([weight], lr=0.1, l1=0.5, l2=0.5)
    weight.grad = torch.zeros_like(weight)
    optimizer.step()
    torch.testing.assert_close(weight.detach(), torch.tensor([[0.3, -0.2, 0.0]], dtype=torch.float64))


def test_l1_leaves_useless_weights_at_exactly_zero():
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(400, 20, generator=draw)
    y = (x[:, 0] - x[:, 1] > 0).float()
    weight = nn.Parameter(torch.zeros(20, 1))
    optimizer = FTRL([weight], lr=0.5, l1=8.0)
    for i in range(0, 400, 4):
        optimizer.zero_grad()
        logits = (x[i : i + 4] @ weight).squeeze(1)
        nn.functional.binary_cross_entropy_with_logits(logits, y[i : i + 4], reduction="sum").backward()
        optimizer.step()
    assert weight[0] > 0.3
    assert weight[1] < -0.3
    assert int((weight == 0).sum()) >= 15


def test_the_state_continues_exactly():
    one, two = (nn.Parameter(torch.zeros(7, 2, dtype=torch.float64)) for _ in range(2))
    first, second = FTRL([one], l1=0.1), FTRL([two], l1=0.1)
    stream = list(gradients(7, 2))
    for gradient in stream[:3]:
        one.grad = gradient
        first.step()
    two.data.copy_(one.data)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    for gradient in stream[3:]:
        one.grad, two.grad = gradient, gradient.clone()
        first.step()
        second.step()
    assert torch.equal(one, two)


@pytest.mark.parametrize("wrong", [{"lr": 0.0}, {"beta": 0.0}, {"l1": -1.0}, {"l2": -1.0}])
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(ConfigError, match="FTRL needs"):
        FTRL([nn.Parameter(torch.zeros(1))], **wrong)
