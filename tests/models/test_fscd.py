"""FSCD against the paper's forward pass, its gates, its cost, and what a pre-ranker inherits."""

import math

import pytest
import torch

from twotower.data.features import Column, FeatureSpec
from twotower.errors import ConfigError, MismatchError
from twotower.models.fscd import FSCD, SPEED, FSCDConfig, field_cost
from twotower.types import Batch

SPEC = FeatureSpec(
    columns=(
        Column(name="user", kind="id", side="query", size=5, width=1),
        Column(name="age", kind="category", side="query", size=4, width=1),
        Column(name="history", kind="sequence", side="query", size=6, width=3, of="movie"),
        Column(name="movie", kind="id", side="item", size=6, width=1),
        Column(name="year", kind="number", side="item", size=0, width=2),
    )
)
QUERY = Batch(
    user=torch.tensor([2, 1]), age=torch.tensor([3, 2]), history=torch.tensor([[3, 2, 0], [0, 0, 0]])
)
ITEM = Batch(movie=torch.tensor([4, 1, 5]), year=torch.tensor([[0.3, 0.0], [-2.0, 0.0], [0.0, 1.0]]))
HISTORY = {"kind": "mean"}


def fscd(**config) -> FSCD:
    torch.manual_seed(0)
    return FSCD(SPEC, FSCDConfig(**{"embedding": 3, "layers": (16, 8), **config})).eval()


def unequal(model: FSCD) -> FSCD:
    """A ranker as after some training: fields of different use, an empty history of its own."""
    with torch.no_grad():
        model.gates.copy_(torch.linspace(-3, 3, len(model.fields)).flip(0) / SPEED)
        if model.inputs.past is not None:
            model.inputs.past.empty.uniform_()
    return model


def scores(model) -> torch.Tensor:
    return model.score(model.encode_query(QUERY), model.encode_item(ITEM)).detach()


@torch.no_grad()
def layers_of(model, x) -> torch.Tensor:
    """Linear layers with what is negative cut off between; the last one is a number."""
    deep = [module for module in model.deep if isinstance(module, torch.nn.Linear)]
    assert len(deep) == len(model.config.layers) - 1
    for linear in (model.first.linear, *deep):
        x = (linear.weight @ x + linear.bias).clamp(min=0)
    return model.out.weight[0] @ x + model.out.bias[0]


@pytest.mark.parametrize("store", ["ids", "embeddings", "first_layer"])
def test_every_storage_depth_scores_like_the_paper(store):
    model = unequal(fscd(store=store))
    table, start = model.inputs.embeddings.table.weight, model.inputs.embeddings.starts
    found = scores(model)
    for q in range(2):
        for i in range(3):
            fields = [
                table[start["user"] + QUERY["user"][q]],
                table[start["age"] + QUERY["age"][q]],
                table[start["movie"] + ITEM["movie"][i]],
                ITEM["year"][i] @ model.inputs.embeddings.linear["year"].weight.T,
            ]
            gates = torch.sigmoid(SPEED * model.gates)
            x = torch.cat([p * e for p, e in zip(gates, fields, strict=True)])
            torch.testing.assert_close(found[q, i], layers_of(model, x), atol=1e-5, rtol=1e-5)


def test_gates_in_training_are_drawn_for_each_row_and_are_on_as_often_as_they_say():
    model = unequal(fscd(temperature=0.01)).train()
    ones = torch.ones(20_000, 2, 1)
    z = model._gated(ones, 0)[..., 0]
    assert ((z < 0.01) | (z > 0.99)).float().mean() > 0.95, "at a low temperature gates are hard"
    torch.testing.assert_close(z.mean(0), model.keep_probabilities[:2], atol=0.02, rtol=0)
    warm = unequal(fscd(temperature=1.0)).train()._gated(ones, 0)
    assert ((warm > 0.1) & (warm < 0.9)).float().mean() > 0.3, "at a high one they are soft"


def test_the_penalty_is_the_cost_of_what_is_kept():
    model = unequal(fscd(weight=0.5, costs={"user": 7.0}, history=HISTORY))
    assert model.fields == ("user", "age", "history", "movie", "year")
    costs = [7.0] + [field_cost(SPEC[name], 3) for name in model.fields[1:]]
    expected = sum(c / (1 + math.exp(-x)) for c, x in zip(costs, (SPEED * model.gates).tolist(), strict=True))
    penalty = model.penalties(Batch(), Batch(), torch.empty(0))["feature cost"]
    assert float(penalty.detach()) == pytest.approx(0.5 * expected)
    penalty.backward()
    assert (model.gates.grad > 0).all(), "the cost pulls every field down"
    assert fscd(gate=False).penalties(Batch(), Batch(), torch.empty(0)) == {}


