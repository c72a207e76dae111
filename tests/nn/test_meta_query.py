import math

import pytest
import torch

from twotower.nn.meta_query import MetaQueries, attend, attend_places


def metas(anneal=4):
    torch.manual_seed(0)
    return MetaQueries(3, 4, item_size=5, anneal=anneal)


@torch.no_grad()
def test_shares_are_the_softmax_at_a_temperature_that_falls_from_1_to_a_thousandth():
    module, x = metas(), torch.randn(2, 6, 5)
    fit = module.route(x) @ module.matrix.T
    for tau in (1.0, 0.75025, 0.5005, 0.25075, 0.001, 0.001):
        torch.testing.assert_close(module.shares(x), (fit / tau).softmax(-1), atol=1e-5, rtol=1e-3)
    assert module.steps == 6


@torch.no_grad()
def test_the_choice_is_what_the_shares_end_at():
    module, x = metas(anneal=1), torch.randn(50, 5)
    module.shares(x)
    assert torch.equal(module.shares(x).argmax(-1), module.choice(x))
    module.eval()
    module.shares(x)
    assert module.steps == 2, "only training counts"


def naive(query, values):
    weights = [
        math.exp(sum(a * b for a, b in zip(query, v, strict=True)) / len(query) ** 0.5) for v in values
    ]
    return [
        sum(w * v[e] for w, v in zip(weights, values, strict=True)) / sum(weights) for e in range(len(query))
    ]


def test_attention_is_the_naive_loop_and_leaves_padding_out():
    draw = torch.Generator().manual_seed(0)
    queries, values = torch.randn(2, 4, generator=draw), torch.randn(3, 5, 4, generator=draw)
    length = torch.tensor([5, 2, 0])
    out = attend(queries, values, torch.arange(5) < length[:, None])
    assert out.shape == (3, 2, 4)
    assert not out[2].any(), "no events, nothing seen"
    for row in (0, 1):
        for n in range(2):
            expected = naive(queries[n].tolist(), values[row, : length[row]].tolist())
            assert out[row, n].tolist() == pytest.approx(expected, abs=1e-5)
    assert attend(queries, values[:, :0], torch.zeros(3, 0).bool()).shape == (3, 2, 4)


def test_each_place_attends_to_what_came_before_it():
    draw = torch.Generator().manual_seed(0)
    queries, values = torch.randn(2, 4, generator=draw), torch.randn(3, 5, 4, generator=draw)
    at = torch.rand(3, 5, generator=draw) < 0.6
    out = attend_places(queries, values, at)
    for t, (row, place) in enumerate(at.nonzero().tolist()):
        cut = torch.arange(5)[None] <= place
        torch.testing.assert_close(out[t], attend(queries, values[row : row + 1], cut)[0])
