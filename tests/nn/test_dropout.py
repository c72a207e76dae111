"""Dropout by bits: which entries, how many, and what becomes of the others."""

import pytest
import torch

from twotower.nn.dropout import Dropout, dropout


@pytest.mark.parametrize("p", [0.1, 0.2, 0.5, 0.9])
def test_the_share_of_zeros_is_p_and_the_mean_stays(p):
    torch.manual_seed(0)
    n = 1_000_001  # no multiple of the four entries that are drawn together
    out = dropout(torch.ones(n), p, training=True)
    spread = 5 * (p * (1 - p) / n) ** 0.5
    assert (out == 0).float().mean().item() == pytest.approx(p, abs=spread)
    assert out.mean().item() == pytest.approx(1, abs=spread / (1 - p))
    assert out[out != 0].unique().tolist() == pytest.approx([1 / (1 - p)], rel=1e-4)


def test_the_entries_of_one_draw_are_independent():
    torch.manual_seed(0)
    zero = (dropout(torch.ones(400_000), 0.5, training=True) == 0).view(-1, 4).float()
    off_diagonal = torch.corrcoef(zero.T) - torch.eye(4)
    assert off_diagonal.abs().max() < 5 / 100_000**0.5


def test_the_gradient_flows_through_what_was_kept_alone():
    torch.manual_seed(0)
    x = torch.randn(50, 30, requires_grad=True)
    out = dropout(x, 0.3, training=True)
    out.sum().backward()
    torch.testing.assert_close(x.grad * x, out)
    assert 0 < (x.grad == 0).sum() < x.numel()


def test_a_seed_decides_and_an_unused_one_changes_nothing():
    layer = Dropout(0.4)
    x = torch.randn(7, 9)
    torch.manual_seed(3)
    first, second = layer(x), layer(x)
    torch.manual_seed(3)
    assert torch.equal(layer(x), first)
    assert not torch.equal(first, second)
    assert layer.eval()(x) is x
    assert dropout(x, 0.0, training=True) is x


def test_the_highest_share_still_keeps_some():
    torch.manual_seed(0)
    out = dropout(torch.ones(2_000_000), 0.999999, training=True)
    assert out.isfinite().all()
    assert (out != 0).any()


def test_half_precision_stays_half_precision():
    assert dropout(torch.ones(100, dtype=torch.bfloat16), 0.5, training=True).dtype == torch.bfloat16
