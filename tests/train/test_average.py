"""Averaged weights: what they are, what is validated and kept, and that a resumed run has them too."""

from dataclasses import dataclass

import pytest
import torch
from torch import nn

from twotower.errors import ConfigError
from twotower.train.average import Average
from twotower.train.fit import fit
from twotower.train.settings import TrainSettings


@dataclass(frozen=True)
class Points:
    x: torch.Tensor

    def __len__(self):
        return len(self.x)

    def to(self, device):
        return Points(self.x.to(device))


class Source:
    steps_per_epoch = 4

    def epoch(self, number, start_step=0):
        for step in range(start_step, 4):
            yield Points(torch.randn(8, 1, generator=torch.Generator().manual_seed(10 * number + step)))


def new_model():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Linear(1, 1)


def train(model, trail=None, directory=None, validate=None, **settings):
    def squared(model, points):
        if trail is not None:
            trail.append([p.detach().clone() for p in model.parameters()])
        return {"squared": (model(points.x) - 3 * points.x).square().mean()}

    settings = TrainSettings(**{"learning_rate": 0.1, "device": "cpu", "epochs": 3, **settings})
    return fit(model, Source(), squared, settings, validate=validate, directory=directory)


def averaged(trail, decay):
    """The definition, one step at a time; ``trail`` begins with the weights before the first step."""
    mean = [w.clone() for w in trail[0]]
    for step, weights in enumerate(trail[1:], start=1):
        forget = min(decay, (1 + step) / (10 + step))
        mean = [forget * m + (1 - forget) * w for m, w in zip(mean, weights, strict=True)]
    return mean


@pytest.mark.parametrize("decay", [0.3, 0.9])
def test_what_is_kept_is_the_average_of_the_weights_along_the_way(decay):
    trail = []
    plain = new_model()
    train(plain, trail)
    trail.append(list(plain.parameters()))  # after the last step
    model = new_model()
    train(model, average=decay)
    for found, wanted in zip(model.parameters(), averaged(trail, decay), strict=True):
        torch.testing.assert_close(found, wanted)


def test_what_is_validated_is_what_is_kept():
    seen = []

    def validate(model):
        seen.append(model.weight.item())
        return {"loss": abs(model.weight.item() - 3)}

    model = new_model()
    result = train(model, average=0.8, validate=validate, metric="loss")
    assert model.weight.item() == seen[result.best_epoch - 1]


def test_training_itself_is_not_changed():
    plain, with_average = [], []
    train(new_model(), plain)
    train(new_model(), with_average, average=0.9)
    for a, b in zip(plain, with_average, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_a_resumed_run_ends_with_the_same_average(tmp_path):
    whole = new_model()
    train(whole, average=0.9)
    stopped = RuntimeError("stopped")

    def broken(model):
        if len(list(tmp_path.glob("last*"))):
            raise stopped
        return {"loss": 1.0}

    with pytest.raises(RuntimeError, match="stopped"):
        train(new_model(), directory=tmp_path, average=0.9, validate=broken, checkpoint_every_steps=3)
    model = new_model()
    train(model, directory=tmp_path, average=0.9, validate=lambda model: {"loss": -len(str(model))})
    fresh = new_model()
    train(fresh, average=0.9, validate=lambda model: {"loss": -len(str(model))})
    assert torch.equal(model.weight, fresh.weight)


def test_sparse_tables_are_refused():
    with pytest.raises(ConfigError, match="sparse: false"):
        Average(nn.Embedding(4, 2, sparse=True), 0.9)
