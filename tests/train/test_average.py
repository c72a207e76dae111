"""Averaged weights and statistics: what they are, and that they are what is validated, kept and resumed."""

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


def normed_model():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(1, 2), nn.BatchNorm1d(2), nn.Linear(2, 1))


def followed(model):
    """What is averaged, as it stands now."""
    tensors = [*model.parameters(), *(b for n, b in model.named_buffers() if "running" in n)]
    return [tensor.detach().clone() for tensor in tensors]


def train(model, trail=None, directory=None, validate=None, stop_before=None, **settings):
    steps = 0

    def squared(model, points):
        nonlocal steps
        steps += 1
        if steps == stop_before:
            raise RuntimeError("stopped")
        if trail is not None:
            trail.append(followed(model))
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


def test_statistics_of_a_normalisation_are_averaged_like_the_weights_they_belong_to():
    trail, seen = [], []
    plain = normed_model()
    train(plain, trail)
    trail.append(followed(plain))
    model = normed_model()

    def validate(model):
        assert not model.training
        seen.append((followed(model), model[1].num_batches_tracked.item()))
        return {"loss": -float(len(seen))}

    train(model, average=0.7, validate=validate, metric="loss")
    assert [steps for _, steps in seen] == [4, 8, 12], "the counter is the model's own"
    for epoch, (found, _) in enumerate(seen, start=1):
        for tensor, wanted in zip(found, averaged(trail[: 4 * epoch + 1], 0.7), strict=True):
            torch.testing.assert_close(tensor, wanted)
    for kept, last in zip(followed(model), seen[-1][0], strict=True):
        assert torch.equal(kept, last), "what was validated is kept"
    assert not torch.allclose(model[1].running_mean, plain[1].running_mean, rtol=0.01)


@pytest.mark.parametrize("make", [new_model, normed_model])
def test_a_resumed_run_ends_with_the_same_average(make, tmp_path):
    whole, model = make(), make()
    train(whole, average=0.9)
    with pytest.raises(RuntimeError, match="stopped"):
        train(make(), directory=tmp_path, average=0.9, stop_before=8, checkpoint_every_steps=3)
    train(model, directory=tmp_path, average=0.9)
    assert whole.state_dict().keys() == model.state_dict().keys()
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name]), name


def test_a_state_without_statistics_begins_with_the_models_own():
    model = normed_model()
    model[1].running_mean.fill_(7)
    average = Average(model, 0.9)
    old = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    model[1].running_mean.fill_(5)
    average.load_state_dict(old)
    with average.in_place():
        assert not model[0].weight.any()
        assert (model[1].running_mean == 5).all()
    assert model[0].weight.any()


def test_sparse_tables_are_refused():
    with pytest.raises(ConfigError, match="sparse: false"):
        Average(nn.Embedding(4, 2, sparse=True), 0.9)
