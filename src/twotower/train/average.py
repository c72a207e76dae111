"""The moving average of the weights along a training: what is validated, kept and served when it is on.

With a constant learning rate the weights wander around where they should be; their average stands still there
(Polyak & Juditsky, 1992; as an exponential average: Tarvainen & Valpola, NeurIPS 2017).

The running statistics of batch normalisation belong to the weights they were taken under. They are averaged
like these, which is the common practice; it is an approximation, since the statistics of averaged weights
are not the average of the statistics. Exact ones would take another pass over the data (Izmailov et al., UAI
2018).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from twotower.errors import ConfigError

STATISTICS = ("running_mean", "running_var")
"""The last part of the names of the buffers that are averaged: what PyTorch's normalisations call them."""


class Average:
    """An exponential moving average of a model's parameters and of its running statistics.

    After step t it forgets at the rate ``min(decay, (1 + t) / (10 + t))``, so that the first steps, which
    are far from the goal, do not linger. All other buffers (counts, ``num_batches_tracked``, what the data
    fixed) stay as the model has them. It costs a copy of what it averages, and a pass over it a step.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        if any(getattr(module, "sparse", False) for module in model.modules()):
            raise ConfigError(
                "average: passes over whole tables at every step; set sparse: false, or average: null"
            )
        self.decay = decay
        statistics = {n: b for n, b in model.named_buffers() if n.rpartition(".")[-1] in STATISTICS}
        self.current: dict[str, Tensor] = {**dict(model.named_parameters()), **statistics}
        self.weights = {name: tensor.detach().clone() for name, tensor in self.current.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in what the model has after step ``step``, counted from 1."""
        share = 1 - min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(self.weights.values()), list(self.current.values()), share)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Inside, the model has the averaged weights and statistics."""
        own = {name: tensor.detach().clone() for name, tensor in self.current.items()}
        self._put(self.weights)
        try:
            yield
        finally:
            self._put(own)

    def state_dict(self) -> dict[str, Tensor]:
        return self.weights

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        for name, weight in self.weights.items():
            # snapshots made before statistics were averaged have none: begin with the model's own
            weight.copy_(state.get(name, self.current[name].detach()))

    @torch.no_grad()
    def _put(self, weights: dict[str, Tensor]) -> None:
        for name, tensor in self.current.items():
            tensor.copy_(weights[name])
