"""DRMM against the paper's forward pass, and what does not learn."""

import math

import pytest
import torch

from twotower.data.spec import Column, FeatureSpec
from twotower.errors import ConfigError
from twotower.models.drmm import DRMM, DRMMConfig
from twotower.types import UNKNOWN, Batch

SPEC = FeatureSpec(
    columns=(
        Column(name="query", kind="text", side="query", size=12, width=4, tokenizer="words"),
        Column(name="document", kind="text", side="item", size=12, width=6, tokenizer="words"),
    )
)
QUERY = Batch(query=torch.tensor([[3, 4, 5, 0], [2, 0, 0, 0], [0, 0, 0, 0], [4, 1, 3, 1], [1, 1, 0, 0]]))
ITEM = Batch(document=torch.tensor([[3, 3, 7, 1, 0, 0], [0, 0, 0, 0, 0, 0], [8, 9, 2, 5, 4, 3]]))


def make(**options):
    torch.manual_seed(0)
    model = DRMM(SPEC, DRMMConfig(**({"text": {"kind": "table", "dim": 5}, "bins": 5} | options))).eval()
    model.see_items(ITEM)
    return model


def gates(model, words):
    rows, documents = model.lists.encoder.embedder.weight, ITEM["document"].tolist()
    if model.config.gate == "vector":
        weights = [float(model.gate.direction.weight[0] @ rows[w]) for w in words]
    else:
        frequency = [sum(w in document for document in documents) for w in words]
        weights = [float(model.gate.weight) * math.log(4 / (n + 1)) for n in frequency]
    whole = sum(math.exp(w) for w in weights)
    return [math.exp(w) / whole for w in weights]


def textbook(model, words, document):
    rows, score = model.lists.encoder.embedder.weight, 0.0
    for word, gate in zip(words, gates(model, words), strict=True):
        counts = [0] * 5
        for other in document:
            m = float(torch.cosine_similarity(rows[word], rows[other], dim=0))
            counts[4 if word == other else min(math.floor((m + 1) * 2), 3)] += 1
        x = torch.tensor([math.log(1 + n) for n in counts])
        first, last = model.network[0], model.network[-1]
        score += gate * float(last.weight @ (first.weight @ x + first.bias).tanh() + last.bias)
    return score


@pytest.mark.parametrize("gate", ["idf", "vector"])
@torch.no_grad()
def test_score_is_the_papers_forward_pass(gate):
    model = make(gate=gate)
    found = model.score(model.encode_query(QUERY), model.encode_item(ITEM))
    for q, words in enumerate(QUERY["query"].tolist()):
        for c, document in enumerate(ITEM["document"].tolist()):
            expected = textbook(model, [w for w in words if w > UNKNOWN], [w for w in document if w])
            assert found[q, c].item() == pytest.approx(expected, abs=1e-5)
    assert not found[[2, 4]].any()  # no known word of the query: nothing to sum


@torch.no_grad()
def test_an_unknown_word_has_no_share_of_the_gate():
    for gate in ("idf", "vector"):
        model = make(gate=gate)
        shares = model.encode_query(Batch(query=torch.tensor([[4, 1, 3, 1], [1, 1, 0, 0]])))["gate"]
        assert shares[0].tolist() == pytest.approx(gates(model, [4, 3]), abs=1e-6)
        assert not shares[1].any()


def test_vectors_stay_as_they_are_and_all_else_learns():
    for gate in ("idf", "vector"):
        model = make(gate=gate).train()
        model.score(model.encode_query(QUERY), model.encode_item(ITEM)).square().sum().backward()
        for name, parameter in model.named_parameters():
            assert parameter.requires_grad != name.startswith("lists.")
            assert (parameter.grad is None) == name.startswith("lists.")


def test_the_item_table_outlives_training():
    model = make()
    before = model.item_digest()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.5)
    assert model.item_digest() == before


def test_idf_of_no_catalogue_is_refused():
    model = DRMM(SPEC, DRMMConfig())
    with pytest.raises(ConfigError, match="see_items"):
        model.encode_query(QUERY)
