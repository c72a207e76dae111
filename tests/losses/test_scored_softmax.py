"""Softmax of any scores, tile by tile: the same number and gradients as all at once."""

import pytest
import torch
from torch.nn.functional import cross_entropy

from twotower.losses.scored_softmax import scored_softmax


@pytest.mark.parametrize("tile_rows", [1, 3, 7, 100])
@pytest.mark.parametrize("weighted", [False, True])
def test_is_cross_entropy_of_the_whole_matrix(tile_rows, weighted):
    draw = torch.Generator().manual_seed(0)
    query, item = (torch.randn(n, 4, generator=draw, requires_grad=True) for n in (7, 11))
    target = torch.randint(11, (7,), generator=draw)
    weight = torch.rand(7, generator=draw) if weighted else None
    loss = scored_softmax(lambda rows: (query[rows] @ item.T).tanh(), target, tile_rows, weight)
    each = cross_entropy((query @ item.T).tanh(), target, reduction="none")
    expected = each.mean() if weight is None else (each * weight).sum() / weight.sum()
    torch.testing.assert_close(loss, expected)
    ours = torch.autograd.grad(loss, (query, item))
    theirs = torch.autograd.grad(expected, (query, item))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other)


def test_what_is_random_is_drawn_alike_both_times():
    torch.manual_seed(0)
    query = torch.randn(4, 6, requires_grad=True)
    masks = []

    def score(rows):
        masks.append(torch.rand(6))
        return query[rows] * masks[-1]

    scored_softmax(score, torch.arange(4), 2).backward()
    forth, back = torch.stack(masks[:2]), torch.stack(masks[2:])
    assert not torch.equal(forth[0], forth[1])
    assert torch.equal(back, forth) or torch.equal(back, forth.flip(0))


def test_nothing_to_learn_from_is_no_loss():
    query = torch.randn(0, 5, requires_grad=True)
    loss = scored_softmax(lambda rows: query[rows], torch.zeros(0, dtype=torch.int64), 3)
    loss.backward()
    assert loss.item() == 0
