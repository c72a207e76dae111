"""Kernel pooling against the paper's sums, one cell at a time."""

import math

import torch

from twotower.nn.kernel_pooling import LEAST, SCALE, KernelPooling


def naive(pool, cosines):
    """(Lq, Ld) nested lists of real cells -> the features."""
    features = []
    for mu, sigma in zip(pool.means, pool.sigmas, strict=True):
        total = 0.0
        for row in cosines:
            count = sum(math.exp(-((m - mu) ** 2) / (2 * sigma**2)) for m in row)
            total += math.log(max(count, LEAST))
        features.append(SCALE * total)
    return torch.tensor(features)


def test_features_are_the_papers_sums_over_real_cells():
    pool = KernelPooling(11)
    draw = torch.Generator().manual_seed(0)
    matrix = torch.rand(2, 3, 4, 5, generator=draw) * 2 - 1
    matrix[0, 0, 0, 0] = 1.0
    query_real = torch.arange(4) < torch.tensor([3, 0])[:, None, None]  # (2, 1, 4)
    item_real = torch.arange(5) < torch.tensor([[5, 1, 0], [2, 3, 4]])[..., None]
    found = pool(matrix, query_real, item_real)
    for q in range(2):
        for k in range(3):
            m, n = int(query_real[q].sum()), int(item_real[q, k].sum())
            torch.testing.assert_close(found[q, k], naive(pool, matrix[q, k, :m, :n].tolist()))


def test_padding_is_no_unrelated_word():
    """A cosine of 0 would count in the kernels at .1 and -.1."""
    pool = KernelPooling(11)
    real = torch.tensor([True, False])
    alone = pool(torch.tensor([[1.0]]), torch.tensor([True]), torch.tensor([True]))
    padded = pool(torch.tensor([[1.0, 0.0]]), torch.tensor([True]), real)
    assert torch.equal(alone, padded)


def test_gradients_are_finite_where_no_kernel_sees_anything():
    matrix = torch.full((1, 3), -1.0, requires_grad=True)
    pool = KernelPooling(3, sigma=1e-2)
    pool(matrix, torch.tensor([True]), torch.tensor([True, True, False])).sum().backward()
    assert matrix.grad.isfinite().all()
