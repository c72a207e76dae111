"""AutoInt against the paper's forward pass, one pair at a time, for every storage depth."""

import pytest
import torch

from twotower.data.features import Column, FeatureSpec
from twotower.models.autoint import AutoInt, AutoIntConfig
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


def attention(layer, fields):
    """Equations 5 to 8, one head and one field at a time."""
    queries, keys, values, residuals = layer.projections.weight.chunk(4)
    out = []
    for field in fields:
        heads = []
        for h in range(layer.heads):
            rows = slice(h * layer.dim, (h + 1) * layer.dim)
            similar = torch.stack([(queries[rows] @ field) @ (keys[rows] @ e) for e in fields]).softmax(0)
            heads.append(sum(s * (values[rows] @ e) for s, e in zip(similar, fields, strict=True)))
        out.append((torch.cat(heads) + residuals @ field).relu())
    return out


def textbook(model, q, i, pair=None):
    embeddings = model.inputs.embeddings
    fields = [
        embeddings.table.weight[embeddings.starts["user"] + QUERY["user"][q]],
        embeddings.table.weight[embeddings.starts["movie"] + ITEM["movie"][i]],
        embeddings.linear["year"].weight @ ITEM["year"][i],
    ]
    shortcut = 0.0
    if pair is not None:
        norm = model.pair.norm.norm
        known = (pair[q, i] - norm.running_mean) / (norm.running_var + 1e-5).sqrt() * norm.weight + norm.bias
        fields.append(model.pair.vector(known))
        shortcut = known @ model.pair.weight
    x = fields
    for layer in (model.first, *model.attention):
        x = attention(layer, x)
    if model.deep is not None:
        x = [*x, model.deep.rest(model.deep.first.whole(torch.cat(fields)))]
    return model.out(torch.cat(x))[0] + shortcut


def made(**config):
    torch.manual_seed(0)
    model = AutoInt(SPEC, AutoIntConfig(embedding=3, head_dim=4, **config))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return model.eval()


@pytest.mark.parametrize("store", ["ids", "embeddings", "first_layer"])
@pytest.mark.parametrize("layers", [(), (7, 4)], ids=["AutoInt", "AutoInt+"])
@pytest.mark.parametrize("blocks", [1, 3])
def test_every_storage_depth_scores_like_the_paper(store, layers, blocks):
    model = made(blocks=blocks, layers=layers, store=store)
    scores = model.score(model.encode_query(QUERY), model.encode_item(ITEM))
    for q in range(2):
        for i in range(3):
            torch.testing.assert_close(scores[q, i], textbook(model, q, i), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("layers", [(), (5,)])
def test_pair_fields_are_one_more_field_and_a_shortcut(layers):
    model = made(blocks=2, layers=layers, pair=("a", "b"))
    model.pair.norm.norm.running_mean.uniform_()
    model.pair.norm.norm.running_var.uniform_(0.5, 2)
    pair = torch.randn(2, 3, 2)
    scores = model.score(
        model.encode_query(QUERY), model.encode_item(ITEM), Batch(a=pair[..., 0], b=pair[..., 1])
    )
    for q in range(2):
        for i in range(3):
            torch.testing.assert_close(scores[q, i], textbook(model, q, i, pair), atol=1e-5, rtol=1e-5)
