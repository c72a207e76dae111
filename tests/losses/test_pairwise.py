import math

import pytest
import torch

from twotower.losses.pairwise import bpr, hinge

INF = float("inf")


def test_bpr_by_hand():
    positive, negative = torch.tensor([1.0, 0.0]), torch.tensor([[0.0, 3.0], [0.0, -1.0]])
    first = (math.log(1 + math.exp(-1)) + math.log(1 + math.exp(2))) / 2
    second = (math.log(2) + math.log(1 + math.exp(-1))) / 2
    assert bpr(positive, negative).item() == pytest.approx((first + second) / 2, rel=1e-6)
    weighted = bpr(positive, negative, torch.tensor([3.0, 1.0]))
    assert weighted.item() == pytest.approx((3 * first + second) / 4, rel=1e-6)


def test_hinge_by_hand():
    loss = hinge(torch.tensor([1.0]), torch.tensor([[0.5, -3.0]]), margin=2.0)
    assert loss.item() == pytest.approx(1.5 / 2)


@pytest.mark.parametrize("loss", [bpr, hinge])
def test_masked_negatives_leave_value_and_gradient_alone(loss):
    positive = torch.tensor([-2.0, -1.0], requires_grad=True)
    full = torch.tensor([[-1.0, -INF], [-INF, -INF]], requires_grad=True)
    value = loss(positive, full)
    value.backward()
    assert value.item() == pytest.approx(loss(torch.tensor([-2.0]), torch.tensor([[-1.0]])).item() / 2)
    assert full.grad.isfinite().all()
    assert full.grad[full == -INF].abs().sum() == 0
    assert positive.grad[1] == 0


@pytest.mark.parametrize("loss", [bpr, hinge])
def test_order_of_negatives_does_not_matter(loss):
    generator = torch.Generator().manual_seed(0)
    positive, negative = torch.randn(4, generator=generator), torch.randn(4, 6, generator=generator)
    torch.testing.assert_close(loss(positive, negative), loss(positive, negative.flip(1)))


def test_half_precision_is_widened():
    positive, negative = torch.randn(5).bfloat16(), torch.randn(5, 3).bfloat16()
    assert torch.equal(bpr(positive, negative), bpr(positive.float(), negative.float()))
