"""Models on disk, and configs that no model can be made of."""

import json

import pytest
import safetensors.torch
import torch

from twotower.data.spec import Column, FeatureSpec
from twotower.errors import ConfigError, MismatchError, StorageError
from twotower.models.catalogue import load_model, make_model, save_model

USER = Column(name="user", kind="id", side="query", size=5, width=1)
MOVIE = Column(name="movie", kind="id", side="item", size=6, width=1)
SEEN = Column(name="seen", kind="sequence", side="query", size=6, width=4, of="movie")
BOUGHT = SEEN.model_copy(update={"name": "bought"})
SPEC = FeatureSpec(columns=(USER, MOVIE, SEEN))


def test_weights_and_description_of_other_models_are_refused(tmp_path):
    model = make_model("two-tower", SPEC, {"layers": [4]})
    save_model(model, "two-tower", tmp_path)
    weights = safetensors.torch.load_file(tmp_path / "model.safetensors")
    about = json.loads((tmp_path / "model.json").read_text())
    for strange in (
        {name: torch.cat([tensor, tensor]) for name, tensor in weights.items()},
        {f"x.{name}": tensor for name, tensor in weights.items()},
        {name: tensor + 1 for name, tensor in weights.items()},
    ):
        safetensors.torch.save_file(strange, tmp_path / "model.safetensors")
        with pytest.raises(MismatchError, match=r"weights and model.json do not belong together"):
            load_model(tmp_path)
    del about["spec"]
    (tmp_path / "model.json").write_text(json.dumps(about))
    with pytest.raises(StorageError, match=r"model.json: no description of a model"):
        load_model(tmp_path)


@pytest.mark.parametrize("name", ["two-tower", "dcn-v2", "din"])
def test_of_two_histories_one_must_be_chosen(name):
    spec = FeatureSpec(columns=(USER, MOVIE, SEEN, BOUGHT))
    with pytest.raises(ConfigError, match="reads one history, and there are seen, bought"):
        make_model(name, spec, {"history": {"kind": "mean"}})


def test_heads_must_divide_the_history():
    history = {"kind": "attention", "blocks": 1, "heads": 3}
    with pytest.raises(ConfigError, match="3 heads do not divide a history of 8 floats"):
        make_model("two-tower", SPEC, {"embedding": 8, "history": history})


def test_another_depth_keeps_type_and_draws_nothing():
    model = make_model("dcn-v2", SPEC, {"embedding": 4, "layers": [4]}).double().requires_grad_(False)
    before = torch.get_rng_state()
    other = model.at_store("ids")
    assert torch.equal(torch.get_rng_state(), before)
    assert (model.config.store, other.config.store) == ("first_layer", "ids")
    for parameter, same in zip(other.parameters(), model.parameters(), strict=True):
        assert (parameter.dtype, parameter.requires_grad) == (torch.float64, False)
        assert torch.equal(parameter, same)
