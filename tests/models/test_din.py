"""DIN against the paper's forward pass, one pair at a time, for every storage depth."""

import pytest
import torch

from twotower.data.features import Column, FeatureSpec
from twotower.errors import ConfigError
from twotower.models.din import DIN, DINConfig
from twotower.types import Batch

USER = Column(name="user", kind="id", side="query", size=5, width=1)
YEAR = Column(name="year", kind="number", side="item", size=0, width=2)
MOVIE = Column(name="movie", kind="id", side="item", size=6, width=1)
HISTORY = Column(name="history", kind="sequence", side="query", size=6, width=4, of="movie")
SPEC = FeatureSpec(columns=(USER, HISTORY, YEAR, MOVIE))
QUERY = Batch(user=torch.tensor([2, 1, 3]), history=torch.tensor([[4, 2, 0, 0], [5, 3, 1, 2], [0, 0, 0, 0]]))
ITEM = Batch(movie=torch.tensor([4, 1, 5]), year=torch.tensor([[0.3, 0.0], [-2.0, 0.0], [0.0, 1.0]]))


def dice(layer, x):
    p = torch.sigmoid((x - layer.norm.running_mean) / (layer.norm.running_var + 1e-8).sqrt())
    return p * x + (1 - p) * layer.alpha * x


def textbook(model, q, i):
    """Each event of the history weighs what the activation unit says of it and of the candidate."""
    embeddings, unit = model.inputs.embeddings, model.attention
    movies = embeddings.table.weight[embeddings.starts["movie"] :]
    user = embeddings.table.weight[embeddings.starts["user"] + QUERY["user"][q]]
    year = embeddings.linear["year"].weight @ ITEM["year"][i]
    target = movies[ITEM["movie"][i]]
    past = torch.zeros_like(target)
    for event in QUERY["history"][q]:
        if event != 0:
            key = movies[event]
            hidden = unit.first(torch.cat([key, target, key - target, key * target]))
            hidden = torch.where(hidden > 0, hidden, unit.bend.alpha * hidden)
            past = past + unit.out(hidden).sigmoid() * key
    x = model.deep.first.linear(torch.cat([user, year, target, past]))
    bend, linear, second = model.deep.rest
    return model.out(dice(second, linear(dice(bend, x))))[0]


@pytest.mark.parametrize("store", ["ids", "embeddings", "first_layer"])
def test_every_storage_depth_scores_like_the_paper(store):
    torch.manual_seed(0)
    model = DIN(SPEC, DINConfig(embedding=3, attention=5, layers=(7, 4), dropout=0, store=store)).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    for layer in (model.deep.rest[0], model.deep.rest[2]):
        layer.norm.running_mean.uniform_(-1, 1)
        layer.norm.running_var.uniform_(0.5, 2)
    scores = model.score(model.encode_query(QUERY), model.encode_item(ITEM))
    for q in range(3):
        for i in range(3):
            torch.testing.assert_close(scores[q, i], textbook(model, q, i), atol=1e-5, rtol=1e-5)


def test_a_history_is_asked_for_and_kept_no_wider_than_needed():
    model = DIN(SPEC, DINConfig(embedding=3, layers=(5,))).eval()
    assert model.history == "history"
    assert model.encode_query(QUERY)["past"].shape == (3, 4, 3)
    assert model.encode_query(QUERY.slice(0, 1))["past"].shape == (1, 2, 3)


def test_the_order_of_a_history_does_not_matter():
    torch.manual_seed(0)
    model = DIN(SPEC, DINConfig(embedding=3, layers=(5,))).eval()
    turned = Batch({**QUERY, "history": torch.tensor([[2, 4, 0, 0], [2, 1, 3, 5], [0, 0, 0, 0]])})
    item = model.encode_item(ITEM)
    torch.testing.assert_close(
        model.score(model.encode_query(QUERY), item), model.score(model.encode_query(turned), item)
    )


def test_without_a_history_there_is_nothing_to_attend_to():
    with pytest.raises(ConfigError, match="no sequence of an item field"):
        DIN(FeatureSpec(columns=(USER, YEAR, MOVIE)), DINConfig())
