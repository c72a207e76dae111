"""DCN-V2 against the paper's forward pass, one pair at a time, for every storage depth."""

import pytest
import torch
from torch import nn

from twotower.data.features import Column, FeatureSpec
from twotower.errors import ConfigError
from twotower.models.dcn_v2 import DCNv2, DCNv2Config
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
    """x0 -> cross layers beside the MLP -> one linear layer on both (the parallel structure)."""
    table = model.inputs.embeddings.table.weight
    start = model.inputs.embeddings.starts
    parts = [
        table[start["user"] + QUERY["user"][q]],
        table[start["movie"] + ITEM["movie"][i]],
        ITEM["year"][i] @ model.inputs.embeddings.linear["year"].weight.T,
    ]
    shortcut = 0.0
    if pair is not None:
        known = (pair[q, i] - model.pair.norm.norm.running_mean) / (
            model.pair.norm.norm.running_var + 1e-5
        ).sqrt()
        parts.append(model.pair.vector.weight @ known + model.pair.vector.bias)
        shortcut = known @ model.pair.weight
    x0 = torch.cat(parts)
    x = x0
    for weight, bias in crosses_of(model):
        x = x0 * (weight @ x + bias) + x
    h = x0
    deep = [module for module in model.deep if isinstance(module, nn.Linear)]
    assert len(deep) == len(model.config.layers) - 1
    for linear in (model.first_deep.linear, *deep):
        h = (linear.weight @ h + linear.bias).clamp(min=0)
    return model.out.weight[0] @ torch.cat([x, h]) + model.out.bias[0] + shortcut


def crosses_of(model):
    """W_l and b_l of each cross layer; of low rank, W = U V."""
    first = model.first_cross.linear
    found = [(first.weight, first.bias)]
    for layer in model.crosses:
        if model.config.rank:
            inner, outer = layer.linear
            assert len(inner.weight) == model.config.rank
            found.append((outer.weight @ inner.weight, outer.bias))
        else:
            found.append((layer.linear.weight, layer.linear.bias))
    assert len(found) == model.config.crosses
    return found


@pytest.mark.parametrize("store", ["ids", "embeddings", "first_layer"])
@pytest.mark.parametrize("rank", [0, 2])
def test_every_storage_depth_scores_like_the_paper(store, rank):
    torch.manual_seed(0)
    model = DCNv2(SPEC, DCNv2Config(embedding=3, crosses=3, rank=rank, layers=(7, 4), store=store)).eval()
    scores = model.score(model.encode_query(QUERY), model.encode_item(ITEM))
    for q in range(2):
        for i in range(3):
            torch.testing.assert_close(scores[q, i], textbook(model, q, i), atol=1e-5, rtol=1e-5)


def test_pair_fields_enter_as_a_field_and_as_a_shortcut():
    torch.manual_seed(0)
    model = DCNv2(SPEC, DCNv2Config(embedding=3, layers=(5,), pair=("a", "b"))).eval()
    assert (model.out.weight == 0).all(), "the first scores are the pair fields' own"
    torch.nn.init.normal_(model.out.weight)
    model.pair.norm.norm.running_mean.uniform_()
    model.pair.norm.norm.running_var.uniform_(0.5, 2)
    pair = torch.randn(2, 3, 2)
    scores = model.score(
        model.encode_query(QUERY),
        model.encode_item(ITEM),
        Batch(a=pair[..., 0], b=pair[..., 1], c=pair[..., 0]),
    )
    for q in range(2):
        for i in range(3):
            torch.testing.assert_close(scores[q, i], textbook(model, q, i, pair), atol=1e-5, rtol=1e-5)


def test_a_missing_pair_field_is_an_error_and_never_a_zero():
    model = DCNv2(SPEC, DCNv2Config(embedding=3, layers=(5,), pair=("retrieve_score",))).eval()
    with pytest.raises(ConfigError, match="retrieve_score"):
        model.score(model.encode_query(QUERY), model.encode_item(ITEM))
