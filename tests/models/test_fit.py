"""FIT against its equations, one pair at a time: which meta query an item meets, what that query sees."""

import math
from itertools import product

import pytest
import torch

from twotower.data.features import Column, FeatureSpec
from twotower.errors import ConfigError
from twotower.models.fit import FIT, FITConfig
from twotower.nn.history import HistoryConfig
from twotower.types import Batch

SPEC = FeatureSpec(
    columns=(
        Column(name="user", kind="id", side="query", size=5, width=1),
        Column(name="age", kind="number", side="query", size=0, width=2),
        Column(name="history", kind="sequence", side="query", size=6, width=4, of="movie"),
        Column(name="movie", kind="id", side="item", size=6, width=1),
        Column(name="year", kind="number", side="item", size=0, width=2),
    )
)
QUERY = Batch(
    user=torch.tensor([2, 1]),
    age=torch.tensor([[0.5, 0.0], [0.0, 1.0]]),
    history=torch.tensor([[3, 2, 5, 0], [4, 0, 0, 0]]),
)
ITEM = Batch(
    movie=torch.tensor([4, 1, 5, 2]), year=torch.randn(4, 2, generator=torch.Generator().manual_seed(7))
)
OWN = torch.tensor([[0, 2, 3], [1, 1, 0]])
SMALL = {"embedding": 3, "layers": (6,), "heads": 2, "head_dim": 4, "metas": 3, "hidden": 5}


def make(**options):
    torch.manual_seed(2)
    model = FIT(SPEC, FITConfig(**{**SMALL, **options})).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.7)
    return model


def unit(heads):
    return [h / h.norm() for h in heads]


def read_off(scorer, similarity):
    """The lightweight similarity scorer, unit by unit: rows FC, ReLU; columns FC, ReLU; linear."""

    def layer(linear, x):
        weights = zip(linear.weight.tolist(), linear.bias.tolist(), strict=True)
        return [b + sum(w * value for w, value in zip(row, x, strict=True)) for row, b in weights]

    scale = math.exp(scorer.log_scale.item())
    rows = [[max(0.0, y) for y in layer(scorer.rows, [scale * s for s in row])] for row in similarity]
    columns = [max(0.0, y) for unit in zip(*rows, strict=True) for y in layer(scorer.columns, unit)]
    return layer(scorer.out, columns)[0]


def textbook(model, q, i, shares=None):
    """Shares (N,) mix the query's vectors; without them the item meets the one it fits best."""
    table, start = model.inputs.embeddings.table.weight, model.inputs.embeddings.starts
    linear, matrix, D = model.inputs.embeddings.linear, model.metas.matrix, model.config.head_dim
    user = [table[start["user"] + QUERY["user"][q]], linear["age"](QUERY["age"][q])]
    item = torch.cat([table[start["movie"] + ITEM["movie"][i]], linear["year"](ITEM["year"][i])])
    events = [table[start["movie"] + e] for e in QUERY["history"][q] if e != 0]
    if model.history is None:
        events = user
    else:
        user.append(
            torch.nn.functional.layer_norm(torch.stack(events).mean(0), (3,))
            * model.inputs.past.encoder.norm.weight
            + model.inputs.past.encoder.norm.bias
        )
    if shares is None:
        best = max(range(len(matrix)), key=lambda n: model.metas.route(item) @ matrix[n])
        shares = torch.nn.functional.one_hot(torch.tensor(best), len(matrix))
    mixed = torch.zeros(model.config.heads, D)
    for n, share in enumerate(shares):
        meta = sum((matrix[n] @ row) * row for row in matrix)
        weight = [torch.exp(meta @ e / 3**0.5) for e in events]
        seen = sum(w * e for w, e in zip(weight, events, strict=True)) / sum(weight)
        hidden = model.first.linear(torch.cat([*user, seen])).clamp(min=0)
        mixed = mixed + share * torch.stack(unit(model.query_tower[-1](hidden).split(D)))
    hidden = model.item_tower[0](item).clamp(min=0)
    item_heads = unit(model.item_tower[-1](hidden).split(D))
    score = read_off(model.scorer, [[(u @ v).item() for v in item_heads] for u in unit(mixed)])
    if model.config.bias:
        score += (model.query_bias(torch.cat(user)) + model.item_bias(item)).item()
    return torch.tensor(score)


