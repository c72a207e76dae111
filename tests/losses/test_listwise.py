"""List losses against loops over one list at a time."""

import math

import pytest
import torch

from twotower.errors import ConfigError
from twotower.losses.listwise import lambda_loss, list_mle, listnet, ranks, softmax_against
from twotower.losses.pairs import logistic_pairs
from twotower.losses.pairwise import pairwise_logistic

INF = float("inf")


def lists(seed=0, rows=5, width=6):
    """Scores, graded gains and a mask; the last list is empty, the one before it has no positive."""
    g = torch.Generator().manual_seed(seed)
    scores = torch.randn(rows, width, generator=g, dtype=torch.float64) - 4  # all negative
    gains = torch.randint(0, 4, (rows, width), generator=g).double()
    mask = torch.rand(rows, width, generator=g) < 0.8
    mask[-1], gains[-2] = False, 0
    return scores, gains, mask


def each_list(scores, gains, mask):
    """(scores, gains) of every list's real candidates, as numbers."""
    for row in range(len(scores)):
        real = mask[row]
        yield scores[row][real].tolist(), gains[row][real].tolist()


def naive_listnet(scores, gains):
    if not sum(gains):
        return None
    total = sum(math.exp(s) for s in scores)
    shares = [g / sum(gains) for g in gains]
    return -sum(p * math.log(math.exp(s) / total) for p, s in zip(shares, scores, strict=True))


def naive_pairwise(scores, gains):
    losses = [
        math.log(1 + math.exp(-(scores[i] - scores[j])))
        for i in range(len(scores))
        for j in range(len(scores))
        if gains[i] > gains[j]
    ]
    return sum(losses) / len(losses) if losses else None


def naive_lambda(scores, gains, weights, k=None, sigma=1.0, mu=10.0):
    if not any(gains):
        return None
    n, cut = len(scores), k or len(scores)
    place = {c: r for r, c in enumerate(sorted(range(n), key=lambda c: (-scores[c], c)), start=1)}
    best = sum(g / math.log2(r + 1) for r, g in enumerate(sorted(gains, reverse=True)[:cut], start=1))
    loss = 0.0
    for i in range(n):
        for j in range(n):
            if gains[i] <= gains[j] or min(place[i], place[j]) > cut:
                continue
            a, b = place[i], place[j]
            rho = abs(1 / math.log2(1 + a) - 1 / math.log2(1 + b))
            delta = abs(1 / math.log2(1 + abs(a - b)) - 1 / math.log2(2 + abs(a - b)))
            weight = {"lambdarank": rho, "ndcg2": delta, "ndcg2++": rho + mu * delta}[weights]
            gain = (gains[i] - gains[j]) / best
            loss += gain * weight * math.log2(1 + math.exp(-sigma * (scores[i] - scores[j])))
    return loss


def naive_mle(scores, order, top=None):
    if not scores:
        return None
    by = sorted(range(len(scores)), key=lambda c: (-order[c], c))
    places = range(len(by) if top is None else min(top, len(by)))
    return sum(
        -math.log(math.exp(scores[by[p]]) / sum(math.exp(scores[c]) for c in by[p:])) for p in places
    ) / len(places)


def mean_of(values, weight=None):
    rows = [
        (v, 1.0 if weight is None else w)
        for v, w in zip(values, weight or values, strict=True)
        if v is not None
    ]
    return sum(v * w for v, w in rows) / sum(w for _, w in rows)


LOSSES = {
    "listnet": (listnet, naive_listnet),
    "pairwise": (pairwise_logistic, naive_pairwise),
    "list-mle": (list_mle, naive_mle),
    "top list-mle": (
        lambda *a, **m: list_mle(*a, top=2, **m),
        lambda s, g: naive_mle(s, g, top=2),
    ),
    **{
        f"{weights} {k}": (
            lambda *a, weights=weights, k=k, **m: lambda_loss(*a, weights=weights, k=k, sigma=1.5, **m),
            lambda s, g, weights=weights, k=k: naive_lambda(s, g, weights, k, sigma=1.5),
        )
        for weights in ("lambdarank", "ndcg2", "ndcg2++")
        for k in (None, 2)
    },
}


@pytest.mark.parametrize("name", LOSSES)
def test_equals_the_loop(name):
    loss, naive = LOSSES[name]
    scores, gains, mask = lists()
    values = [naive(*row) for row in each_list(scores, gains, mask)]
    assert loss(scores, gains, mask).item() == pytest.approx(mean_of(values), rel=1e-5)
    weight = [3.0, 1.0, 0.5, 2.0, 9.0]
    weighted = loss(scores, gains, mask, weight=torch.tensor(weight))
    assert weighted.item() == pytest.approx(mean_of(values, weight), rel=1e-5)


@pytest.mark.parametrize("name", LOSSES)
def test_masked_candidates_change_nothing_and_get_no_gradient(name):
    loss, _ = LOSSES[name]
    scores, gains, mask = lists()
    scores.requires_grad_()
    value = loss(scores, gains, mask)
    value.backward()
    assert scores.grad.isfinite().all()
    assert scores.grad.abs().sum() > 0
    assert (scores.grad[~mask] == 0).all()
    assert torch.equal(
        loss(scores.detach().masked_fill(~mask, -INF), gains.masked_fill(~mask, 3.0), mask), value
    )


