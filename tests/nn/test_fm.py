"""Factorisation machines: the sum over pairs, computed in one pass."""

import torch

from twotower.nn.fm import within


def test_products_are_those_of_every_pair_of_fields():
    torch.manual_seed(0)
    fields = torch.randn(3, 5, 4)
    total, products = within(fields)
    for row in range(3):
        naive = sum(float(fields[row, f] @ fields[row, g]) for g in range(5) for f in range(g))
        torch.testing.assert_close(products[row].item(), naive, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(total[row], sum(fields[row]))


def test_a_single_field_meets_no_other():
    _, products = within(torch.randn(2, 1, 4, generator=torch.Generator().manual_seed(0)))
    torch.testing.assert_close(products, torch.zeros(2), atol=1e-6, rtol=0)


def test_two_sides_are_their_own_products_and_that_of_their_sums():
    torch.manual_seed(0)
    query, item = torch.randn(2, 4), torch.randn(3, 4)
    (a, first), (b, second) = within(query), within(item)
    _, whole = within(torch.cat([query, item]))
    torch.testing.assert_close(first + second + a @ b, whole)
