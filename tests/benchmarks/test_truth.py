"""The ceiling of the synthetic world: probabilities that clicks follow."""

import pytest
import torch

pytest.importorskip("optuna", reason="the benchmarks' packages (extra: bench) are not installed")

from benchmarks.pre_ranking.truth import DEVICES, true_logits

from twotower.data.synthetic import Synthetic


def test_clicks_follow_the_true_probabilities_at_every_position_and_device():
    world = Synthetic(n_queries=300, n_items=200)
    events = world.read().events
    p = true_logits(world, events).sigmoid()
    clicks = torch.from_numpy(events["click"].to_numpy().copy()).double()
    groups = [(events["position"] == position).to_numpy() for position in range(world.exposed)]
    groups += [(events["device"] == device).to_numpy() for device in DEVICES]
    for rows in groups:
        here = torch.from_numpy(rows.copy())
        spread = (p[here] * (1 - p[here])).sum().sqrt()
        assert abs(clicks[here].sum() - p[here].sum()) < 4 * spread