@pytest.mark.parametrize("name", LOSSES)
def test_nothing_to_learn_is_zero(name):
    loss, _ = LOSSES[name]
    scores = torch.randn(2, 3, requires_grad=True)
    value = loss(scores, torch.zeros(2, 3), torch.zeros(2, 3, dtype=torch.bool))
    value.backward()
    assert value == 0
    assert (scores.grad == 0).all()


@pytest.mark.parametrize("name", [n for n in LOSSES if n not in ("listnet",)])
def test_gradients_are_those_of_the_value(name):
    loss, _ = LOSSES[name]
    _, gains, mask = lists(width=4)
    scores = torch.arange(20.0, dtype=torch.float64).reshape(5, 4).cos()  # no ranks change nearby

    def function(s):
        return loss(s, gains, mask)

    point = scores.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(function(point), point)
    for cell in ((0, 0), (1, 2), (2, 3)):
        step = torch.zeros_like(scores)
        step[cell] = 1e-3
        slope = (function(scores + step) - function(scores - step)) / 2e-3
        assert gradient[cell].item() == pytest.approx(slope.item(), abs=2e-5)


def test_pairs_in_blocks_are_pairs_at_once(monkeypatch):
    scores, gains, mask = lists(rows=7)
    whole = lambda_loss(scores, gains, mask)
    monkeypatch.setattr("twotower.losses.pairs.BLOCK_CELLS", 2 * 36)
    torch.testing.assert_close(lambda_loss(scores, gains, mask), whole)
    assert logistic_pairs(torch.zeros(0, 3), lambda block: torch.zeros(0, 3, 3)).shape == (0,)


def test_softmax_against_equals_the_loop():
    scores, gains, mask = lists()
    gains = gains * mask * (gains > 1)
    negative = mask & (gains == 0)
    negative[1] = False  # a list without negatives: its positives count as 0
    losses, weights, of_list = [], [], [2.0, 1.0, 1.0, 1.0, 1.0]
    for row in range(5):
        for place in range(6):
            if gains[row, place] > 0:
                s = scores[row, place].item()
                rest = sum(math.exp(scores[row, n].item()) for n in range(6) if negative[row, n])
                losses.append(-math.log(math.exp(s) / (math.exp(s) + rest)))
                weights.append(gains[row, place].item() * of_list[row])
    expected = sum(l * w for l, w in zip(losses, weights, strict=True)) / sum(weights)
    scores.requires_grad_()
    value = softmax_against(scores, gains, negative, torch.tensor(of_list))
    assert value.item() == pytest.approx(expected, rel=1e-5)
    value.backward()
    assert scores.grad.isfinite().all()
    assert softmax_against(scores, torch.zeros_like(gains), negative) == 0


def test_softmax_against_lets_a_drawn_negative_stand_for_those_left_out():
    """Two of four equal negatives at rate 1/2 make the loss and the gradient of all four."""
    scores = torch.tensor([[0.3, -0.2, -0.2, -0.2, -0.2, 0.9]], requires_grad=True)
    gains = torch.tensor([[2.0, 0.0, 0.0, 0.0, 0.0, 0.0]])
    whole = softmax_against(scores, gains, gains == 0)
    (all_of_them,) = torch.autograd.grad(whole, scores)
    drawn = torch.tensor([[False, True, True, False, False, True]])
    half = math.log(0.5)
    log_q = torch.tensor([[-7.0, half, half, 9.0, -INF, 0.0]])  # of the drawn alone it is read
    value = softmax_against(scores, gains, drawn, log_q=log_q)
    (some,) = torch.autograd.grad(value, scores)
    torch.testing.assert_close(value, whole)
    torch.testing.assert_close(some[0, [0, 5]], all_of_them[0, [0, 5]])
    torch.testing.assert_close(some[0, 1:3], 2 * all_of_them[0, 1:3])
    assert softmax_against(scores, gains, drawn) < value


def test_positives_of_a_list_do_not_compete_against_negatives_only():
    one, two = torch.tensor([[1.0, 0.0, 0.0]]), torch.tensor([[1.0, 1.0, 0.0]])
    negative = torch.tensor([[False, False, True]])
    scores = torch.tensor([[0.0, 0.0, 0.0]])
    assert softmax_against(scores, two, negative) == softmax_against(scores, one, negative)
    assert listnet(scores, two) > softmax_against(scores, two, negative)


def test_ties_stand_by_column_and_minus_infinity_before_empty_slots():
    scores = torch.tensor([[-INF, 0.0, 0.0, 5.0]])
    assert ranks(scores, torch.tensor([[True, True, True, False]])).tolist() == [[3, 1, 2, 4]]


def test_unknown_options_are_refused():
    with pytest.raises(ConfigError, match="unknown weights 'ndcg1'"):
        lambda_loss(torch.zeros(1, 2), torch.zeros(1, 2), weights="ndcg1")
    with pytest.raises(ConfigError, match="k must be at least 1"):
        lambda_loss(torch.zeros(1, 2), torch.zeros(1, 2), k=0)
