"""Counting is one pass over all events, in pieces of any size."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from twotower.data.interactions import Interactions
from twotower.errors import ConfigError, DataError
from twotower.train.counting import count
from twotower.types import Batch


class Sums(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("clicks", torch.zeros(4))
        self.register_buffer("latest", torch.zeros(()))

    def update(self, items, labels, times, weights=None):
        self.clicks.index_add_(0, items["film"], labels if weights is None else labels * weights)
        self.latest.copy_(times.max())


ITEMS = Batch(film=torch.tensor([3, 1]))
EVENTS = Interactions(
    query_keys=torch.zeros(5, dtype=torch.int64),
    item_keys=torch.tensor([0, 0, 1, 1, 0]),
    times=torch.tensor([1, 2, 3, 4, 5]),
    rows=torch.arange(5),
    labels=torch.tensor([1.0, 0.0, 1.0, 1.0, 1.0]),
)


@pytest.mark.parametrize("rows", [1, 2, 100])
def test_every_event_is_counted_once(rows):
    model = Sums()
    result = count(
        model, EVENTS, ITEMS, lambda model: {"AUC": 0.7, "ECE": float(model.clicks.sum())}, rows=rows
    )
    assert model.clicks.tolist() == [0, 2, 0, 2]
    assert model.latest == 5
    assert (result.best_value, result.best_path) == (0.7, None)
    assert not model.training


def test_weights_come_along():
    model = Sums()
    weighted = replace(EVENTS, weights=torch.tensor([0.5, 1.0, 1.0, 3.0, 1.0]))
    count(model, weighted, ITEMS, lambda _: {"AUC": 0.7}, rows=2)
    assert model.clicks.tolist() == [0, 4, 0, 1.5]


def test_the_metric_is_the_one_asked_for():
    assert count(Sums(), EVENTS, ITEMS, lambda _: {"AUC": 0.7, "ECE": 0.1}, "ECE").best_value == 0.1
    with pytest.raises(ConfigError, match="'AUC'"):
        count(Sums(), EVENTS, ITEMS, lambda _: {"AUC": 0.7}, "auk")


def test_what_learns_by_gradients_or_has_no_labels_is_refused():
    with pytest.raises(ConfigError, match="learns by gradients"):
        count(nn.Linear(1, 1), EVENTS, ITEMS, lambda _: {})
    blind = Interactions(EVENTS.query_keys, EVENTS.item_keys, EVENTS.times, EVENTS.rows)
    with pytest.raises(DataError, match="positive rule"):
        count(Sums(), blind, ITEMS, lambda _: {})
