import math

import pytest
import torch
from torch.nn.functional import normalize

from twotower.losses.contrastive import info_nce


def cosine(a, b):
    return sum(x * y for x, y in zip(a, b, strict=True)) / math.sqrt(
        sum(x * x for x in a) * sum(y * y for y in b)
    )


def naive(query, item, tau, keys, weight):
    losses = []
    for b in range(len(query)):
        terms = [
            math.exp(cosine(query[b], item[c]) / tau)
            for c in range(len(item))
            if c == b or keys[c] != keys[b]
        ]
        losses.append(-math.log(math.exp(cosine(query[b], item[b]) / tau) / sum(terms)))
    return sum(w * x for w, x in zip(weight, losses, strict=True)) / sum(weight)


@pytest.mark.parametrize("tau", [0.05, 1.0])
def test_equals_the_naive_loop(tau):
    draw = torch.Generator().manual_seed(0)
    query, item = torch.randn(2, 6, 4, generator=draw, dtype=torch.float64)
    keys, weight = torch.tensor([3, 1, 3, 2, 1, 5]), torch.tensor([1.0, 2, 0, 1, 1, 3]).double()
    value = info_nce(query, item, temperature=tau, item_keys=keys, weight=weight)
    expected = naive(query.tolist(), item.tolist(), tau, keys.tolist(), weight.tolist())
    assert value.item() == pytest.approx(expected, rel=1e-9)


def test_lengths_of_vectors_do_not_matter():
    draw = torch.Generator().manual_seed(0)
    query, item = torch.randn(2, 5, 3, generator=draw)
    torch.testing.assert_close(info_nce(7 * query, 0.1 * item), info_nce(query, item))


def test_all_the_same_item_teaches_nothing():
    query = torch.randn(4, 3, generator=torch.Generator().manual_seed(0), requires_grad=True)
    loss = info_nce(query, query.detach(), item_keys=torch.full((4,), 9))
    loss.backward()
    assert loss.item() == 0
    assert not query.grad.any()


def test_one_pair_and_none():
    assert info_nce(torch.ones(1, 3), torch.ones(1, 3)).item() == 0
    empty = torch.zeros(0, 3, requires_grad=True)
    loss = info_nce(empty, torch.zeros(0, 3), item_keys=torch.zeros(0).long())
    loss.backward()
    assert loss.item() == 0


def test_what_the_user_likes_as_well_is_no_negative():
    pairs, seen = torch.randn(3, 4), torch.zeros(3, 3, dtype=torch.bool)
    seen[0, 1] = seen[1, 0] = True
    others = [[0, 2], [1, 2], [0, 1, 2]]
    cosine = normalize(pairs, dim=-1) @ normalize(pairs, dim=-1).T / 0.1
    expected = [cosine[row, row] - cosine[row, others[row]].logsumexp(0) for row in range(3)]
    torch.testing.assert_close(info_nce(pairs, pairs, seen=seen), -torch.stack(expected).mean())
