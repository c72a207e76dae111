"""MoL against the papers' forward pass, one pair at a time."""

import pytest
import torch

from twotower.data.batches import Examples
from twotower.data.features import Column, FeatureSpec
from twotower.errors import ConfigError
from twotower.models import mol as module
from twotower.models.mol import MoL, MoLConfig
from twotower.nn.history import HistoryConfig
from twotower.train.objectives import make_objective
from twotower.train.softmax import SampledConfig
from twotower.types import Batch

SPEC = FeatureSpec(
    columns=(
        Column(name="user", kind="id", side="query", size=5, width=1),
        Column(name="age", kind="number", side="query", size=0, width=2),
        Column(name="past", kind="sequence", side="query", size=6, width=4, of="movie"),
        Column(name="movie", kind="id", side="item", size=6, width=1),
        Column(name="year", kind="number", side="item", size=0, width=2),
    )
)
QUERY = Batch(
    user=torch.tensor([2, 1]),
    age=torch.tensor([[0.5, 0.0], [0.0, 1.0]]),
    past=torch.tensor([[3, 2, 0, 0], [0, 0, 0, 0]]),
)
ITEM = Batch(movie=torch.tensor([4, 1, 5]), year=torch.tensor([[0.3, 0.0], [-2.0, 0.0], [0.0, 1.0]]))


def make(**more):
    torch.manual_seed(0)
    config = {"embedding": 4, "layers": (7,), "dim": 3, "query_vectors": 3, "item_vectors": 2, **more}
    return MoL(SPEC, MoLConfig(**config))


def unit(vector):
    return vector / vector.norm()


def textbook(model, q, i):
    config, inputs = model.config, model.inputs.embeddings
    user = [
        inputs.table.weight[inputs.starts["user"] + QUERY["user"][q]],
        inputs.linear["age"].weight @ QUERY["age"][q],
    ]
    item = [
        inputs.table.weight[inputs.starts["movie"] + ITEM["movie"][i]],
        inputs.linear["year"].weight @ ITEM["year"][i],
    ]
    if config.layers:
        u = model.query_tower[0](torch.cat(user)).relu()
        x = model.item_tower[0](torch.cat(item)).relu()
    else:
        u, x = sum(user), sum(item)
    queries = [unit(v) for v in model.query_vectors(u).split(config.dim)]
    if config.query_id:
        queries.append(unit(model.ids.table.weight[QUERY["user"][q]]))
    items = [unit(v) for v in model.item_vectors(x).split(config.dim)]
    logits = torch.stack([a @ b / config.temperature for b in items for a in queries])
    gates = model.query_gate(u) * model.item_gate(x) + model.cross_gate(logits)
    weights = (gates * gates.sigmoid()).exp()
    score = (weights / weights.sum()) @ logits
    return score + model.query_bias(u)[0] + model.item_bias(x)[0] if config.bias else score


