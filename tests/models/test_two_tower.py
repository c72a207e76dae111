"""The two-tower model against its textbook forward pass, one pair at a time."""

import pytest
import torch

from twotower.data.features import Column, FeatureSpec
from twotower.errors import ConfigError
from twotower.models.two_tower import TwoTower, TwoTowerConfig
from twotower.nn.history import HistoryConfig
from twotower.types import Batch

SPEC = FeatureSpec(
    columns=(
        Column(name="user", kind="id", side="query", size=5, width=1),
        Column(name="age", kind="number", side="query", size=0, width=2),
        Column(name="history", kind="sequence", side="query", size=6, width=4, of="movie"),
        Column(name="movie", kind="id", side="item", size=6, width=1),
        Column(name="genres", kind="bag", side="item", size=4, width=2),
    )
)
QUERY = Batch(
    user=torch.tensor([2, 1]),
    age=torch.tensor([[0.5, 0.0], [0.0, 1.0]]),
    history=torch.tensor([[3, 2, 0, 0], [0, 0, 0, 0]]),
)
ITEM = Batch(movie=torch.tensor([4, 1, 5]), genres=torch.tensor([[2, 3], [1, 0], [0, 0]]))


def row(model, column, index):
    return model.inputs.embeddings.table.weight[model.inputs.embeddings.starts[column] + index]


def naive_fields(model, q, i):
    user = [
        row(model, "user", QUERY["user"][q]),
        QUERY["age"][q] @ model.inputs.embeddings.linear["age"].weight.T,
    ]
    bag = [row(model, "genres", g) for g in ITEM["genres"][i] if g != 0]
    mean = torch.stack(bag).mean(0) if bag else torch.zeros(model.config.embedding)
    return user, [row(model, "movie", ITEM["movie"][i]), mean]


@pytest.mark.parametrize("similarity", ["dot", "cosine"])
@pytest.mark.parametrize("bias", [True, False])
def test_score_is_the_textbook_forward_pass(similarity, bias):
    torch.manual_seed(0)
    config = TwoTowerConfig(embedding=4, layers=(6, 3), similarity=similarity, temperature=0.2, bias=bias)
    model = TwoTower(SPEC, config).eval()
    scores = model.score(model.encode_query(QUERY), model.encode_item(ITEM))
    for q in range(2):
        for i in range(3):
            user, item = (torch.cat(fields) for fields in naive_fields(model, q, i))
            u, v = model.query_tower(user), model.item_tower(item)
            expected = (
                torch.nn.functional.cosine_similarity(u, v, dim=0) / 0.2 if similarity == "cosine" else u @ v
            )
            if bias:
                expected = expected + model.query_bias(user)[0] + model.item_bias(item)[0]
            torch.testing.assert_close(scores[q, i], expected, atol=1e-5, rtol=1e-5)


def test_without_layers_a_tower_is_the_sum_of_its_fields():
    torch.manual_seed(0)
    model = TwoTower(SPEC, TwoTowerConfig(embedding=4, layers=(), bias=False)).eval()
    scores = model.score(model.encode_query(QUERY), model.encode_item(ITEM))
    for q in range(2):
        for i in range(3):
            user, item = naive_fields(model, q, i)
            torch.testing.assert_close(scores[q, i], sum(user) @ sum(item))


def test_the_mean_history_is_the_normalised_mean_of_its_items():
    torch.manual_seed(0)
    config = TwoTowerConfig(embedding=4, layers=(), bias=False, history=HistoryConfig(kind="mean"))
    model = TwoTower(SPEC, config).eval()
    vector = model.encode_query(QUERY)["vector"]
    items = torch.stack([row(model, "movie", 3), row(model, "movie", 2)])
    past = torch.nn.functional.layer_norm(items.mean(0), (4,))
    torch.testing.assert_close(vector[0], sum(naive_fields(model, 0, 0)[0]) + past)
    torch.testing.assert_close(vector[1], sum(naive_fields(model, 1, 0)[0]))  # no history: the learned zero


def test_id_dropout_trains_the_unknown_row_and_only_while_training():
    spec = FeatureSpec(
        columns=(
            Column(name="user", kind="id", side="query", size=5, width=1, dropout=0.5),
            Column(name="movie", kind="id", side="item", size=6, width=1),
        )
    )
    model = TwoTower(spec, TwoTowerConfig(embedding=4, layers=(), bias=False))
    many = Batch(user=torch.full((4000,), 3))
    vectors = model.train().encode_query(many)["vector"]
    unknown = (vectors == row(model, "user", 1)).all(-1).float().mean()
    assert 0.45 < unknown < 0.55
    assert (model.eval().encode_query(many)["vector"] == row(model, "user", 3)).all()


@pytest.mark.parametrize(
    ("columns", "config", "message"),
    [
        (SPEC.columns[:2], {}, "a tower has no features"),
        ((*SPEC.columns[:2], *SPEC.columns[3:]), {"history": {"kind": "mean"}}, "declares no sequence"),
    ],
)
def test_a_model_that_cannot_be_built_says_why(columns, config, message):
    with pytest.raises(ConfigError, match=message):
        TwoTower(FeatureSpec(columns=columns), TwoTowerConfig.parse(config))
