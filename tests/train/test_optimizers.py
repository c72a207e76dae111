import copy
import math

import pytest
import torch
from torch import nn

from twotower.errors import ConfigError
from twotower.train.optimizers import Optimizer
from twotower.train.settings import TrainSettings


class Net(nn.Module):
    def __init__(self, sparse=True):
        super().__init__()
        torch.manual_seed(0)
        self.table = nn.Embedding(20, 4, sparse=sparse)
        self.norm = nn.LayerNorm(4)
        self.out = nn.Linear(4, 1)

    def forward(self, rows):
        return self.out(self.norm(self.table(rows))).square().sum()


def gradients(model, rows):
    model.zero_grad()
    model(rows).backward()
    return {
        name: p.grad.to_dense() if p.grad.is_sparse else p.grad.clone()
        for name, p in model.named_parameters()
    }


@pytest.fixture(autouse=True)
def own_random_numbers():
    with torch.random.fork_rng():
        yield


def test_only_matrices_decay_unless_tables_are_asked_for():
    def decays(**settings):
        optimizer = Optimizer(Net(sparse=False), TrainSettings(**settings))
        groups = [group for part in optimizer._parts for group in part.param_groups]
        names = {id(p): name for name, p in optimizer.parameters}
        return {names[id(p)]: group["weight_decay"] for group in groups for p in group["params"]}

    quiet = {"norm.weight": 0.0, "norm.bias": 0.0, "out.bias": 0.0}
    assert decays(weight_decay=0.1) == {"table.weight": 0.0, "out.weight": 0.1, **quiet}
    both = decays(weight_decay=0.1, embedding_weight_decay=0.2)
    assert both == {"table.weight": 0.2, "out.weight": 0.1, **quiet}


@pytest.mark.parametrize("sparse", [True, False])
def test_norm_and_clipping_count_repeated_rows_once(sparse):
    model, rows = Net(sparse), torch.tensor([3, 3, 7, 3])
    optimizer = Optimizer(model, TrainSettings())
    expected = math.sqrt(sum(float(g.square().sum()) for g in gradients(model, rows).values()))
    assert float(optimizer.gradient_norm()) == pytest.approx(expected, rel=1e-5)
    optimizer.scale_gradients(0.5 / expected)
    assert float(optimizer.gradient_norm()) == pytest.approx(0.5, rel=1e-5)
    assert not sparse or model.table.weight.grad.is_coalesced()


@pytest.mark.parametrize("kind", ["adam", "adamw", "adagrad"])
def test_dense_parameters_follow_torch(kind):
    ours, theirs = Net(sparse=False), Net(sparse=False)
    reference = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "adagrad": torch.optim.Adagrad}[kind]
    expected = reference(theirs.parameters(), lr=0.01, weight_decay=0.0)
    optimizer = Optimizer(ours, TrainSettings(optimizer=kind, learning_rate=0.01))
    for step in range(4):
        rows = torch.arange(step, step + 5)
        gradients(ours, rows), gradients(theirs, rows)
        optimizer.step()
        expected.step()
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine, other)


@pytest.mark.parametrize("kind", ["rowwise_adagrad", "sparse_adam", "ftrl"])
def test_untouched_rows_of_sparse_tables_stay(kind):
    model = Net()
    before = model.table.weight.detach().clone()
    optimizer = Optimizer(model, TrainSettings(table_optimizer=kind))
    gradients(model, torch.tensor([1, 2, 2]))
    optimizer.step()
    changed = (model.table.weight.detach() != before).any(1)
    assert changed.nonzero().flatten().tolist() == [1, 2]


def test_the_schedule_scales_both_learning_rates():
    optimizer = Optimizer(Net(), TrainSettings(learning_rate=0.01, table_learning_rate=0.4))
    optimizer.step(0.5)
    rates = {name: part.param_groups[0]["lr"] for name, part in zip("dt", optimizer._parts, strict=True)}
    assert rates == {"d": 0.005, "t": 0.2}