OPTIONS = [{}, {"history": HistoryConfig(kind="mean")}, {"bias": False}]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@torch.no_grad()
def test_serving_scores_are_those_of_the_meta_query_each_item_chose(options):
    model = make(**options)
    query, item = model.encode_query(QUERY), model.encode_item(ITEM)
    assert len(item["meta"].unique()) > 1
    scores = model.score(query, item)
    for q, i in product(range(2), range(4)):
        torch.testing.assert_close(scores[q, i], textbook(model, q, i), atol=1e-5, rtol=1e-5)


def shares_after(model, i, steps):
    """(N,) softmax of the fit over a temperature that falls from 1 to .001 in ``anneal`` steps."""
    x = model.inputs.item(ITEM).flatten(-2)[i]
    tau = 1 - 0.999 * min(1.0, steps / model.config.anneal)
    parts = [math.exp(float(model.metas.route(x) @ row) / tau) for row in model.metas.matrix]
    return torch.tensor([part / sum(parts) for part in parts])


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("steps", [0, 3, 6], ids="after {} of 10 steps".format)
@torch.no_grad()
def test_training_mixes_the_query_vectors_by_the_items_shares(options, steps):
    """And makes each head of the mixture a unit vector, so that similarities stay cosines."""
    model = make(**options, anneal=10).train()
    for _ in range(steps):
        model.encode_item(ITEM)
    query = model.encode_query(QUERY)
    shared = model.encode_item(ITEM)
    model.metas.steps -= 1  # both layouts at the same step
    own = model.encode_item(ITEM.take(OWN))
    for i in range(4):
        torch.testing.assert_close(shared["share"][i], shares_after(model, i, steps), atol=1e-5, rtol=1e-4)
    assert shared["share"].max(-1).values.min() < 0.95, "the choice is not final yet"
    scores, own_scores = model.score(query, shared), model.score(query, own)
    for q, i in product(range(2), range(4)):
        expected = textbook(model, q, i, shared["share"][i])
        torch.testing.assert_close(scores[q, i], expected, atol=1e-5, rtol=1e-5)
    for q, k in product(range(2), range(3)):
        expected = textbook(model, q, OWN[q, k], own["share"][q, k])
        torch.testing.assert_close(own_scores[q, k], expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_once_the_choice_is_final_training_and_serving_score_alike():
    model = make(anneal=1).train()
    model.encode_item(ITEM)
    training = model.score(model.encode_query(QUERY), model.encode_item(ITEM))
    model.eval()
    serving = model.score(model.encode_query(QUERY), model.encode_item(ITEM))
    torch.testing.assert_close(training, serving, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_by_default_the_choice_is_final_after_200_steps():
    model = make().train()
    for steps, final in ((100, False), (200, True)):
        model.metas.steps.fill_(steps)
        best = model.encode_item(ITEM)["share"].max(-1).values
        assert bool((best > 0.999).all()) == final


def test_vectors_that_cancel_in_a_mixture_have_no_direction_but_finite_gradients():
    model = make(metas=2, bias=False).train()
    model.metas.route.weight.data.zero_()  # equal shares
    heads = torch.randn(2, 2, 2, 4, generator=torch.Generator().manual_seed(0))
    heads = torch.nn.functional.normalize(heads, dim=-1)
    heads[:, 1] = -heads[:, 0]
    heads.requires_grad_()
    for item in (ITEM, ITEM.take(OWN)):
        (gradient,) = torch.autograd.grad(model.score({"heads": heads}, model.encode_item(item)).sum(), heads)
        assert gradient.isfinite().all()


def test_everything_learns_but_nothing_of_training_is_kept_of_an_item():
    model = make().train()
    model.score(model.encode_query(QUERY), model.encode_item(ITEM)).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, f"{name} is dead"
        assert parameter.grad.any(), f"{name} is dead"
    assert model.eval().encode_item(ITEM).keys() == {"heads", "meta", "bias"}
    assert model.bytes_per_item == 4 * 2 * 4 + 8 + 4


def test_places_without_a_history_are_refused():
    with pytest.raises(ConfigError, match="history"):
        make().encode_places(QUERY, QUERY["history"] != 0)
