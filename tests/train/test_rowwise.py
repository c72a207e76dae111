"""Row-wise updates against their dense formula."""

import pytest
import torch
from torch import nn

from twotower.train.rowwise import RowwiseAdagrad, sum_repeated_rows


def sparse(rows, values, size):
    return torch.sparse_coo_tensor(torch.tensor([rows]), values, size, check_invariants=True)


@pytest.mark.parametrize(("n_rows", "looked_up"), [(5, 40), (1000, 40), (3, 1), (4, 0)])
def test_repeated_rows_are_summed_as_coalesce_does(n_rows, looked_up):
    generator = torch.Generator().manual_seed(looked_up)
    rows = torch.randint(n_rows, (looked_up,), generator=generator).tolist()
    gradient = sparse(rows, torch.randn(looked_up, 6, generator=generator), (n_rows, 6))
    ours, theirs = sum_repeated_rows(gradient), gradient.coalesce()
    assert ours.is_coalesced()
    assert torch.equal(ours.indices(), theirs.indices())
    torch.testing.assert_close(ours.values(), theirs.values())


def naive_adagrad(weight, gradients, lr, eps, decay):
    """Row by row and step by step: the formula of the docstring on dense gradients."""
    weight = weight.clone()
    accumulators = [0.0] * len(weight)
    for gradient, touched in gradients:
        for row in touched:
            g = gradient[row] + decay * weight[row]
            accumulators[row] += float((g**2).mean())
            weight[row] -= lr * g / (accumulators[row] ** 0.5 + eps)
    return weight


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_sparse_steps_equal_the_dense_formula_on_touched_rows(decay):
    generator = torch.Generator().manual_seed(1)
    table = nn.Embedding(12, 4, sparse=True, dtype=torch.float64)
    start, target = (
        table.weight.detach().clone(),
        torch.randn(12, 4, generator=generator, dtype=torch.float64),
    )
    optimizer = RowwiseAdagrad(table.parameters(), lr=0.3, eps=1e-6, weight_decay=decay)
    gradients = []
    for _ in range(5):
        rows = torch.randint(12, (9,), generator=generator)  # with repeats
        optimizer.zero_grad()
        (table(rows) - target[rows]).square().sum().backward()
        gradients.append((table.weight.grad.to_dense(), rows.unique().tolist()))
        optimizer.step()
    expected = naive_adagrad(start, gradients, 0.3, 1e-6, decay)
    torch.testing.assert_close(table.weight.detach(), expected)


def test_a_dense_gradient_follows_the_same_formula_on_all_rows():
    weight = torch.randn(3, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    parameter = nn.Parameter(weight.clone())
    optimizer = RowwiseAdagrad([parameter], lr=0.1, eps=1e-6, weight_decay=0.5)
    gradient = torch.tensor([[1.0, -2.0], [0.0, 0.0], [3.0, 1.0]], dtype=torch.float64)
    for _ in range(2):
        parameter.grad = gradient.clone()
        optimizer.step()
    expected = naive_adagrad(weight, [(gradient, range(3))] * 2, 0.1, 1e-6, 0.5)
    torch.testing.assert_close(parameter.detach(), expected)


def test_the_first_step_by_hand():
    table = nn.Embedding.from_pretrained(torch.zeros(2, 2), freeze=False, sparse=True)
    optimizer = RowwiseAdagrad(table.parameters(), lr=1.0, eps=0.0)
    table.weight.grad = sparse([1, 1], torch.tensor([[1.0, 2.0], [0.0, 2.0]]), (2, 2))  # sums to (1, 4)
    optimizer.step()
    rms = ((1 + 16) / 2) ** 0.5
    torch.testing.assert_close(table.weight[1].detach(), torch.tensor([-1 / rms, -4 / rms]))
    assert not table.weight[0].any()
    assert optimizer.state[table.weight]["sum"].tolist() == [0.0, 8.5]


def test_one_row_tables_of_vectors_and_a_gradient_of_nothing():
    table = nn.Embedding(4, 1, sparse=True)
    before = table.weight.detach().clone()
    optimizer = RowwiseAdagrad(table.parameters())
    table(torch.tensor([], dtype=torch.int64)).sum().backward()
    optimizer.step()
    assert torch.equal(table.weight, before)


def test_a_closure_is_called_with_gradients_on():
    table = nn.Embedding(4, 2, sparse=True)
    optimizer = RowwiseAdagrad(table.parameters())

    def closure() -> float:
        optimizer.zero_grad()
        loss = table(torch.tensor([1])).square().sum()
        loss.backward()
        return float(loss.detach())

    assert optimizer.step(closure) > optimizer.step(closure)
