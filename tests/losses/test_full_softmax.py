"""Tiled softmax equals the plain one: value, gradients, corrections, short dtypes, extreme logits."""

import pytest
import torch
from torch.nn import functional as F

from twotower.losses.full_softmax import full_softmax, tiled_softmax
from twotower.losses.softmax import sampled_softmax


def inputs(t: int = 37, n: int = 23, d: int = 5, dtype: torch.dtype = torch.float64, scale: float = 1.0):
    generator = torch.Generator().manual_seed(t * 1000 + n)
    query = (scale * torch.randn(t, d, generator=generator, dtype=dtype)).requires_grad_()
    item = torch.randn(n, d, generator=generator, dtype=dtype).requires_grad_()
    bias = torch.randn(n, generator=generator, dtype=dtype).requires_grad_()
    target = torch.randint(n, (t,), generator=generator)
    weight = torch.rand(t, generator=generator, dtype=dtype)
    return query, item, bias, target, weight


def relative_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found.double() - expected.double()).norm() / expected.double().norm())


@pytest.mark.parametrize("tile_rows", [1, 8, 37, 100, None])
def test_equals_cross_entropy_of_the_whole_matrix(tile_rows):
    query, item, bias, target, weight = inputs()
    temperature = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    leaves = (query, item, bias, temperature)
    rows = F.cross_entropy(query @ item.T / temperature + bias, target, reduction="none")
    expected = (rows * weight).sum() / weight.sum()
    loss = full_softmax(
        query, item, target, bias=bias, temperature=temperature, weight=weight, tile_rows=tile_rows
    )
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(
        torch.autograd.grad(loss * 3, leaves), torch.autograd.grad(expected * 3, leaves)
    )


@pytest.mark.parametrize("correction", ["standard", "positive-free"])
@pytest.mark.parametrize("with_seen", [False, True])
def test_equals_sampled_softmax_with_all_corrections(correction, with_seen):
    query, item, _, _, weight = inputs(30, 30)
    generator = torch.Generator().manual_seed(1)
    log_q = torch.randn(30, generator=generator, dtype=torch.float64).log_softmax(0)
    keys = torch.randint(8, (30,), generator=generator)
    seen = torch.rand(30, 30, generator=generator) < 0.3 if with_seen else None
    options = {
        "temperature": 0.5,
        "log_q": log_q,
        "item_keys": keys,
        "seen": seen,
        "weight": weight,
        "correction": correction,
    }
    expected = sampled_softmax(query @ item.T, **options)
    loss = tiled_softmax(query, item, tile_rows=7, **options)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(
        torch.autograd.grad(loss, (query, item)), torch.autograd.grad(expected, (query, item))
    )


@pytest.mark.parametrize("correction", ["standard", "positive-free"])
def test_one_item_in_the_whole_batch_gives_zero(correction):
    query, item, *_ = inputs(6, 6)
    loss = tiled_softmax(
        query,
        item,
        item_keys=torch.zeros(6, dtype=torch.int64),
        log_q=torch.zeros(6),
        correction=correction,
    )
    gradients = torch.autograd.grad(loss, (query, item))
    assert loss.item() == 0
    assert all(bool(g.isfinite().all()) and g.abs().max() < 1e-12 for g in gradients)


def test_bfloat16_by_autocast_stays_near_the_exact_gradient():
    query, item, bias, target, _ = inputs(300, 200, 32, torch.float32)
    expected = F.cross_entropy(query @ item.T / 2 + bias, target)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = full_softmax(query, item, target, bias=bias, temperature=2.0, tile_rows=64)
    assert loss.dtype == torch.float32
    assert abs(loss.item() - expected.item()) < 1e-2 * expected.item()
    gradients = torch.autograd.grad(loss, (query, item, bias))
    for found, exact in zip(gradients, torch.autograd.grad(expected, (query, item, bias)), strict=True):
        assert found.dtype == torch.float32
        assert relative_error(found, exact) < 1e-2


def test_dtype_argument_is_autocast_without_autocast():
    query, item, _, target, _ = inputs(64, 50, 8, torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        expected = full_softmax(query, item, target)
    assert full_softmax(query, item, target, dtype=torch.bfloat16) == expected


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_extreme_logits_keep_an_exact_finite_loss(dtype):
    query = torch.tensor([[200.0], [-200.0]], requires_grad=True)
    item = torch.tensor([[1.0], [-1.0], [0.0]], requires_grad=True)
    target = torch.tensor([1, 2])  # the worst choice, and the middle one
    loss = full_softmax(query, item, target, dtype=dtype)
    assert loss.item() == pytest.approx((400 + 200) / 2)
    loss.backward()
    assert query.grad.isfinite().all()


def test_nan_is_not_swallowed():
    query, item, _, target, _ = inputs(dtype=torch.float32)
    spoiled = query.detach().clone()
    spoiled[3, 1] = torch.nan
    assert full_softmax(spoiled, item, target).isnan()


def test_backward_twice_gives_the_same():
    query, item, _, target, _ = inputs()
    loss = full_softmax(query, item, target)
    first = torch.autograd.grad(loss, query, retain_graph=True)[0]
    assert torch.equal(first, torch.autograd.grad(loss, query)[0])


def test_value_without_gradient():
    query, item, _, target, _ = inputs()
    expected = full_softmax(query, item, target)
    with torch.no_grad():
        loss = full_softmax(query, item, target)
    assert not loss.requires_grad
    torch.testing.assert_close(loss, expected.detach())


def test_only_the_needed_side_may_ask_for_gradients():
    query, item, _, target, _ = inputs()
    loss = full_softmax(query.detach(), item, target)
    (found,) = torch.autograd.grad(loss, item)
    (expected,) = torch.autograd.grad(F.cross_entropy(query.detach() @ item.T, target), item)
    torch.testing.assert_close(found, expected)


def test_empty_batch_is_zero():
    query, item, *_ = inputs()
    loss = full_softmax(query[:0], item, torch.zeros(0, dtype=torch.int64))
    loss.backward()
    assert loss.item() == 0


def test_shared_vectors_collect_both_gradients():
    """In-batch with the same tensor on both sides: autograd must add the two."""
    vectors = inputs(10, 10)[0]
    (found,) = torch.autograd.grad(tiled_softmax(vectors, vectors), vectors)
    (expected,) = torch.autograd.grad(sampled_softmax(vectors @ vectors.T), vectors)
    torch.testing.assert_close(found, expected)


def test_the_whole_matrix_is_never_held():
    """Tensors made in the forward pass stay at a tile's size: T x N would be 64 times as large."""

    largest = 0

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            nonlocal largest
            out = func(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor):
                largest = max(largest, out.numel())
            return out

    query, item, _, target, _ = inputs(256, 100, 4)
    with Watch():
        full_softmax(query, item, target, tile_rows=4).backward()
    assert largest <= 256 * 4
