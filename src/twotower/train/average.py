"""The moving average of the weights along a training: what is validated, kept and served when it is on.

With a constant learning rate the weights wander around where they should be; their average stands still there
(Polyak & Juditsky, 1992; as an exponential average: Tarvainen & Valpola, NeurIPS 2017).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from twotower.errors import ConfigError


class Average:
    """An exponential moving average of a model's parameters; buffers stay as the model has them.

    After step t it forgets at the rate ``min(decay, (1 + t) / (10 + t))``, so that the first steps, which
    are far from the goal, do not linger. It costs a copy of the parameters, and a pass over them a step.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        if any(getattr(module, "sparse", False) for module in model.modules()):
            raise ConfigError(
                "average: passes over whole tables at every step; set sparse: false, or average: null"
            )
        self.decay = decay
        self.parameters = dict(model.named_parameters())
        self.weights = {name: p.detach().clone() for name, p in self.parameters.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after step ``step``, counted from 1."""
        share = 1 - min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(self.weights.values()), list(self.parameters.values()), share)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Inside, the model has the averaged weights."""
        own = {name: p.detach().clone() for name, p in self.parameters.items()}
        self._put(self.weights)
        try:
            yield
        finally:
            self._put(own)

    def state_dict(self) -> dict[str, Tensor]:
        return self.weights

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        for name, weight in self.weights.items():
            weight.copy_(state[name])

    @torch.no_grad()
    def _put(self, weights: dict[str, Tensor]) -> None:
        for name, parameter in self.parameters.items():
            parameter.copy_(weights[name])
