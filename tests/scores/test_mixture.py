"""The mixture of logits in chunks, its dropout and its balance; the contract test has the naive loop."""

import math

import pytest
import torch

from twotower.errors import ConfigError
from twotower.scores import mixture as module
from twotower.scores.mixture import component_logits, load_balance, mixing_weights, mixture

Q, C, PQ, PX, D = 7, 5, 3, 2, 4
P = PQ * PX


@pytest.fixture
def case():
    torch.manual_seed(0)
    shapes = ((Q, PQ, D), (Q, P), (C, PX, D), (C, P))
    return [torch.randn(shape, requires_grad=True) for shape in shapes], torch.nn.Linear(P, P)


def grads(scores, inputs):
    return torch.autograd.grad(scores.square().sum(), inputs)


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_chunks_change_neither_scores_nor_gradients(case, own, dropout, monkeypatch):
    (query, query_gate, item, item_gate), cross = case
    parameters = [query, query_gate, item, item_gate, *cross.parameters()]
    chosen = torch.randint(C, (Q, C)) if own else torch.arange(C)

    def run(floats):
        monkeypatch.setattr(module, "FLOATS_AT_ONCE", floats)
        torch.manual_seed(1)
        scores = mixture(query, query_gate, item[chosen], item_gate[chosen], cross, dropout=dropout)
        return [scores, *grads(scores, parameters)]

    # chunks of whole rows draw the same random numbers in the same order
    for chunked, whole in zip(run(2 * C * P), run(10**6), strict=True):
        torch.testing.assert_close(chunked, whole)


def test_inside_a_chunk_nothing_depends_on_gradients(case, monkeypatch):
    inputs, cross = case
    monkeypatch.setattr(module, "FLOATS_AT_ONCE", 1)
    with torch.inference_mode():
        scores = mixture(*inputs, cross)
    torch.testing.assert_close(scores, mixture(*inputs, cross).detach())


def test_the_querys_vectors_run_fastest(case):
    (query, _, item, _), _ = case
    logits = component_logits(query, item)
    assert logits.shape == (Q, C, P)
    for x in range(PX):
        for q in range(PQ):
            torch.testing.assert_close(logits[2, 3, x * PQ + q], item[3, x] @ query[2, q])


def test_dropped_weights_are_shared_out_among_the_others():
    query = torch.tensor([[[1.0], [3.0]]]).expand(2000, 2, 1)
    nothing = torch.zeros(2000, 2)
    scores = mixture(query, nothing, torch.ones(1, 1, 1), nothing[:1], torch.zeros_like, dropout=0.25)
    share = {float(v): (scores == v).float().mean().item() for v in scores.unique()}
    expected = {0.0: 1 / 16, 1.0: 3 / 16, 2.0: 9 / 16, 3.0: 3 / 16}  # none left, one of them, both
    assert share == pytest.approx(expected, abs=0.05)


def test_balance_is_minus_the_mutual_information_of_pair_and_component():
    assert load_balance(torch.eye(3)).item() == pytest.approx(-math.log(3))
    assert load_balance(torch.full((4, 3), 1 / 3)).item() == pytest.approx(0, abs=1e-6)
    assert load_balance(torch.tensor([[1.0, 0.0]] * 5)).item() == 0  # sure, but always of the same
    half = torch.tensor([[0.5, 0.5, 0.0], [0.0, 0.0, 1.0]], dtype=torch.float64)
    mean = [0.25, 0.25, 0.5]
    entropy = -sum(p * math.log(p) for p in mean)
    assert load_balance(half).item() == pytest.approx(math.log(2) / 2 - entropy)


def test_balance_has_a_slope_where_a_weight_has_vanished():
    gates = torch.tensor([[0.0, 200.0, 1.0], [3.0, 0.0, -1.0]], requires_grad=True)
    weights = gates.softmax(-1)
    assert weights[0, 0] == 0
    load_balance(weights).backward()
    assert gates.grad.isfinite().all()
    assert gates.grad[1].abs().sum() > 0


def test_weights_sum_to_one(case):
    (query, query_gate, item, item_gate), cross = case
    weights = mixing_weights(component_logits(query, item), query_gate, item_gate, cross)
    torch.testing.assert_close(weights.sum(-1), torch.ones(Q, C))


def test_gates_of_another_length_are_named(case):
    (query, query_gate, item, item_gate), cross = case
    with pytest.raises(ConfigError, match="need gates of length 6; lengths 5 and 6 do not meet"):
        mixture(query, query_gate[:, :5], item, item_gate, cross)
