"""IntTower against the paper's forward pass, one pair at a time, and CIR against the naive loop."""

import math
from itertools import product

import pytest
import torch

from twotower.data.features import Column, FeatureSpec
from twotower.models.int_tower import IntTower, IntTowerConfig
from twotower.types import UNKNOWN, Batch, Rep

SPEC = FeatureSpec(
    columns=(
        Column(name="user", kind="id", side="query", size=5, width=1),
        Column(name="age", kind="number", side="query", size=0, width=2),
        Column(name="movie", kind="id", side="item", size=6, width=1),
        Column(name="year", kind="number", side="item", size=0, width=2),
    )
)
QUERY = Batch(user=torch.tensor([2, 1]), age=torch.tensor([[0.5, 0.0], [0.0, 1.0]]))
ITEM = Batch(movie=torch.tensor([4, 1, 5]), year=torch.tensor([[0.3, 0.0], [-2.0, 0.0], [0.0, 1.0]]))
SMALL = {"embedding": 3, "layers": (6, 5), "heads": 2, "head_dim": 4}


def make(**options):
    torch.manual_seed(0)
    model = IntTower(SPEC, IntTowerConfig(**{**SMALL, **options})).eval()
    for parameter in model.parameters():  # weights and offsets that start equal would hide a mix-up
        torch.nn.init.normal_(parameter, std=0.5)
    return model


def fields_of(model, side, row):
    table, start = model.inputs.embeddings.table.weight, model.inputs.embeddings.starts
    linear = model.inputs.embeddings.linear
    if side == "query":
        return table[start["user"] + QUERY["user"][row]], linear["age"](QUERY["age"][row])
    return table[start["movie"] + ITEM["movie"][row]], linear["year"](ITEM["year"][row])


def layers_of(gate, tower, fields):
    """Light-SE over the fields, then the output of every layer; only the last has no ReLU."""
    raw = gate.weigh(torch.stack([f.mean() for f in fields])).exp()
    x = torch.cat([f * (1 + r / raw.sum()) for f, r in zip(fields, raw, strict=True)])
    outputs = []
    for number, layer in enumerate(tower, 1):
        x = layer[0].weight @ x + layer[0].bias
        x = x.clamp(min=0) if number < len(tower) else x
        outputs.append(x)
    return outputs


def textbook(model, q, i):
    config = model.config
    user_fields, item_fields = fields_of(model, "query", q), fields_of(model, "item", i)
    user = layers_of(model.query_gate, model.query_tower, user_fields)
    item = layers_of(model.item_gate, model.item_tower, item_fields)
    if config.bias:
        score = model.query_bias(torch.cat(user_fields))[0] + model.item_bias(torch.cat(item_fields))[0]
    else:
        score = model.offset
    if not config.fe:
        return score + user[-1] @ item[-1]
    item_heads = model.item_heads(item[-1]).split(config.head_dim)
    met = user if config.fe_layers == "all" else user[-1:]
    for number, (layer, heads) in enumerate(zip(met, model.query_heads, strict=True)):
        user_heads = heads(layer).split(config.head_dim)
        share = sum(max(u @ v for v in item_heads) for u in user_heads)
        score = score + (math.exp(model.log_scale[number]) if config.scale else 1) * share
    return score


@pytest.mark.parametrize(
    "options",
    [{}, {"fe_layers": "last"}, {"scale": False}, {"bias": False}, {"fe": False}, {"layers": (6, 4, 5)}],
    ids=str,
)
@torch.no_grad()
def test_score_is_the_papers_forward_pass(options):
    model = make(**options)
    scores = model.score(model.encode_query(QUERY), model.encode_item(ITEM))
    for q, i in product(range(2), range(3)):
        torch.testing.assert_close(scores[q, i], textbook(model, q, i), atol=1e-5, rtol=1e-5)


def test_every_layer_of_the_query_tower_learns_through_the_heads():
    model = make(cir=0).train()
    model.score(model.encode_query(QUERY), model.encode_item(ITEM)).sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, f"{name} is dead"
        assert parameter.grad.any(), f"{name} is dead"


def test_scores_start_as_the_mean_over_heads_and_layers():
    model = IntTower(SPEC, IntTowerConfig(**SMALL))
    torch.testing.assert_close(model.log_scale.exp(), torch.full((2,), 1 / 4))


def test_an_item_keeps_its_heads_and_one_bias():
    assert make().bytes_per_item == 4 * (2 * 4 + 1)
    assert make(fe=False, bias=False).bytes_per_item == 4 * 5
    default = IntTower(SPEC, IntTowerConfig())
    assert default.bytes_per_item == 4 * (128 + 1)


