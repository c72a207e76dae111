"""Matrices of similarities: every cell of every pair, however the pairs are cut into chunks."""

import pytest
import torch

from twotower.errors import ConfigError
from twotower.scores import matrix
from twotower.scores.matrix import read_matrix, similarity_matrix

Q, C, LQ, LD, D = 3, 4, 2, 5, 6


def lists(requires_grad=False):
    draw = torch.Generator().manual_seed(0)
    query = torch.randn(Q, LQ, D, generator=draw).requires_grad_(requires_grad)
    item = torch.randn(C, LD, D, generator=draw).requires_grad_(requires_grad)
    return query, torch.tensor([2, 0, 1]), item, torch.tensor([5, 1, 0, 3])


def real_sum(similarities, query_real, item_real):
    """The sum of squares over real cells."""
    cells = query_real.unsqueeze(-1) & item_real.unsqueeze(-2)
    return (similarities.square() * cells).sum((-1, -2))


def naive(query, query_length, item, item_length):
    return torch.tensor(
        [
            [
                sum(float(query[q, a] @ item[c, b]) ** 2 for a in range(m) for b in range(n))
                for c, n in enumerate(item_length.tolist())
            ]
            for q, m in enumerate(query_length.tolist())
        ]
    )


def test_every_cell_is_an_inner_product_in_both_layouts():
    query, _, item, _ = lists()
    shared = similarity_matrix(query, item)
    assert shared.shape == (Q, C, LQ, LD)
    for q in range(Q):
        for c in range(C):
            torch.testing.assert_close(shared[q, c], query[q] @ item[c].T)
    own = similarity_matrix(query, item.expand(Q, C, LD, D))
    torch.testing.assert_close(own, shared)


@pytest.mark.parametrize("budget", [1, 25, 100, 10**6])
def test_chunks_change_no_number_and_no_gradient(budget, monkeypatch):
    monkeypatch.setattr(matrix, "FLOATS_AT_ONCE", budget)
    query, query_length, item, item_length = lists(requires_grad=True)
    expected = naive(query.detach(), query_length, item.detach(), item_length)
    shared = read_matrix(query, query_length, item, item_length, real_sum)
    torch.testing.assert_close(shared, expected)
    own = read_matrix(
        query, query_length, item.expand(Q, C, LD, D), item_length.expand(Q, C), real_sum, per_cell=2
    )
    torch.testing.assert_close(own, expected)
    for scores in (shared, own):
        found = torch.autograd.grad(scores.sum(), (query, item))
        whole = real_sum(
            similarity_matrix(query, item),
            matrix.real_places(query_length, LQ)[:, None],
            matrix.real_places(item_length, LD)[None],
        )
        for a, b in zip(found, torch.autograd.grad(whole.sum(), (query, item)), strict=True):
            torch.testing.assert_close(a, b)


def test_a_chunk_holds_no_more_than_the_budget(monkeypatch):
    monkeypatch.setattr(matrix, "FLOATS_AT_ONCE", 2 * LQ * LD * 3)
    seen = []

    def read(similarities, query_real, item_real):
        seen.append(similarities.numel() * 3)
        return similarities.sum((-1, -2))

    with torch.no_grad():
        read_matrix(*lists(), read, per_cell=3)
    assert max(seen) == 2 * LQ * LD * 3
    assert sum(seen) == Q * C * LQ * LD * 3


def test_no_queries_no_items_and_no_places():
    query, query_length, item, item_length = lists()
    assert read_matrix(query[:0], query_length[:0], item, item_length, real_sum).shape == (0, C)
    assert read_matrix(query, query_length, item[:0], item_length[:0], real_sum).shape == (Q, 0)
    none = read_matrix(query, query_length, item[:, :0], torch.zeros(C, dtype=torch.int64), real_sum)
    assert torch.equal(none, torch.zeros(Q, C))


def test_lengths_of_another_layout_are_refused():
    query, query_length, item, item_length = lists()
    with pytest.raises(ConfigError, match="need lengths"):
        read_matrix(query, query_length, item.expand(Q, C, LD, D), item_length, real_sum)
