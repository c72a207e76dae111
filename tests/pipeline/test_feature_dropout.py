"""From a ranker that drops fields to a pre-ranker that goes on from it."""

import pytest
import torch

from twotower.errors import ConfigError
from twotower.models.catalogue import make_model
from twotower.pipeline.feature_dropout import reduce_fields
from twotower.pipeline.prepared import Prepared
from twotower.pipeline.recipe import Recipe
from twotower.pipeline.validation import LabelledEvents

RANKER = {
    "model": "fscd",
    "features": ["user", "country", "item", "category", "tags"],
    "config": {"embedding": 4, "layers": [16], "weight": 0.3, "costs": {"item": 0, "country": 0, "user": 9}},
    "objective": {"kind": "pointwise"},
    "train": {"epochs": 4, "batch_size": 64, "learning_rate": 0.01},
}


@pytest.fixture(scope="module")
def prepared(tiny) -> Prepared:
    return Prepared.make(Recipe.parse({**tiny("cascade=[]"), "models": {"r": RANKER}}), None, "raise")


def test_the_pre_ranker_reads_less_and_goes_on_from_the_ranker(prepared, tmp_path):
    reduced = reduce_fields(prepared, "r", epochs=1, directory=tmp_path)
    ranker, pre_ranker = reduced.ranker, reduced.pre_ranker
    assert set(pre_ranker.fields) == set(ranker.kept(0.5))
    assert "country" in pre_ranker.fields, "free fields stay"
    assert "user" not in pre_ranker.fields, "a field that costs nine times what it can save goes"
    assert "* country" in str(reduced)
    valid = LabelledEvents(prepared, prepared.split.valid, prepared.split.history("valid"))
    torch.manual_seed(1)
    config = {**RANKER["config"], "gate": False, "keep": pre_ranker.fields}
    inherited = make_model("fscd", prepared.spec(tuple(RANKER["features"])), config).eval()
    fresh = valid.measure(inherited)["log loss"]
    inherited.inherit(ranker)
    assert valid.measure(inherited)["log loss"] < fresh, "it begins with what the ranker knows"
    again = reduce_fields(prepared, "r", epochs=1, directory=tmp_path)
    assert again.pre_ranker.digest() == pre_ranker.digest(), "a finished training is not repeated"


def test_only_a_gated_fscd_can_be_reduced(prepared):
    with pytest.raises(ConfigError, match="no model of kind fscd"):
        reduce_fields(prepared, "retriever")
    plain = {**RANKER, "config": {"gate": False}}
    recipe = Recipe.parse({**prepared.recipe.plain(), "models": {"r": plain}})
    ungated = Prepared(recipe, prepared.dataset, prepared.split, prepared.features)
    with pytest.raises(ConfigError, match="gate: true"):
        reduce_fields(ungated, "r")