def cosine(a, b):
    return torch.nn.functional.cosine_similarity(a, b, dim=0).item()


def naive_cir(pairs, users, movies, tau):
    """InfoNCE of positive pairs (u, v); neither a movie's copies nor what its user likes are negatives."""
    losses = []
    for b, (u, v) in enumerate(pairs):
        negative = [
            c
            for c in range(len(pairs))
            if movies[c] != movies[b] and (users[c] != users[b] or users[b] == UNKNOWN)
        ]
        others = [math.exp(cosine(u, pairs[c][1]) / tau) for c in negative]
        own = math.exp(cosine(u, v) / tau)
        losses.append(-math.log(own / (own + sum(others))))
    return sum(losses) / len(losses)


@pytest.mark.parametrize("ids", [[2, 3], [2, 1]], ids=["known", "one unknown"])
@torch.no_grad()
def test_cir_contrasts_the_positive_pairs_of_other_users_and_nothing_else(ids):
    model = make(cir=0.5, cir_temperature=0.3).train()
    rows = torch.tensor([0, 1, 0, 1, 1])
    items = torch.tensor([0, 1, 2, 2, 0])
    labels = torch.tensor([1.0, 0.0, 1.0, 1.0, 1.0])
    query = model.encode_query(Batch(QUERY, user=torch.tensor(ids)).take(rows))
    item = model.encode_item(ITEM.take(items[:, None]))
    u, v = query["latent"], item["latent"][:, 0]

    def expected(at):
        users, movies = [ids[rows[b]] for b in at], items[at].tolist()
        return 0.5 * naive_cir([(u[b], v[b]) for b in at], users, movies, 0.3)

    found = model.penalties(query, item, labels[:, None])
    assert found.keys() == {"cir"}
    assert found["cir"].item() == pytest.approx(expected([0, 2, 3, 4]), rel=1e-5)
    few = make(cir=0.5, cir_temperature=0.3, cir_anchors=3).train()
    assert few.penalties(query, item, labels[:, None])["cir"].item() == pytest.approx(
        expected([0, 2, 3]), rel=1e-5
    )


@torch.no_grad()
def test_cir_knows_a_user_whose_id_is_dropped():
    spec = FeatureSpec(
        columns=tuple(c.model_copy(update={"dropout": 0.9}) if c.name == "user" else c for c in SPEC.columns)
    )
    torch.manual_seed(0)
    model = IntTower(spec, IntTowerConfig(**SMALL)).train()
    query = model.encode_query(QUERY.take(torch.zeros(8, dtype=torch.int64)))
    assert len(query["latent"].unique(dim=0)) > 1, "dropped in some rows"
    item = model.encode_item(ITEM.take(torch.arange(8)[:, None] % 3))
    assert model.penalties(query, item, torch.ones(8, 1))["cir"].item() == 0, "nothing is a negative"


@torch.no_grad()
def test_cir_knows_the_user_of_every_place_of_a_sequence():
    spec = FeatureSpec(
        columns=(
            *SPEC.columns,
            Column(name="history", kind="sequence", side="query", size=6, width=3, of="movie"),
        )
    )
    model = IntTower(spec, IntTowerConfig(**SMALL, history={"kind": "mean"})).train()
    query = Batch(QUERY, history=torch.tensor([[3, 2, 4], [2, 0, 0]]))
    rep = model.encode_places(query, query["history"] != 0)
    assert rep["id"].tolist() == [2, 2, 2, 1]


@torch.no_grad()
def test_cir_reads_shared_candidates_as_well():
    model = make(cir=1.0).train()
    query, item = model.encode_query(QUERY), model.encode_item(ITEM)
    labels = torch.tensor([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0]])
    own = Rep((name, t[torch.tensor([[1], [0]])]) for name, t in item.items())
    shared = model.penalties(query, item, labels)["cir"]
    torch.testing.assert_close(shared, model.penalties(query, own, torch.ones(2, 1))["cir"])


def test_a_batch_without_positives_has_no_cir():
    model = make().train()
    query, item = model.encode_query(QUERY), model.encode_item(ITEM.take(torch.tensor([[0], [1]])))
    assert model.penalties(query, item, torch.zeros(2, 1))["cir"].item() == 0


def test_nothing_of_cir_is_computed_when_it_is_off_or_serving():
    assert make(cir=0.0).train().penalties(Rep(), Rep(), torch.ones(2, 1)) == {}
    for model in (make(cir=0.0).train(), make().eval()):
        assert model.encode_query(QUERY).keys() == {"bias", "heads"}
        assert model.encode_item(ITEM).keys() == {"bias", "heads"}
