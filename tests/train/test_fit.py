"""The loop: what it measures, keeps, refuses and tells."""

import math
from dataclasses import dataclass, field

import pytest
import torch
from torch import nn

from twotower.errors import ConfigError, TrainingError
from twotower.train.checkpoint import load_tree
from twotower.train.events import EpochEnded, Saved, Started, Step, Stopped, Validated
from twotower.train.fit import fit
from twotower.train.settings import TrainSettings


@dataclass(frozen=True)
class Points:
    x: torch.Tensor
    y: torch.Tensor

    def __len__(self):
        return len(self.x)

    def to(self, device):
        return Points(self.x.to(device), self.y.to(device))


@dataclass
class Line:
    """Noiseless points on a line."""

    steps_per_epoch: int | None = 5
    seen: list = field(default_factory=list)

    def epoch(self, number, start_step=0):
        for step in range(start_step, self.steps_per_epoch or 5):
            self.seen.append((number, step))
            x = torch.randn(8, 1, generator=torch.Generator().manual_seed(100 * number + step))
            yield Points(x, 3 * x + 1)


def squared(model, points):
    return {"squared": (model(points.x) - points.y).square().mean()}


def new_model():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Linear(1, 1)


def run(model=None, batches=None, objective=squared, validate=None, directory=None, **settings):
    told = []
    model = model or new_model()
    settings = TrainSettings(**{"learning_rate": 0.1, "report_every_s": 0, "device": "cpu", **settings})
    result = fit(
        model,
        batches or Line(),
        objective,
        settings,
        validate=validate,
        directory=directory,
        events=told.append,
    )
    return model, result, told


def scripted(*values, name="nDCG@10"):
    """A validation that gives these values one after the other."""
    left = iter(values)
    return lambda model: {"other": 0.0, name: next(left)}


def of(kind, told):
    return [event for event in told if isinstance(event, kind)]


def test_it_learns_and_tells():
    batches = Line()
    model, result, told = run(batches=batches, epochs=40)
    assert float(model.weight.detach()) == pytest.approx(3, abs=1e-2)
    assert float(model.bias.detach()) == pytest.approx(1, abs=1e-2)
    assert batches.seen == [(epoch, step) for epoch in range(40) for step in range(5)]
    assert result.stopped_because == "all 40 epochs done"
    assert (result.best_value, result.best_epoch, result.steps, len(result.history)) == (None, 40, 200, 40)
    assert result.history[-1]["loss/squared"] < 1e-3 < result.history[0]["loss/squared"]
    assert result.examples_per_second > 0
    assert not model.training
    assert [type(event) for event in told[:3]] == [Started, Step, Step]
    assert len(of(Step, told)) == 200
    assert len(of(EpochEnded, told)) == 40
    assert isinstance(told[-1], Stopped)
    assert not of(Saved, told)
    assert of(Step, told)[-1].eta_s == 0
    assert (told[0].parameters, told[0].device, told[0].total_steps) == (2, "cpu", 200)


def test_reported_losses_are_means():
    _, result, told = run(epochs=1)
    losses = [event.loss for event in of(Step, told)]
    assert result.history[0]["loss/squared"] == pytest.approx(sum(losses) / 5)


def test_the_best_epoch_is_what_is_left():
    states = []

    def validate(model):
        states.append(model.weight.detach().clone())
        return {"nDCG@10": [0.1, 0.5, 0.4, 0.5][len(states) - 1]}

    model, result, told = run(epochs=4, validate=validate)
    assert (result.best_value, result.best_epoch) == (0.5, 2)  # a tie does not replace the earlier one
    assert torch.equal(model.weight, states[1])
    assert [event.improved for event in of(Validated, told)] == [True, True, False, False]
    assert [row["nDCG@10"] for row in result.history] == [0.1, 0.5, 0.4, 0.5]


def test_losses_are_minimised_by_their_name():
    _, result, _ = run(epochs=3, validate=scripted(0.5, 0.3, 0.4, name="log_loss"), metric="log_loss")
    assert (result.best_value, result.best_epoch) == (0.3, 2)


