"""Logistic regression against its formula, one pair at a time; its table; its crosses."""

import pytest
import torch

from twotower.data.spec import Column, FeatureSpec
from twotower.errors import ConfigError
from twotower.index.item_table import ItemTable
from twotower.models.logistic_regression import LogisticRegression, LogisticRegressionConfig
from twotower.types import Batch

SPEC = FeatureSpec(
    columns=(
        Column(name="user", kind="id", side="query", size=5),
        Column(name="age", kind="number", side="query", width=2),
        Column(name="device", kind="category", side="context", size=4),
        Column(name="movie", kind="id", side="item", size=6),
        Column(name="genres", kind="bag", side="item", size=5, width=2),
        Column(name="poster", kind="vector", side="item", width=3),
    )
)
QUERY = Batch(
    user=torch.tensor([2, 1]), age=torch.tensor([[0.5, 0.0], [0.0, 1.0]]), device=torch.tensor([3, 2])
)
ITEM = Batch(
    movie=torch.tensor([4, 1, 5]),
    genres=torch.tensor([[2, 3], [0, 0], [4, 0]]),
    poster=torch.randn(3, 3, generator=torch.Generator().manual_seed(0)),
)


def make(**config):
    torch.manual_seed(0)
    model = LogisticRegression(SPEC, LogisticRegressionConfig.parse(config, where="test"))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter)
    return model.eval()


def textbook(model, q, i):
    """b + sum of w[field, value] + sum of c[hash(pair of values)], in plain loops."""
    weights, starts = model.inputs.embeddings.table.weight[:, 0], model.inputs.embeddings.starts
    linear = {name: map.weight[0] for name, map in model.inputs.embeddings.linear.items()}
    logit = model.bias + weights[starts["user"] + QUERY["user"][q]]
    logit = logit + weights[starts["device"] + QUERY["device"][q]]
    logit = logit + weights[starts["movie"] + ITEM["movie"][i]]
    logit = logit + linear["age"] @ QUERY["age"][q] + linear["poster"] @ ITEM["poster"][i]
    genres = [g for g in ITEM["genres"][i].tolist() if g]
    for g in genres:
        logit = logit + weights[starts["genres"] + g] / len(genres)
    table = model.crosses.table.weight[:, 0]
    for number, (left, right) in enumerate(model.crosses.crosses):
        values = genres if right == "genres" else [int(ITEM[right][i])]
        for y in values:
            row = model.crosses.rows(QUERY[left][q], torch.tensor(y), number)
            logit = logit + table[row] / len(values)
    return logit


@pytest.mark.parametrize("sparse", [True, False])
def test_scores_are_the_formula(sparse):
    model = make(buckets=30, sparse=sparse)
    scores = model.score(model.encode_query(QUERY), model.encode_item(ITEM))
    for q in range(2):
        for i in range(3):
            torch.testing.assert_close(scores[q, i], textbook(model, q, i))


def test_auto_crosses_all_pairs_of_categories_but_ids_with_ids():
    assert make(buckets=8).crosses.crosses == (
        ("user", "genres"),
        ("device", "movie"),
        ("device", "genres"),
    )
    assert make(buckets=8, crosses=[["user", "movie"]]).crosses.crosses == (("user", "movie"),)
    assert make(crosses=[]).crosses is None


def test_a_fresh_model_says_one_half_to_everything():
    model = LogisticRegression(SPEC, LogisticRegressionConfig(buckets=8)).eval()
    assert not model.score(model.encode_query(QUERY), model.encode_item(ITEM)).any()


@pytest.mark.parametrize("cross", [["movie", "user"], ["age", "movie"], ["user", "poster"], ["user", "no"]])
def test_a_cross_of_what_is_no_category_is_refused(cross):
    with pytest.raises(ConfigError, match="expected one of"):
        make(crosses=[cross])
    with pytest.raises(ConfigError, match="twice"):
        make(crosses=[["user", "movie"], ["user", "movie"]])


def test_the_item_table_keeps_ids_and_stays_valid_while_the_weights_learn():
    model = make(buckets=30)
    table = ItemTable.build(
        lambda keys: model.encode_item(ITEM.take(keys)), 3, model.item_specs(), model.item_digest()
    )
    before = model.item_digest()
    old = model.score(model.encode_query(QUERY), table.slice(0, 3))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter))
    assert model.item_digest() == before
    kept = model.score(model.encode_query(QUERY), table.slice(0, 3))
    assert torch.equal(kept, model.score(model.encode_query(QUERY), model.encode_item(ITEM)))
    assert not torch.equal(kept, old)


def test_gradients_touch_only_the_rows_of_the_batch():
    model = make(buckets=1 << 20).train()
    model.score(model.encode_query(QUERY), model.encode_item(ITEM)).sum().backward()
    gradient = model.crosses.table.weight.grad
    # two users and two devices with three genres, two devices with three films
    assert gradient.is_sparse
    assert gradient.coalesce().indices().shape[1] == 6 + 6 + 6


def test_pair_fields_have_a_weight_each():
    model = make(buckets=30, pair=["retrieve_score"])
    norm = model.known.norm.norm
    norm.running_mean.fill_(0.5)
    pair = torch.randn(2, 3)
    query, item = model.encode_query(QUERY), model.encode_item(ITEM)
    scores = model.score(query, item, Batch(retrieve_score=pair))
    known = (pair - 0.5) / (1 + norm.eps) ** 0.5 * norm.weight + norm.bias
    expected = torch.stack([torch.stack([textbook(model, q, i) for i in range(3)]) for q in range(2)])
    torch.testing.assert_close(scores, expected + known * model.known.weight[0])
    with pytest.raises(ConfigError, match="retrieve_score"):
        model.score(query, item)
