"""What a retriever refuses. What it promises is tested in contracts/test_stage.py."""

import pytest
import torch

from twotower.baselines.popularity import Popularity
from twotower.cascade.retrieve import Retrieve, RetrieveFrom
from twotower.cascade.stage import Request
from twotower.data.spec import Column, FeatureSpec
from twotower.errors import ConfigError, MismatchError
from twotower.index.exact import ExactIndex
from twotower.models.catalogue import make_model
from twotower.types import Batch, Ragged

SPEC = FeatureSpec(
    columns=(
        Column(name="user", kind="id", side="query", size=9),
        Column(name="movie", kind="id", side="item", size=9),
    )
)


def test_an_index_of_another_model_is_refused():
    model = make_model("two-tower", SPEC, {"embedding": 2, "layers": []})
    index = ExactIndex.build(torch.zeros(3, 4), produced_by="0123abcd")
    with pytest.raises(MismatchError, match=rf"0123abcd.*{model.digest()}.*rebuild the index"):
        Retrieve(model, index)


def test_the_same_model_after_one_more_step_is_another_model():
    model = make_model("two-tower", SPEC, {"embedding": 2, "layers": []})
    index = ExactIndex.build(torch.zeros(3, 4), produced_by=model.digest())
    Retrieve(model, index)
    with torch.no_grad():
        next(model.parameters())[0, 0] += 1e-3
    with pytest.raises(MismatchError):
        Retrieve(model, index)


def test_only_a_dot_model_retrieves():
    model = make_model("dcn-v2", SPEC, {"embedding": 2, "layers": [4]})
    with pytest.raises(ConfigError, match="DCNv2 is 'joint'"):
        Retrieve(model, ExactIndex.build(torch.zeros(3, 4), produced_by=model.digest()))


def test_dropout_is_off_when_retrieving():
    model = make_model("two-tower", SPEC, {"embedding": 8, "layers": [8, 8], "dropout": 0.5})
    assert model.training
    assert not Retrieve(
        model, ExactIndex.build(torch.zeros(3, 10), produced_by=model.digest())
    ).model.training


def test_a_source_needs_histories():
    stage = RetrieveFrom(Popularity().fit(Ragged.of([[0]]), 3))
    with pytest.raises(ConfigError, match="'retrieve' retrieves from histories"):
        stage.run(Request(Batch(user=torch.arange(2))), None, 2)
