"""From a model and its settings to optimizers: dense parameters on one side, sparse tables on the other."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import Parameter

from twotower.config import nearest
from twotower.errors import ConfigError
from twotower.train.ftrl import FTRL
from twotower.train.rowwise import RowwiseAdagrad, sum_repeated_rows
from twotower.train.settings import TrainSettings

TABLE_LEARNING_RATE = 0.05
"""Default of row-wise Adagrad: its steps shrink as 1/sqrt(visits), so they start larger than Adam's."""


class Optimizer:
    """All optimizers of a model as one.

    Embedding tables with sparse gradients (``nn.Embedding(sparse=True)``, ``nn.EmbeddingBag(sparse=True)``)
    are updated row by row, everything else densely. Matrices decay by ``weight_decay``, embedding tables by
    ``embedding_weight_decay``, vectors and scalars (biases, norms, temperatures) not at all. Frozen
    parameters are left out.

    Raises
    ------
    ConfigError
        There is nothing to train; a name among ``learning_rates`` is that of no dense parameter; or settings
        that an optimizer does not have.
    """

    def __init__(self, model: nn.Module, settings: TrainSettings) -> None:
        names = {id(p): name for name, p in model.named_parameters() if p.requires_grad}
        if not names:
            raise ConfigError(f"{type(model).__name__} has no parameter to train")
        embeddings = [m for m in model.modules() if isinstance(m, nn.Embedding | nn.EmbeddingBag)]
        in_table = {id(m.weight) for m in embeddings}
        sparse = {id(m.weight) for m in embeddings if m.sparse}
        tables: list[Parameter] = []
        groups: defaultdict[tuple[float, float], list[Parameter]] = defaultdict(list)  # by decay, rate
        rate_of = _Rates(settings)
        for parameter in (p for p in model.parameters() if id(p) in names):
            if id(parameter) in sparse:
                tables.append(parameter)
                continue
            decay = settings.weight_decay if parameter.dim() >= 2 else 0.0
            if id(parameter) in in_table:
                decay = settings.embedding_weight_decay
            groups[decay, rate_of(names[id(parameter)])].append(parameter)
        rate_of.check(list(names.values()))
        self.sparse_names = [names[id(p)] for p in tables]
        self._names = names
        self._parts: list[torch.optim.Optimizer] = []
        dense = [{"params": ps, "weight_decay": decay, "lr": rate} for (decay, rate), ps in groups.items()]
        if dense:
            self._parts.append(_dense_optimizer(dense, settings))
        if tables:
            self._parts.append(_table_optimizer(tables, settings))
        self._rates = [[group["lr"] for group in part.param_groups] for part in self._parts]
        self.parameters: list[tuple[str, Parameter]] = [
            (names[id(p)], p) for part in self._parts for group in part.param_groups for p in group["params"]
        ]

    def zero_grad(self) -> None:
        for part in self._parts:
            part.zero_grad(set_to_none=True)

    def gradient_norm(self) -> Tensor:
        """Euclidean norm of the whole gradient, a scalar on the model's device.

        Sums repeated rows of sparse gradients in place first: before that their norm would be wrong.
        """
        norms = []
        for _, parameter in self.parameters:
            if parameter.grad is None:
                continue
            if parameter.grad.is_sparse:
                parameter.grad = sum_repeated_rows(parameter.grad)
            norms.append(torch.linalg.vector_norm(_numbers(parameter.grad), dtype=torch.float32))
        return torch.linalg.vector_norm(torch.stack(norms)) if norms else torch.zeros(())

    def scale_gradients(self, factor: float) -> None:
        """Multiply every gradient; after `gradient_norm`."""
        with torch.no_grad():
            for _, parameter in self.parameters:
                if parameter.grad is not None:
                    _numbers(parameter.grad).mul_(factor)

    def broken_gradients(self) -> list[str]:
        """Names of the parameters whose gradient holds NaN or infinity."""
        return [
            name
            for name, parameter in self.parameters
            if parameter.grad is not None and not torch.isfinite(_numbers(parameter.grad)).all()
        ]

    def step(self, rate_factor: float = 1.0) -> None:
        """One update with every base learning rate multiplied by ``rate_factor``."""
        for part, rates in zip(self._parts, self._rates, strict=True):
            for group, rate in zip(part.param_groups, rates, strict=True):
                group["lr"] = rate * rate_factor
            part.step()

    def state_dict(self) -> dict[str, dict[str, Any]]:
        """State per parameter name; hyper-parameters are not in it, they come from the settings."""
        return {
            self._names[id(p)]: dict(part.state[p])
            for part in self._parts
            for group in part.param_groups
            for p in group["params"]
            if p in part.state
        }

    def load_state_dict(self, state: dict[str, dict[str, Any]]) -> None:
        for part in self._parts:
            ordered = [self._names[id(p)] for group in part.param_groups for p in group["params"]]
            numbered = {number: state[name] for number, name in enumerate(ordered) if name in state}
            part.load_state_dict({**part.state_dict(), "state": numbered})


