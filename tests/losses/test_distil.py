"""Distillation losses against loops over one list at a time."""

import math

import pytest
import torch

from twotower.errors import ConfigError
from twotower.losses.distil import kl, margin, mse

NAN, INF = float("nan"), float("inf")


def lists():
    g = torch.Generator().manual_seed(3)
    scores, teacher = torch.randn(2, 4, 5, generator=g, dtype=torch.float64) - 3
    mask = torch.rand(4, 5, generator=g) < 0.7
    mask[2] = torch.tensor([True, False, False, False, False])
    mask[3] = False
    return scores, teacher.masked_fill(~mask, NAN), mask


def naive_mse(s, t):
    return sum((a - b) ** 2 for a, b in zip(s, t, strict=True)) / len(s)


def naive_margin(s, t):
    pairs = [(i, j) for i in range(len(s)) for j in range(i)]
    return sum(((s[i] - s[j]) - (t[i] - t[j])) ** 2 for i, j in pairs) / len(pairs) if pairs else None


def naive_kl(s, t, temperature=1.0):
    def softmax(values):
        parts = [math.exp(v / temperature) for v in values]
        return [p / sum(parts) for p in parts]

    return temperature**2 * sum(p * math.log(p / q) for p, q in zip(softmax(t), softmax(s), strict=True))


LOSSES = {
    "mse": (mse, naive_mse),
    "margin": (margin, naive_margin),
    "kl": (kl, naive_kl),
    "soft kl": (lambda *a: kl(*a, temperature=3.0), lambda s, t: naive_kl(s, t, 3.0)),
}


@pytest.mark.parametrize("name", LOSSES)
def test_equals_the_loop(name):
    loss, naive = LOSSES[name]
    scores, teacher, mask = lists()
    values = [naive(scores[row][mask[row]].tolist(), teacher[row][mask[row]].tolist()) for row in range(3)]
    for weight in (None, [2.0, 0.5, 1.0, 4.0]):
        rows = [(v, w) for v, w in zip(values, weight or [1.0] * 3, strict=False) if v is not None]
        expected = sum(v * w for v, w in rows) / sum(w for _, w in rows)
        tensor = None if weight is None else torch.tensor(weight)
        assert loss(scores, teacher, mask, tensor).item() == pytest.approx(expected, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("name", LOSSES)
def test_what_has_no_teacher_score_gets_no_gradient(name):
    loss, _ = LOSSES[name]
    scores, teacher, mask = lists()
    student = scores.masked_fill(~mask, -INF).requires_grad_()
    known = teacher.clone().requires_grad_()
    loss(student, known, mask).backward()
    assert student.grad.isfinite().all()
    assert student.grad[mask].abs().sum() > 0
    assert (student.grad[~mask] == 0).all()
    assert known.grad is None


@pytest.mark.parametrize("name", LOSSES)
def test_a_student_like_the_teacher_has_nothing_to_learn(name):
    loss, _ = LOSSES[name]
    _, teacher, mask = lists()
    assert loss(teacher.nan_to_num(), teacher, mask).item() == pytest.approx(0, abs=1e-12)
    nothing = torch.zeros(4, 5, dtype=torch.bool)
    assert loss(teacher.nan_to_num(), teacher, nothing) == 0


@pytest.mark.parametrize("loss", [kl, margin])
def test_the_teachers_level_is_no_matter(loss):
    scores, teacher, mask = lists()
    shift = torch.tensor([[1.0], [-7.0], [3.0], [0.0]])
    torch.testing.assert_close(loss(scores, teacher + shift, mask), loss(scores, teacher, mask))


def test_a_temperature_must_be_positive():
    with pytest.raises(ConfigError, match="temperature must be positive"):
        kl(torch.zeros(1, 2), torch.zeros(1, 2), temperature=0.0)
