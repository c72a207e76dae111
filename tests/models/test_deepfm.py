"""DeepFM against the paper's forward pass, one pair at a time, for every storage depth."""

import pytest
import torch

from twotower.data.features import Column, FeatureSpec
from twotower.models.deepfm import DeepFM, DeepFMConfig
from twotower.types import Batch

SPEC = FeatureSpec(
    columns=(
        Column(name="user", kind="id", side="query", size=5, width=1),
        Column(name="device", kind="category", side="context", size=3, width=1),
        Column(name="movie", kind="id", side="item", size=6, width=1),
        Column(name="year", kind="number", side="item", size=0, width=2),
    )
)
QUERY = Batch(user=torch.tensor([2, 1]), device=torch.tensor([1, 2]))
ITEM = Batch(movie=torch.tensor([4, 1, 5]), year=torch.tensor([[0.3, 0.0], [-2.0, 0.0], [0.0, 1.0]]))


def textbook(model, q, i, pair=None):
    """First order over values, second order over every pair of fields, and the network on all of them."""
    embeddings, weights = model.inputs.embeddings, model.linear.weights
    fields, first, shortcut = [], model.linear.bias, 0.0
    for batch, row in ((QUERY, q), (ITEM, i)):
        for name, column in batch.items():
            if name == "year":
                fields.append(embeddings.linear[name].weight @ column[row])
                first = first + weights.linear[name].weight[0] @ column[row]
            else:
                fields.append(embeddings.table.weight[embeddings.starts[name] + column[row]])
                first = first + weights.table.weight[weights.starts[name] + column[row], 0]
    if pair is not None:
        norm = model.pair.norm.norm
        known = (pair[q, i] - norm.running_mean) / (norm.running_var + 1e-5).sqrt() * norm.weight + norm.bias
        fields.append(model.pair.vector(known))
        shortcut = known @ model.pair.weight
    second = sum(fields[f] @ fields[g] for g in range(len(fields)) for f in range(g))
    weight = 1.0 if pair is None else model.second_weight
    deep = model.out(model.deep.rest(model.deep.first.whole(torch.cat(fields))))
    return first + weight * second + deep[0] + shortcut


def random(model):
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return model.eval()


@pytest.mark.parametrize("store", ["ids", "embeddings", "first_layer"])
def test_every_storage_depth_scores_like_the_paper(store):
    torch.manual_seed(0)
    model = random(DeepFM(SPEC, DeepFMConfig(embedding=3, layers=(7, 4), store=store)))
    scores = model.score(model.encode_query(QUERY), model.encode_item(ITEM))
    for q in range(2):
        for i in range(3):
            torch.testing.assert_close(scores[q, i], textbook(model, q, i), atol=1e-5, rtol=1e-5)


def test_pair_fields_are_one_more_field_and_a_shortcut():
    torch.manual_seed(0)
    model = random(DeepFM(SPEC, DeepFMConfig(embedding=3, layers=(5,), pair=("a", "b"))))
    model.pair.norm.norm.running_mean.uniform_()
    model.pair.norm.norm.running_var.uniform_(0.5, 2)
    pair = torch.randn(2, 3, 2)
    scores = model.score(
        model.encode_query(QUERY), model.encode_item(ITEM), Batch(a=pair[..., 0], b=pair[..., 1])
    )
    for q in range(2):
        for i in range(3):
            torch.testing.assert_close(scores[q, i], textbook(model, q, i, pair), atol=1e-5, rtol=1e-5)


def test_the_first_scores_are_the_pair_fields_own():
    torch.manual_seed(0)
    model = DeepFM(SPEC, DeepFMConfig(embedding=3, layers=(5,), pair=("a",))).eval()
    pair = torch.tensor([[3.0, 1.0, 2.0], [1.0, 2.0, 3.0]])
    scores = model.score(model.encode_query(QUERY), model.encode_item(ITEM), Batch(a=pair))
    assert torch.equal(scores.argsort(1), pair.argsort(1))