class _Rates:
    """The learning rate of a parameter by its name: that of the longest beginning, else that of all."""

    def __init__(self, settings: TrainSettings) -> None:
        self.rates, self.of_all = settings.learning_rates, settings.learning_rate
        self.used: set[str] = set()

    def __call__(self, name: str) -> float:
        found = [start for start in self.rates if f"{name}.".startswith(f"{start}.")]
        if not found:
            return self.of_all
        self.used.update(found)
        return self.rates[max(found, key=len)]

    def check(self, names: list[str]) -> None:
        for start in self.rates:
            if start not in self.used:
                tops = sorted({name.partition(".")[0] for name in names})
                raise ConfigError(
                    f"learning_rates: no dense parameter begins with {start!r}{nearest(start, tops)} (tables "
                    "with sparse: true learn by table_learning_rate)"
                )


def _numbers(gradient: Tensor) -> Tensor:
    """The stored values of a gradient, dense or sparse without repeated rows; writing to them changes it."""
    return gradient.values() if gradient.is_sparse else gradient


def _dense_optimizer(groups: list[dict[str, Any]], settings: TrainSettings) -> torch.optim.Optimizer:
    device, rate = groups[0]["params"][0].device.type, settings.learning_rate
    if settings.optimizer == "ftrl":
        _check_ftrl(settings, max(group["weight_decay"] for group in groups))
        if settings.learning_rates:
            raise ConfigError("ftrl finds its own learning rates: leave learning_rates out")
        every = [parameter for group in groups for parameter in group["params"]]
        free = {"params": [p for p in every if p.dim() < 2], "l1": 0.0, "l2": 0.0}
        penalised = {"params": [p for p in every if p.dim() >= 2]}
        parts = [part for part in (penalised, free) if part["params"]]
        return FTRL(parts, lr=rate, **settings.ftrl.plain())
    if settings.optimizer == "adagrad":
        return torch.optim.Adagrad(groups, lr=rate, fused=device == "cpu")
    kind = torch.optim.Adam if settings.optimizer == "adam" else torch.optim.AdamW
    return kind(groups, lr=rate, fused=device in ("cpu", "cuda"))


def _table_optimizer(tables: list[Parameter], settings: TrainSettings) -> torch.optim.Optimizer:
    if settings.table_optimizer == "rowwise_adagrad":
        rate = settings.table_learning_rate or TABLE_LEARNING_RATE
        decay = settings.embedding_weight_decay
        return RowwiseAdagrad(tables, lr=rate, weight_decay=decay)
    rate = settings.table_learning_rate or settings.learning_rate
    if settings.table_optimizer == "ftrl":
        _check_ftrl(settings, settings.embedding_weight_decay)
        return FTRL(tables, lr=rate, **settings.ftrl.plain())
    if settings.embedding_weight_decay:
        raise ConfigError(
            "sparse_adam cannot decay weights: use rowwise_adagrad, or embedding_weight_decay 0"
        )
    return torch.optim.SparseAdam(tables, lr=rate)


def _check_ftrl(settings: TrainSettings, decay: float) -> None:
    if decay:
        raise ConfigError("ftrl has no weight decay: use ftrl: {l1: ..., l2: ...}")
    if settings.schedule != "constant" or settings.warmup_steps:
        raise ConfigError("ftrl finds its own learning rates: schedule must be constant, without warm-up")