@pytest.mark.parametrize("kind", ["adam", "adamw", "adagrad"])
def test_parameters_may_have_a_rate_of_their_own_by_how_their_names_begin(kind):
    """Against one optimizer of torch per rate; the longest beginning counts, whole words of it."""
    rates = {"out": 0.1, "out.bias": 0.02, "no": 5.0}
    model, reference = Net(sparse=False), Net(sparse=False)
    with pytest.raises(ConfigError, match=r"no dense parameter begins with 'no'; did you mean 'norm'\?"):
        Optimizer(model, TrainSettings(optimizer=kind, learning_rates=rates))
    del rates["no"]
    ours = Optimizer(model, TrainSettings(optimizer=kind, learning_rate=0.01, learning_rates=rates))
    make = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "adagrad": torch.optim.Adagrad}[kind]
    others = [*reference.table.parameters(), *reference.norm.parameters()]
    more = {} if kind == "adagrad" else {"weight_decay": 0.0}
    theirs = [
        (make(parameters, lr=rate, **more), rate)
        for parameters, rate in ((others, 0.01), ([reference.out.weight], 0.1), ([reference.out.bias], 0.02))
    ]
    for rows, factor in ((torch.tensor([1, 2]), 1.0), (torch.tensor([2, 5]), 0.5)):
        gradients(model, rows)
        gradients(reference, rows)
        ours.step(factor)
        for one, rate in theirs:
            one.param_groups[0]["lr"] = rate * factor
            one.step()
    for mine, other in zip(model.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(mine, other)


def test_rates_by_name_are_for_dense_parameters_of_optimizers_that_take_rates():
    with pytest.raises(ConfigError, match="tables with sparse: true learn by table_learning_rate"):
        Optimizer(Net(), TrainSettings(learning_rates={"table": 0.1}))
    with pytest.raises(ConfigError, match="leave learning_rates out"):
        Optimizer(Net(), TrainSettings(optimizer="ftrl", learning_rates={"out": 0.1}))


def test_settings_without_rates_by_name_say_nothing_of_them():
    assert "learning_rates" not in TrainSettings().plain()
    assert TrainSettings(learning_rates={"head": 1e-3}).plain()["learning_rates"] == {"head": 1e-3}


@pytest.mark.parametrize("kind", ["rowwise_adagrad", "sparse_adam", "ftrl"])
def test_state_by_name_continues_exactly(kind):
    settings = TrainSettings(table_optimizer=kind)
    first, second = Net(), Net()
    one, two = Optimizer(first, settings), Optimizer(second, settings)
    gradients(first, torch.tensor([1, 4]))
    one.step()
    second.load_state_dict(first.state_dict())
    two.load_state_dict(copy.deepcopy(one.state_dict()))  # a checkpoint copies, memory does not
    for optimizer, model in ((one, first), (two, second)):
        gradients(model, torch.tensor([4, 5]))
        optimizer.step()
    for mine, other in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(mine, other)


def test_frozen_parameters_are_left_out_and_a_frozen_model_is_refused():
    model = Net()
    model.out.requires_grad_(False)
    assert "out.weight" not in dict(Optimizer(model, TrainSettings()).parameters)
    with pytest.raises(ConfigError, match="no parameter to train"):
        Optimizer(model.requires_grad_(False), TrainSettings())


def test_broken_gradients_are_named():
    model = Net()
    optimizer = Optimizer(model, TrainSettings())
    gradients(model, torch.tensor([1]))
    model.norm.bias.grad[0] = math.inf
    optimizer.gradient_norm()
    assert optimizer.broken_gradients() == ["norm.bias"]


def test_sparse_adam_cannot_decay():
    with pytest.raises(ConfigError, match="rowwise_adagrad"):
        Optimizer(Net(), TrainSettings(table_optimizer="sparse_adam", embedding_weight_decay=0.1))


def test_ftrl_penalises_matrices_and_tables_but_no_bias():
    model = Net()
    optimizer = Optimizer(
        model,
        TrainSettings(optimizer="ftrl", table_optimizer="ftrl", ftrl={"beta": 2.0, "l1": 0.1, "l2": 3.0}),
    )
    found = {
        name: (group["beta"], group["l1"], group["l2"])
        for part in optimizer._parts
        for group in part.param_groups
        for name, parameter in optimizer.parameters
        if any(parameter is p for p in group["params"])
    }
    heavy, free = (2.0, 0.1, 3.0), (2.0, 0.0, 0.0)
    quiet = {"norm.weight": free, "norm.bias": free, "out.bias": free}
    assert found == {"table.weight": heavy, "out.weight": heavy, **quiet}


@pytest.mark.parametrize(
    "settings", [{"embedding_weight_decay": 0.1}, {"schedule": "cosine"}, {"warmup_steps": 5}]
)
@pytest.mark.parametrize("part", ["optimizer", "table_optimizer"])
def test_ftrl_takes_no_decay_and_no_schedule(part, settings):
    with pytest.raises(ConfigError, match="ftrl"):
        Optimizer(Net(sparse=part == "table_optimizer"), TrainSettings(**{part: "ftrl"}, **settings))
