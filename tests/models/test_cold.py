"""COLD against the paper's forward pass, one pair and one group at a time, with and without its gate."""

import pytest
import torch
from torch import nn

from twotower.data.features import Column, FeatureSpec
from twotower.errors import ConfigError
from twotower.models.cold import COLD, COLDConfig
from twotower.nn.mlp import RowNorm
from twotower.types import Batch

SPEC = FeatureSpec(
    columns=(
        Column(name="user", kind="id", side="query", size=5, width=1),
        Column(name="history", kind="sequence", side="query", size=6, width=3, of="movie"),
        Column(name="movie", kind="id", side="item", size=6, width=1),
        Column(name="genres", kind="bag", side="item", size=7, width=2),
        Column(name="year", kind="number", side="item", size=0, width=2),
    )
)
QUERY = Batch(user=torch.tensor([2, 1]), history=torch.tensor([[3, 2, 0], [0, 0, 0]]))
ITEM = Batch(
    movie=torch.tensor([4, 1, 5]),
    genres=torch.tensor([[3, 6], [2, 0], [0, 0]]),
    year=torch.tensor([[0.3, 0.0], [-2.0, 0.0], [0.0, 1.0]]),
)
CROSSES = (("user", "genres"), ("user", "movie"))


def cold(**config) -> COLD:
    torch.manual_seed(0)
    model = COLD(SPEC, COLDConfig(**{"embedding": 3, "layers": (16, 8), "crosses": CROSSES, **config})).eval()
    for cross in model.crosses:
        torch.nn.init.normal_(cross.table.weight)  # crosses start at zero
    for name, buffer in model.named_buffers():  # as after some training
        if name.endswith("running_var"):
            buffer.uniform_(0.5, 1.5)
        elif name.endswith("running_mean"):
            buffer.uniform_(-0.2, 0.2)
    for module in model.modules():  # which start as ones and zeros, and would hide that they were forgotten
        if isinstance(module, nn.BatchNorm1d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.uniform_(module.bias, -0.2, 0.2)
    return model


def groups_of(model, q, i) -> dict[str, torch.Tensor]:
    """The embedding of each group, by name."""
    inputs, cross = model.inputs.embeddings, dict(zip(CROSSES, model.crosses, strict=True))
    table, start = inputs.table.weight, inputs.starts
    genres = [int(g) for g in ITEM["genres"][i] if g]
    user, movie = QUERY["user"][q], ITEM["movie"][i]

    def crossed(pair, values):
        module, total = cross[pair], torch.zeros(3)
        for value in values:
            total = total + module.table.weight[module.rows(user, torch.tensor(value), 0)]
        return total / max(len(values), 1)

    return {
        "user": table[start["user"] + user],
        "movie": table[start["movie"] + movie],
        "genres": sum((table[start["genres"] + g] for g in genres), torch.zeros(3)) / max(len(genres), 1),
        "year": ITEM["year"][i] @ inputs.linear["year"].weight.T,
        "user x genres": crossed(("user", "genres"), genres),
        "user x movie": crossed(("user", "movie"), [int(movie)]),
    }


def layers_of(model, x):
    """Linear layers, each normalised with running statistics, then cut at zero; the last one is a number."""
    first, behind = model.first.linear, list(model.deep)
    linears = [first, *(m for m in behind if isinstance(m, nn.Linear))]
    norms = [m.norm for m in behind if isinstance(m, RowNorm)]
    assert len(linears) == len(norms) == len(model.config.layers)
    for linear, norm in zip(linears, norms, strict=True):
        x = linear.weight @ x + linear.bias
        x = (x - norm.running_mean) / (norm.running_var + 1e-5).sqrt() * norm.weight + norm.bias
        x = x.clamp(min=0)
    return model.out.weight[0] @ x + model.out.bias[0]


def textbook(model, q, i, pair=None):
    groups = groups_of(model, q, i)
    assert tuple(groups) == model.groups
    x = torch.cat(list(groups.values()))
    gates = torch.ones(len(groups))
    if model.gate is not None:
        gates = torch.sigmoid(model.gate.linear.weight @ x + model.gate.linear.bias)
    parts = [s * e for s, e in zip(gates, groups.values(), strict=True)]
    shortcut = 0.0
    if pair is not None:
        norm = model.pair.norm.norm
        known = (pair[q, i] - norm.running_mean) / (norm.running_var + 1e-5).sqrt()
        known = known * norm.weight + norm.bias
        parts.append(model.pair.vector.weight @ known + model.pair.vector.bias)
        shortcut = known @ model.pair.weight
    return layers_of(model, torch.cat(parts)) + shortcut, gates


@pytest.mark.parametrize("store", ["ids", "embeddings", "first_layer"])
@pytest.mark.parametrize("gate", [False, True])
def test_every_storage_depth_scores_like_the_paper(store, gate):
    model = cold(store=store, gate=gate)
    query, item = model.encode_query(QUERY), model.encode_item(ITEM)
    scores = model.score(query, item)
    for q in range(2):
        for i in range(3):
            score, gates = textbook(model, q, i)
            torch.testing.assert_close(scores[q, i], score, atol=1e-5, rtol=1e-5)
            if gate:
                torch.testing.assert_close(model.gates(query, item)[q, i], gates, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("gate", [False, True])
def test_pair_fields_enter_ungated_and_as_a_shortcut(gate):
    model = cold(gate=gate, pair=("a", "b"))
    assert (model.out.weight == 0).all(), "the first scores are the pair fields' own"
    torch.nn.init.normal_(model.out.weight)
    pair = torch.randn(2, 3, 2)
    scores = model.score(
        model.encode_query(QUERY), model.encode_item(ITEM), Batch(a=pair[..., 0], b=pair[..., 1])
    )
    for q in range(2):
        for i in range(3):
            torch.testing.assert_close(scores[q, i], textbook(model, q, i, pair)[0], atol=1e-5, rtol=1e-5)


def test_only_what_is_kept_is_read():
    """A history without the field it is a sequence of, and a cross without either of its fields."""
    keep = ("history", "year", "user x genres")
    model = cold(keep=keep, history={"kind": "mean"}, store="ids")
    assert model.groups == keep
    kept_spec = {"year", "genres"}
    assert {spec.name for spec in model.item_specs()} == kept_spec, "movie has no use in the table"
    scores = model.score(model.encode_query(QUERY), model.encode_item(ITEM))
    other = Batch({**ITEM, "movie": torch.tensor([2, 3, 3])})
    torch.testing.assert_close(scores, model.score(model.encode_query(QUERY), model.encode_item(other)))
    changed = Batch({**ITEM, "genres": ITEM["genres"].flip(0)})
    assert not torch.allclose(scores, model.score(model.encode_query(QUERY), model.encode_item(changed)))


def test_keeping_all_is_keeping_what_was_there():
    every, named = cold(), cold(keep=cold().groups)
    named.load_state_dict(every.state_dict())
    torch.testing.assert_close(
        named.score(named.encode_query(QUERY), named.encode_item(ITEM)),
        every.score(every.encode_query(QUERY), every.encode_item(ITEM)),
    )


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"crosses": (("genres", "user"),)}, r"\[genres, user\] is no pair"),
        ({"crosses": (("user", "year"),)}, r"\[user, year\] is no pair"),
        ({"crosses": (("user", "movie"), ("user", "movie"))}, "a pair twice"),
        ({"keep": ("user", "movi")}, "did you mean 'movie'"),
        ({"keep": ("user", "user x genres")}, "no features"),
    ],
)
def test_a_group_that_does_not_exist_is_an_error(config, message):
    with pytest.raises(ConfigError, match=message):
        cold(**config)


def test_without_a_gate_there_are_no_gates():
    model = cold()
    with pytest.raises(ConfigError, match="gate: true"):
        model.gates(model.encode_query(QUERY), model.encode_item(ITEM))
