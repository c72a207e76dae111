"""DCN against the paper's forward pass, layer by layer and one pair at a time, for every storage depth."""

import pytest
import torch

from twotower.data.features import Column, FeatureSpec
from twotower.models.dcn import DCN, DCNConfig
from twotower.types import Batch

SPEC = FeatureSpec(
    columns=(
        Column(name="user", kind="id", side="query", size=5, width=1),
        Column(name="movie", kind="id", side="item", size=6, width=1),
        Column(name="year", kind="number", side="item", size=0, width=2),
    )
)
QUERY = Batch(user=torch.tensor([2, 1]))
ITEM = Batch(movie=torch.tensor([4, 1, 5]), year=torch.tensor([[0.3, 0.0], [-2.0, 0.0], [0.0, 1.0]]))


def textbook(model, q, i, pair=None):
    """x0 -> cross layers beside the MLP -> one linear layer on both."""
    embeddings = model.inputs.embeddings
    parts = [
        embeddings.table.weight[embeddings.starts["user"] + QUERY["user"][q]],
        embeddings.table.weight[embeddings.starts["movie"] + ITEM["movie"][i]],
        embeddings.linear["year"].weight @ ITEM["year"][i],
    ]
    shortcut = 0.0
    if pair is not None:
        norm = model.pair.norm.norm
        known = (pair[q, i] - norm.running_mean) / (norm.running_var + 1e-5).sqrt() * norm.weight + norm.bias
        parts.append(model.pair.vector(known))
        shortcut = known @ model.pair.weight
    x = x0 = torch.cat(parts)
    *layers, last = model.weights.linear.weight
    for weight, bias in zip(layers, model.biases, strict=True):
        x = x0 * (x @ weight) + bias + x
    deep = model.deep.rest(model.deep.first.whole(x0))
    return torch.cat([x, deep]) @ torch.cat([last, model.out.weight[0]]) + model.out.bias[0] + shortcut


def made(**config):
    torch.manual_seed(0)
    model = DCN(SPEC, DCNConfig(embedding=3, **config))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return model.eval()


@pytest.mark.parametrize("store", ["ids", "embeddings", "first_layer"])
@pytest.mark.parametrize("crosses", [1, 2, 5])
def test_every_storage_depth_scores_like_the_paper(store, crosses):
    model = made(crosses=crosses, layers=(7, 4), store=store)
    scores = model.score(model.encode_query(QUERY), model.encode_item(ITEM))
    for q in range(2):
        for i in range(3):
            torch.testing.assert_close(scores[q, i], textbook(model, q, i), atol=1e-4, rtol=1e-5)


def test_pair_fields_are_one_more_part_and_a_shortcut():
    model = made(crosses=3, layers=(5,), pair=("a", "b"))
    model.pair.norm.norm.running_mean.uniform_()
    model.pair.norm.norm.running_var.uniform_(0.5, 2)
    pair = torch.randn(2, 3, 2)
    scores = model.score(
        model.encode_query(QUERY), model.encode_item(ITEM), Batch(a=pair[..., 0], b=pair[..., 1])
    )
    for q in range(2):
        for i in range(3):
            torch.testing.assert_close(scores[q, i], textbook(model, q, i, pair), atol=1e-4, rtol=1e-5)


def test_gradients_are_those_of_the_paper():
    model = made(crosses=3, layers=(5,))
    parameters = list(model.parameters())
    naive = torch.autograd.grad(textbook(model, 1, 2), parameters, allow_unused=True)
    split = torch.autograd.grad(
        model.score(model.encode_query(QUERY), model.encode_item(ITEM))[1, 2], parameters, allow_unused=True
    )
    for parameter, one, other in zip(parameters, naive, split, strict=True):
        zero = torch.zeros_like(parameter)
        torch.testing.assert_close(
            zero if one is None else one, zero if other is None else other, atol=1e-4, rtol=1e-4
        )


def test_an_item_keeps_a_number_per_cross_layer_and_its_share_of_the_network():
    model = made(crosses=3, layers=(8,))
    assert model.bytes_per_item == 4 * (3 + 1 + 8)


def test_the_first_scores_are_the_pair_fields_own():
    torch.manual_seed(0)
    model = DCN(SPEC, DCNConfig(embedding=3, layers=(5,), pair=("a",))).eval()
    pair = torch.tensor([[3.0, 1.0, 2.0], [1.0, 2.0, 3.0]])
    scores = model.score(model.encode_query(QUERY), model.encode_item(ITEM), Batch(a=pair))
    assert torch.equal(scores.argsort(1), pair.argsort(1))
