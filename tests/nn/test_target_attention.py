"""Target attention against the textbook: one pair of place and target at a time."""

import math

import pytest
import torch

from twotower.nn.target_attention import TargetAttention

Q, K, L, E = 3, 4, 5, 2


def naive(unit, keys, real, target):
    """sum_l a(k_l, t) k_l of one history and one target."""
    a = []
    for key in keys:
        hidden = unit.first(torch.cat([key, target, key - target, key * target]))
        hidden = torch.stack([h if h > 0 else s * h for h, s in zip(hidden, unit.bend.alpha, strict=True)])
        a.append(float(unit.out(hidden)))
    places = [place for place in range(len(keys)) if real[place]]
    match unit.weighting:
        case "linear":
            weights = a
        case "sigmoid":
            weights = [1 / (1 + math.exp(-x)) for x in a]
        case "softmax":
            total = sum(math.exp(a[place]) for place in places)
            weights = [math.exp(x) / total if places else 0.0 for x in a]
    return sum((weights[place] * keys[place] for place in places), torch.zeros(E))


@pytest.fixture(params=["linear", "sigmoid", "softmax"])
def unit(request):
    torch.manual_seed(0)
    unit = TargetAttention(E, 6, request.param)
    torch.nn.init.normal_(unit.bend.alpha)
    return unit


@pytest.fixture
def history():
    real = torch.arange(L) < torch.tensor([[5], [2], [0]])  # a full one, a short one, an empty one
    return torch.randn(Q, L, E), real


def test_own_candidates_see_the_history_as_the_textbook_says(unit, history):
    keys, real = history
    target = torch.randn(Q, K, E)
    with torch.no_grad():
        pooled = unit.pool(keys, real, target, unit.target_share(target))
        for q in range(Q):
            for k in range(K):
                expected = naive(unit, keys[q], real[q], target[q, k])
                torch.testing.assert_close(pooled[q, k], expected, atol=1e-5, rtol=1e-5)


def test_shared_candidates_see_it_as_own_ones_do(unit, history):
    keys, real = history
    target = torch.randn(K, E)
    shared = unit.pool(keys, real, target, unit.target_share(target))
    own = unit.pool(keys, real, target.expand(Q, K, E), unit.target_share(target).expand(Q, K, -1))
    torch.testing.assert_close(shared, own)


def test_an_empty_history_gives_zeros_and_finite_gradients(unit, history):
    keys, real = history
    pooled = unit.pool(keys, real, torch.randn(K, E), torch.randn(K, 6))
    assert (pooled[2] == 0).all()
    pooled.sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in unit.parameters())


def test_no_places_at_all_give_zeros(unit):
    none = unit.pool(torch.randn(Q, 0, E), torch.ones(Q, 0).bool(), torch.randn(K, E), torch.randn(K, 6))
    assert none.shape == (Q, K, E)
    assert (none == 0).all()
