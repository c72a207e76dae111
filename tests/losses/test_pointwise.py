import pytest
import torch
from torch.nn import functional as F

from twotower.losses.pointwise import bce


def test_equals_torch_with_and_without_weight():
    generator = torch.Generator().manual_seed(0)
    scores, labels = torch.randn(9, generator=generator), torch.arange(9) % 2
    weight = torch.rand(9, generator=generator)
    rows = F.binary_cross_entropy_with_logits(scores, labels.float(), reduction="none")
    torch.testing.assert_close(bce(scores, labels), rows.mean())
    torch.testing.assert_close(bce(scores, labels, weight), (rows * weight).sum() / weight.sum())


def test_soft_labels_and_extreme_scores():
    assert bce(torch.tensor([1000.0, -1000.0]), torch.tensor([1, 0])).item() == 0
    assert bce(torch.tensor([0.0]), torch.tensor([0.3])).item() == pytest.approx(0.693147, rel=1e-5)


def test_nothing_or_no_weight_is_zero():
    assert bce(torch.zeros(0), torch.zeros(0)).item() == 0
    assert bce(torch.ones(2), torch.zeros(2), torch.zeros(2)).item() == 0


def test_half_precision_scores_are_widened():
    assert bce(torch.zeros(3, 2, dtype=torch.bfloat16), torch.zeros(3, 2)).dtype == torch.float32
