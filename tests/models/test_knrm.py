"""KNRM against the paper's forward pass, one pair and one cell at a time."""

import math

import pytest
import torch

from twotower.data.spec import Column, FeatureSpec
from twotower.models.knrm import KNRM, KNRMConfig
from twotower.types import UNKNOWN, Batch

SPEC = FeatureSpec(
    columns=(
        Column(name="query", kind="text", side="query", size=12, width=4, tokenizer="words"),
        Column(name="document", kind="text", side="item", size=12, width=6, tokenizer="words"),
    )
)
QUERY = Batch(query=torch.tensor([[3, 4, 5, 0], [2, 0, 0, 0], [0, 0, 0, 0], [4, 1, 3, 1], [1, 1, 0, 0]]))
ITEM = Batch(document=torch.tensor([[3, 3, 7, 1, 0, 0], [0, 0, 0, 0, 0, 0], [8, 9, 2, 5, 4, 3]]))
PAPER_MEANS = [1.0, 0.9, 0.7, 0.5, 0.3, 0.1, -0.1, -0.3, -0.5, -0.7, -0.9]


def textbook(model, words, document):
    rows = model.lists.encoder.embedder.weight.double()
    score = model.out.bias.double()[0]
    for k, mu in enumerate(PAPER_MEANS):
        sigma, total = 1e-3 if mu == 1.0 else 0.1, 0.0
        for i in words:
            cosines = [float(torch.cosine_similarity(rows[i], rows[j], dim=0)) for j in document]
            count = sum(math.exp(-((m - mu) ** 2) / (2 * sigma**2)) for m in cosines)
            total += math.log(max(count, 1e-10))
        score = score + model.out.weight[0, k] * 0.01 * total
    return score.tanh() if model.config.tanh else score


@pytest.mark.parametrize("tanh", [True, False])
@torch.no_grad()
def test_score_is_the_papers_forward_pass(tanh):
    torch.manual_seed(0)
    model = KNRM(SPEC, KNRMConfig(text={"kind": "table", "dim": 5}, tanh=tanh)).eval()
    model.out.weight.normal_()
    found = model.score(model.encode_query(QUERY), model.encode_item(ITEM))
    for q, words in enumerate(QUERY["query"].tolist()):
        for c, document in enumerate(ITEM["document"].tolist()):
            expected = textbook(model, [w for w in words if w > UNKNOWN], [w for w in document if w])
            torch.testing.assert_close(found[q, c], expected.float(), atol=1e-5, rtol=1e-4)


def test_no_word_of_the_query_leaves_the_offset():
    model = KNRM(SPEC, KNRMConfig()).eval()
    scores = model.score(model.encode_query(QUERY), model.encode_item(ITEM))
    assert torch.equal(scores[2], model.out.bias.expand(3))
    assert torch.equal(scores[4], scores[2]), "unknown words alone, which the first document has as well"


def test_word_vectors_learn_through_the_kernels():
    torch.manual_seed(0)
    model = KNRM(SPEC, KNRMConfig(text={"kind": "table", "dim": 5}))
    model.score(model.encode_query(QUERY), model.encode_item(ITEM)).sum().backward()
    grad = model.lists.encoder.embedder.weight.grad
    assert grad[2:6].any(dim=1).all()
    assert not grad[[0, 6, 10, 11]].any()