def test_patience_runs_out():
    _, result, _ = run(epochs=9, validate=scripted(0.2, 0.1, 0.3, 0.1, 0.2), metric="nDCG@10", patience=2)
    assert (result.best_epoch, result.steps) == (3, 25)
    assert result.stopped_because == "nDCG@10 no better for 2 validations"


def test_validation_every_few_epochs_and_always_at_the_end():
    _, result, told = run(epochs=3, validate_every=2, validate=scripted(0.1, 0.2), metric="nDCG@10")
    assert [(event.epoch, event.step) for event in of(Validated, told)] == [(2, 10), (3, 15)]
    assert [row["epoch"] for row in result.history] == [1, 2, 3, 3]
    assert result.best_epoch == 3


def test_validation_every_few_steps():
    _, result, told = run(
        epochs=2, validate_every=4, validate_unit="step", validate=scripted(0.1, 0.3, 0.2), metric="nDCG@10"
    )
    assert [event.step for event in of(Validated, told)] == [4, 8, 10]
    assert result.best_epoch == 2


def test_max_steps_stop_in_the_middle_of_an_epoch():
    batches = Line()
    _, result, _ = run(batches=batches, max_steps=7, validate=scripted(0.1, 0.2), metric="nDCG@10")
    assert len(batches.seen) == result.steps == 7
    assert result.stopped_because == "all 7 steps done"
    assert [row["step"] for row in result.history] == [5, 7]


def test_validation_runs_in_eval_mode_without_gradients_and_training_goes_on():
    modes = []

    def validate(model):
        modes.append((model.training, torch.is_grad_enabled()))
        return {"AUC": 0.5}

    def objective(model, points):
        assert model.training
        return squared(model, points)

    run(epochs=2, validate=validate, objective=objective)
    assert modes == [(False, False)] * 2


def test_the_sum_of_named_losses_is_minimised():
    def two(model, points):
        return {
            "fit": 0.25 * squared(model, points)["squared"],
            "rest": 0.75 * squared(model, points)["squared"],
        }

    one, _, _ = run(epochs=1)
    both, _, told = run(epochs=1, objective=two)
    torch.testing.assert_close(one.weight, both.weight)
    assert of(Step, told)[0].losses.keys() == {"fit", "rest"}


def test_clipping_reaches_the_optimizer(tmp_path):
    _, _, told = run(max_steps=1, clip_norm=0.5, optimizer="adagrad", directory=tmp_path)
    assert of(Step, told)[0].gradient_norm > 1  # reported as it was
    sums = [state["sum"] for state in load_tree(tmp_path / "last.safetensors")["optimizer"].values()]
    assert float(sum(total.sum() for total in sums)) ** 0.5 == pytest.approx(0.5, rel=1e-5)


def test_learning_rates_follow_the_schedule():
    _, _, told = run(epochs=2, schedule="linear", warmup_steps=2, learning_rate=0.1)
    rates = [event.learning_rate for event in of(Step, told)]
    assert rates == pytest.approx([0.05, 0.1, *(0.1 * (1 - k / 8) for k in range(8))])


def test_same_seed_same_parameters_and_no_trace_outside():
    net = nn.Sequential(nn.Linear(1, 16), nn.Dropout(0.5), nn.Linear(16, 1))
    state = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    before = torch.get_rng_state()
    ends = []
    for seed in (1, 1, 2):
        net.load_state_dict(state)
        run(net, epochs=1, seed=seed)
        ends.append(net[0].weight.detach().clone())
    assert torch.equal(ends[0], ends[1])
    assert not torch.equal(ends[0], ends[2])
    assert torch.equal(torch.get_rng_state(), before)


def test_bf16_runs_its_products_in_bf16():
    kinds = set()

    def objective(model, points):
        out = model(points.x)
        kinds.add(out.dtype)
        return {"squared": (out.float() - points.y).square().mean()}

    model, _, _ = run(epochs=30, precision="bf16", objective=objective)
    assert kinds == {torch.bfloat16}
    assert model.weight.dtype == torch.float32
    assert float(model.weight.detach()) == pytest.approx(3, abs=0.1)


