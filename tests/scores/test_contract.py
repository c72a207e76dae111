"""What every scorer promises. A new scorer is one more line in SCORERS."""

import math

import pytest
import torch

from twotower.errors import ConfigError
from twotower.scores import multihead as multihead_module
from twotower.scores.dot import cosine, dot
from twotower.scores.maxsim import maxsim
from twotower.scores.mixture import mixture
from twotower.scores.multihead import multihead

INF = float("inf")


def naive_dot(query, item):
    return sum(float(q) * float(i) for q, i in zip(query, item, strict=True))


def naive_cosine(query, item):
    lengths = naive_dot(query, query) ** 0.5 * naive_dot(item, item) ** 0.5
    return naive_dot(query, item) / lengths if lengths else 0.0


def naive_multihead(query, item):
    return sum(max(naive_dot(q, i) for i in item) for q in query)


def naive_mixture(query, item):
    """Gates are the vectors themselves, side by side."""
    logits = [naive_dot(q, i) for i in item for q in query]
    sides = zip(query.flatten().tolist(), item.flatten().tolist(), logits, strict=True)
    gates = [q * i + 0.3 * l for q, i, l in sides]
    weights = [math.exp(g / (1 + math.exp(-g))) for g in gates]
    return sum(w * l for w, l in zip(weights, logits, strict=True)) / sum(weights)


SCORERS = {  # name: scorer, naive score of one pair, shape of one representation
    "dot": (dot, naive_dot, (7,)),
    "cosine": (cosine, naive_cosine, (7,)),
    "cosine with temperature": (
        lambda q, i, mask=None: cosine(q, i, mask, temperature=0.1),
        lambda q, i: naive_cosine(q, i) / 0.1,
        (7,),
    ),
    "mixture": (
        lambda q, i, mask=None: mixture(q, q.flatten(-2), i, i.flatten(-2), lambda l: 0.3 * l, mask),
        naive_mixture,
        (3, 3),
    ),
    "multihead": (multihead, naive_multihead, (3, 7)),
    "maxsim": (maxsim, naive_multihead, (3, 7)),
}
Q, C, K = 4, 9, 5


@pytest.fixture(params=SCORERS)
def case(request):
    scorer, naive, shape = SCORERS[request.param]
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(Q, *shape, generator=generator, dtype=torch.float64)
    item = torch.randn(C, *shape, generator=generator, dtype=torch.float64)
    own = torch.randint(C, (Q, K), generator=generator)
    return scorer, naive, query, item, own


def test_equals_the_naive_loop(case):
    scorer, naive, query, item, own = case
    expected = torch.tensor([[naive(q, i) for i in item] for q in query], dtype=torch.float64)
    torch.testing.assert_close(scorer(query, item), expected)
    torch.testing.assert_close(scorer(query, item[own]), expected.gather(1, own))


def test_permuting_candidates_permutes_scores(case):
    scorer, _, query, item, own = case
    order = torch.randperm(C, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(scorer(query, item[order]), scorer(query, item)[:, order])
    torch.testing.assert_close(scorer(query, item[own].flip(1)), scorer(query, item[own]).flip(1))


def test_masks_mean_minus_infinity_even_where_all_scores_are_negative(case):
    scorer, _, query, item, own = case
    query, item = query.abs(), -item.abs()
    for candidates in (item, item[own]):
        plain = scorer(query, candidates)
        assert (plain < 0).all()
        mask = torch.rand(plain.shape, generator=torch.Generator().manual_seed(2)) < 0.5
        masked = scorer(query, candidates, mask)
        assert torch.equal(masked[mask], plain[mask])
        assert (masked[~mask] == -INF).all()
        assert mask.gather(1, masked.argmax(1, keepdim=True))[mask.any(1)].all()


def test_a_mask_for_all_queries(case):
    scorer, _, query, item, _ = case
    mask = torch.arange(C) % 2 == 0
    assert torch.equal(scorer(query, item, mask), scorer(query, item, mask.expand(Q, C)))


def test_no_candidates(case):
    scorer, _, query, item, own = case
    assert scorer(query, item[:0]).shape == (Q, 0)
    assert scorer(query, item[own[:, :0]]).shape == (Q, 0)
    assert scorer(query[:0], item).shape == (0, C)


def test_shapes_that_do_not_fit_are_named(case):
    scorer, _, query, item, own = case
    with pytest.raises(ConfigError, match="own candidates of 3 queries"):
        scorer(query, item[own[:3]])
    with pytest.raises(ConfigError, match="do not meet"):
        scorer(query, item[..., :-1])
    with pytest.raises(ConfigError, match="neither shared nor own"):
        scorer(query, item[0])


def test_zero_vectors_have_cosine_zero():
    assert cosine(torch.ones(1, 3), torch.zeros(2, 3)).tolist() == [[0, 0]]


def test_many_heads_in_blocks_score_and_learn_as_all_at_once(monkeypatch):
    draw = torch.Generator().manual_seed(0)
    query, item = torch.randn(5, 3, 4, generator=draw), torch.randn(7, 2, 4, generator=draw)
    mask, found = torch.rand(5, 7, generator=draw) < 0.5, []
    for held in (multihead_module.HELD, 0):
        monkeypatch.setattr(multihead_module, "HELD", held)
        sides = query.clone().requires_grad_(), item.clone().requires_grad_()
        scores = multihead(*sides, mask)
        scores[mask].sin().sum().backward()
        found.append([scores.detach(), *(side.grad for side in sides)])
    for once, blocks in zip(*found, strict=True):
        torch.testing.assert_close(once, blocks)
