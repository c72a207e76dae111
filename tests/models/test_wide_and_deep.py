"""Wide & Deep against the paper's forward pass, one pair at a time, for every storage depth."""

import pytest
import torch

from twotower.data.features import Column, FeatureSpec
from twotower.errors import ConfigError
from twotower.models.wide_and_deep import WideAndDeep, WideAndDeepConfig
from twotower.types import Batch

SPEC = FeatureSpec(
    columns=(
        Column(name="gender", kind="category", side="query", size=4, width=1),
        Column(name="age", kind="number", side="query", size=0, width=2),
        Column(name="history", kind="sequence", side="query", size=6, width=3, of="movie"),
        Column(name="movie", kind="id", side="item", size=6, width=1),
        Column(name="genres", kind="bag", side="item", size=5, width=2),
    )
)
QUERY = Batch(
    gender=torch.tensor([2, 3]),
    age=torch.tensor([[0.4, 0.0], [-1.0, 0.0]]),
    history=torch.tensor([[4, 2, 5], [0, 0, 0]]),
)
ITEM = Batch(movie=torch.tensor([4, 1, 5]), genres=torch.tensor([[2, 4], [3, 0], [0, 0]]))
CROSSES = (("gender", "genres"), ("gender", "movie"), ("history", "movie"))


def values(cell):
    return [int(v) for v in cell.reshape(-1) if v]


def mean(vectors, like):
    return sum(vectors) / len(vectors) if vectors else torch.zeros_like(like)


def textbook(model, q, i):
    """One weight per value and per crossed pair of values, and the network on the field vectors."""
    cells = {name: column[q] for name, column in QUERY.items()} | {n: column[i] for n, column in ITEM.items()}
    embeddings, weights = model.inputs.embeddings, model.linear.weights
    fields, wide = [], model.linear.bias
    for name in ("gender", "age", "movie", "genres"):
        if name == "age":
            fields.append(embeddings.linear[name].weight @ cells[name])
            wide = wide + weights.linear[name].weight[0] @ cells[name]
        else:
            rows = [embeddings.starts[name] + v for v in values(cells[name])]
            fields.append(mean([embeddings.table.weight[r] for r in rows], embeddings.table.weight[0]))
            wide = wide + mean([weights.table.weight[r, 0] for r in rows], wide)
    for number, (left, right) in enumerate(model.config.crosses):
        rows = [
            model.crosses.rows(torch.tensor(a), torch.tensor(b), number)
            for a in values(cells[left])
            for b in values(cells[right])
        ]
        wide = wide + mean([model.crosses.table.weight[r, 0] for r in rows], wide)
    return wide + model.out(model.deep.rest(model.deep.first.whole(torch.cat(fields))))[0]


def made(**config):
    torch.manual_seed(0)
    model = WideAndDeep(SPEC, WideAndDeepConfig(embedding=3, layers=(7, 4), buckets=97, **config))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return model.eval()


@pytest.mark.parametrize("store", ["ids", "embeddings", "first_layer"])
@pytest.mark.parametrize("crosses", [(), CROSSES], ids=len)
def test_every_storage_depth_scores_like_the_paper(store, crosses):
    model = made(store=store, crosses=crosses)
    scores = model.score(model.encode_query(QUERY), model.encode_item(ITEM))
    for q in range(2):
        for i in range(3):
            torch.testing.assert_close(scores[q, i], textbook(model, q, i), atol=1e-5, rtol=1e-5)


def test_items_keep_the_values_that_are_crossed():
    names = [spec.name for spec in made(crosses=CROSSES).item_specs()]
    assert names == ["deep", "linear", "value_genres", "value_movie"]
    assert [spec.name for spec in made().item_specs()] == ["deep", "linear"]


def test_a_crossed_history_is_asked_for():
    assert made(crosses=CROSSES).history == "history"
    assert made(crosses=CROSSES[:2]).history is None


@pytest.mark.parametrize("crosses", [(("movie", "gender"),), (("age", "movie"),), (("gender", "title"),)])
def test_a_cross_of_what_has_no_values_is_an_error(crosses):
    with pytest.raises(ConfigError, match="is no pair of a query's and an item's values"):
        made(crosses=crosses)


def test_a_cross_twice_is_an_error():
    with pytest.raises(ConfigError, match="a pair twice"):
        made(crosses=CROSSES[:1] * 2)