@pytest.mark.parametrize(
    "more",
    [{}, {"layers": ()}, {"cross": 5, "bias": False}, {"query_id": "user", "temperature": 0.1}],
    ids=str,
)
def test_score_is_the_papers_forward_pass(more):
    model = make(**more).eval()
    scores = model.score(model.encode_query(QUERY), model.encode_item(ITEM))
    for q in range(2):
        for i in range(3):
            torch.testing.assert_close(scores[q, i], textbook(model, q, i), atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("own", [False, True])
def test_balance_is_the_entropy_of_each_minus_that_of_the_mean(own, monkeypatch):
    monkeypatch.setattr(module, "BALANCED_ON", 3)
    model = make(balance=0.5)
    item = model.encode_item(ITEM.take(torch.arange(3).expand(2, 3)) if own else ITEM)
    loss = model.penalties(model.encode_query(QUERY), item, torch.zeros(2, 3))["balance"]
    query, item = model.encode_query(QUERY), model.encode_item(ITEM)
    each = []
    for q in range(2):
        for i in range(3):
            logits = torch.stack([a @ b for b in item["vectors"][i] for a in query["vectors"][q]])
            gates = query["gate"][q] * item["gate"][i] + model.cross_gate(logits)
            each.append((gates * gates.sigmoid()).softmax(0))

    def entropy(p):
        return -(p * p.log()).sum()

    expected = torch.stack([entropy(p) for p in each]).mean() - entropy(torch.stack(each).mean(0))
    torch.testing.assert_close(loss, 0.5 * expected)
    assert make(balance=0).penalties(query, item, torch.zeros(2, 3)) == {}


def test_gaps_of_lists_are_not_balanced():
    model, mask = make(), torch.tensor([[True, True, False], [True, False, False]])
    query, labels = model.encode_query(QUERY), torch.zeros(2, 3)

    def balance(rows):
        return model.penalties(query, model.encode_item(ITEM.take(torch.tensor(rows))), labels, mask)[
            "balance"
        ]

    torch.testing.assert_close(balance([[0, 1, 2], [2, 0, 1]]), balance([[0, 1, 0], [2, 2, 2]]))
    nothing = model.penalties(
        query, model.encode_item(ITEM.take(torch.zeros(2, 3).long())), labels, mask & ~mask
    )
    assert nothing["balance"] == 0


def test_a_batch_without_a_target_has_nothing_to_balance():
    model = make()
    nobody = Batch((n, t[:0]) for n, t in model.encode_query(QUERY).items())
    found = model.penalties(nobody, model.encode_item(ITEM), torch.zeros(0, 3))
    assert found["balance"] == 0


def test_shared_candidates_are_balanced_in_turn(monkeypatch):
    monkeypatch.setattr(module, "BALANCED_ON", 2)
    model = make()
    query, item = model.encode_query(QUERY), model.encode_item(ITEM)
    own = Batch((n, t[torch.tensor([[0, 1], [2, 0]])]) for n, t in item.items())
    shared = model.penalties(query, item, torch.zeros(2, 3))
    torch.testing.assert_close(shared, model.penalties(query, own, torch.zeros(2, 2)))


def test_it_learns_from_sequences_with_sampled_negatives():
    model = make(layers=(), query_id="user", history=HistoryConfig(kind="mean"))
    items = torch.tensor([[1, 2, -1, -1], [0, -1, -1, -1]])
    past = torch.tensor([[3, 2, 0, 0], [4, 0, 0, 0]])
    examples = Examples(Batch({**QUERY, "past": past}), items, torch.arange(2))
    losses = make_objective(SampledConfig(negatives=4), ITEM, torch.ones(3), 0)(model, examples)
    assert set(losses) == {"softmax", "balance"}
    sum(losses.values()).backward()
    dead = {n for n, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()}
    assert dead == {"inputs.past.empty"}  # a place of a sequence is never empty


def test_by_default_no_score_is_sure_of_anything_at_first():
    """So that binary cross entropy starts near log 2, where the papers' temperature starts it far above."""
    draw = torch.Generator().manual_seed(0)
    query = Batch(
        user=torch.arange(5).repeat(20),
        age=torch.randn(100, 2, generator=draw),
        past=torch.randint(1, 6, (100, 4), generator=draw),
    )
    item = Batch(movie=torch.arange(6).repeat(20), year=torch.randn(120, 2, generator=draw))
    labels = torch.randint(0, 2, (100, 120), generator=draw).float()

    def cost(**more):
        torch.manual_seed(0)
        model = MoL(SPEC, MoLConfig(**more))
        scores = model.score(model.encode_query(query), model.encode_item(item))
        return torch.nn.functional.binary_cross_entropy_with_logits(scores, labels).item()

    assert cost() == pytest.approx(0.6931, abs=0.03)
    assert cost(temperature=0.05) > 0.8


def test_dropout_of_mixing_weights_is_for_training_only():
    model = make(gate_dropout=0.5)
    query, item = model.encode_query(QUERY), model.encode_item(ITEM)
    assert not torch.equal(model.score(query, item), model.score(query, item))
    model.eval()
    assert torch.equal(model.score(query, item), model.score(query, item))


def test_what_an_item_keeps():
    model = make(query_vectors=4, item_vectors=4, dim=24)
    assert model.bytes_per_item == 4 * (4 * 24 + 16 + 1)


@pytest.mark.parametrize("more", [{"query_id": "age"}, {"query_id": "user", "query_vectors": 1}])
def test_the_ids_vector_needs_an_id_and_a_place(more):
    with pytest.raises(ConfigError, match=r"must be an id of the query \(known: \['user'\]\)"):
        make(**more)
