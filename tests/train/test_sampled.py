"""Sampled softmax of models that are no towers: all of a row in one batch, and no lists."""

import pytest
import torch

from twotower.errors import ConfigError
from twotower.models.catalogue import make_model
from twotower.train.objectives import make_objective
from twotower.train.softmax import SampledConfig

from .objective_world import COUNTS, ITEMS, SEED, SPEC, B, events


def test_sampled_scores_targets_and_negatives_in_one_batch():
    """Norms over a batch of targets alone would tell a joint model which ones they are."""
    model = make_model("cold", SPEC, {"embedding": 4, "layers": [6], "norm": "batch"}).train()
    sizes = []
    norm = next(module for module in model.modules() if isinstance(module, torch.nn.BatchNorm1d))
    norm.register_forward_hook(lambda _, rows, out: sizes.append(len(rows[0])))
    make_objective(SampledConfig(negatives=7), ITEMS, COUNTS, SEED)(model, events())
    assert sizes == [B * 8]


def test_sampled_refuses_what_reads_lists():
    objective = make_objective(SampledConfig(negatives=7), ITEMS, COUNTS, SEED)
    with pytest.raises(ConfigError, match=r"PRM \(list\) is not made for; train it on lists"):
        objective(make_model("prm", SPEC, {"embedding": 4, "pair": [], "position": None}), events())