@dataclass
class Poisoned(Line):
    """The third batch of the second epoch holds a NaN."""

    def epoch(self, number, start_step=0):
        for step, points in enumerate(super().epoch(number, start_step)):
            if (number, step) == (1, 2):
                points.x[3] = math.nan
            yield points


def test_a_nan_names_epoch_step_loss_and_batch_and_keeps_the_batch(tmp_path):
    with pytest.raises(TrainingError) as caught:
        run(batches=Poisoned(), directory=tmp_path)
    message = str(caught.value)
    assert message.startswith("epoch 2, step 8: loss 'squared' is nan\n  batch: x (8, 1), y (8, 1)")
    assert "not finite in the batch itself: x" in message
    assert "bad_batch.safetensors" in message
    kept = load_tree(tmp_path / "bad_batch.safetensors")
    assert kept["x"].isnan().flatten().tolist() == [False] * 3 + [True] + [False] * 4


def test_the_step_of_a_nan_is_not_taken():
    model = new_model()
    good, _, _ = run(max_steps=7)
    with pytest.raises(TrainingError):
        run(model, batches=Poisoned())
    assert torch.equal(model.weight, good.weight)


def test_an_infinite_gradient_of_a_finite_loss_is_named():
    def objective(model, points):
        return {"root": (model.bias - model.bias).abs().sqrt().sum() + 0 * model.weight.sum()}

    with pytest.raises(TrainingError, match="epoch 1, step 1: the gradient of bias is not finite"):
        run(objective=objective)


def test_a_batch_that_describes_itself_is_quoted():
    class Spoken(Line):
        def epoch(self, number, start_step=0):
            for points in super().epoch(number, start_step):
                points.x[:] = math.inf
                yield Described(points.x, points.y)

    class Described(Points):
        def to(self, device):
            return self

        def describe(self):
            return "users 17, 4, ..."

    with pytest.raises(TrainingError, match=r"batch: users 17, 4, \.\.\."):
        run(batches=Spoken())


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"patience": 2}, ConfigError, "pass validate"),
        (
            {"validate": lambda model: {"nDCG@10": 1.0}, "metric": "nDCG@1"},
            ConfigError,
            "did you mean 'nDCG@10'",
        ),
        ({"validate": lambda model: {}}, ConfigError, "no metric"),
        ({"validate": lambda model: {"AUC": math.nan}}, TrainingError, "epoch 1, step 5: AUC is NaN"),
        ({"objective": lambda model, points: {}}, ConfigError, "no loss"),
        ({"objective": lambda model, points: {"a": model(points.x)}}, ConfigError, r"'a' has shape \(8, 1\)"),
        ({"batches": Line(steps_per_epoch=None), "schedule": "cosine"}, ConfigError, "max_steps"),
        ({"device": "abacus"}, ConfigError, "abacus"),
    ],
)
def test_what_cannot_work_is_told(arguments, error, words):
    with pytest.raises(error, match=words):
        run(**arguments)


def test_an_empty_source_is_told():
    class Empty(Line):
        def epoch(self, number, start_step=0):
            return iter(())

    with pytest.raises(TrainingError, match="epoch 1 gave no batch"):
        run(batches=Empty())


def test_a_source_that_does_not_know_its_length():
    _, result, told = run(batches=Line(steps_per_epoch=None), epochs=2)
    assert result.steps == 10
    assert of(Step, told)[0].eta_s is None


def test_the_best_model_lies_in_the_directory(tmp_path):
    model, result, told = run(
        epochs=3, validate=scripted(0.1, 0.3, 0.2), metric="nDCG@10", directory=tmp_path
    )
    assert result.best_path == tmp_path / "best-00000010.safetensors"
    state = load_tree(result.best_path)
    assert torch.equal(state["weight"], model.weight)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "best-00000010.safetensors",
        "last.safetensors",
    ]
    assert of(Saved, told)