@pytest.mark.parametrize("pairs", [((), ("retrieve_score",)), (("retrieve_score",), ())])
def test_a_pre_ranker_reads_the_pair_fields_of_its_ranker(pairs):
    ranker, pre_ranker = (fscd(gate=gate, pair=pair) for gate, pair in zip((True, False), pairs, strict=True))
    with pytest.raises(MismatchError, match=r"pair fields .*retrieve_score.*keep pair as it is"):
        pre_ranker.inherit(ranker)


def test_dearer_fields_cost_more():
    def cost(embedding=16, **column):
        return field_cost(
            Column(**{"name": "a", "kind": "bag", "side": "item", "size": 9, **column}), embedding
        )

    assert cost(width=50) > cost(width=1)
    assert cost(embedding=64) > cost(embedding=16)
    assert cost(size=10**7) > cost(size=10**3)


def test_a_useless_dear_field_is_dropped_and_a_useful_one_kept():
    """The label is whether the movie is one of two; the age says nothing."""
    model = fscd(weight=0.02, costs={"age": 3.0}, layers=(16,), dropout=0.0).train()
    draw = torch.Generator().manual_seed(1)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(150):
        movie = torch.randint(2, 6, (256, 1), generator=draw)
        item = Batch(movie=movie, year=torch.zeros(256, 1, 2))
        query = Batch(
            user=torch.randint(2, 5, (256,), generator=draw), age=torch.randint(2, 4, (256,), generator=draw)
        )
        query, item = model.encode_query(query), model.encode_item(item)
        labels = (movie >= 4).float()
        loss = torch.nn.functional.binary_cross_entropy_with_logits(model.score(query, item), labels)
        loss = loss + model.penalties(query, item, labels)["feature cost"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    likely = dict(zip(model.fields, model.keep_probabilities.tolist(), strict=True))
    assert likely["movie"] > 0.9
    assert likely["age"] < 0.2
    assert "movie" in model.kept()
    assert "age" not in model.kept()


def test_each_side_keeps_at_least_its_likeliest_field():
    model = unequal(fscd())
    assert model.kept(0.5) == ("user", "age", "movie"), "movie is at .27, year lower still"
    with torch.no_grad():
        model.gates.copy_(torch.tensor([-2.0, -1.0, -4.0, -5.0]))
    assert model.kept(0.5) == ("age", "movie")
    assert model.kept(0.0) == model.fields


@pytest.mark.parametrize("config", [{}, {"history": HISTORY}, {"pair": ("a",)}], ids=str)
def test_a_pre_ranker_that_keeps_all_scores_like_the_ranker(config):
    ranker = unequal(fscd(**config))
    torch.nn.init.normal_(ranker.out.weight)
    other = fscd(gate=False, keep=ranker.fields, **config)
    other.inherit(ranker)
    pair = Batch(a=torch.randn(2, 3))
    query, item = ranker.encode_query(QUERY), ranker.encode_item(ITEM)
    mine = other.score(other.encode_query(QUERY), other.encode_item(ITEM), pair)
    torch.testing.assert_close(mine, ranker.score(query, item, pair), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "keep", [("age", "movie"), ("history", "year"), ("age", "history", "movie")], ids=str
)
def test_a_pre_ranker_scores_like_a_ranker_whose_other_gates_are_shut(keep):
    ranker = unequal(fscd(history=HISTORY))
    other = fscd(gate=False, keep=keep, history=HISTORY)
    assert other.fields == keep
    other.inherit(ranker)
    with torch.no_grad():
        for at, name in enumerate(ranker.fields):
            if name not in keep:
                ranker.gates[at] = -100.0
    torch.testing.assert_close(scores(other), scores(ranker), atol=1e-5, rtol=1e-5)


def test_what_does_not_fit_is_refused():
    ranker = fscd()
    with pytest.raises(MismatchError, match="found gates"):
        fscd().inherit(ranker)
    with pytest.raises(MismatchError, match="found the fields"):
        fscd(gate=False, history=HISTORY).inherit(ranker)
    with pytest.raises(MismatchError, match="keep embedding, layers"):
        fscd(gate=False, layers=(16, 4)).inherit(ranker)
    with pytest.raises(ConfigError, match="did you mean 'movie'"):
        fscd(keep=("user", "movi"))
    with pytest.raises(ConfigError, match="costs: no field"):
        fscd(costs={"moving": 1.0})
