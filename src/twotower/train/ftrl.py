"""FTRL-proximal: online learning of linear models that come out sparse, a learning rate per coordinate.

McMahan et al., "Ad click prediction: a view from the trenches" (KDD 2013), Algorithm 1:

    sigma = (sqrt(n + g^2) - sqrt(n)) / alpha,    z += g - sigma w,    n += g^2
    w = 0                                                              where |z| <= l1
    w = -(z - sign(z) l1) / ((beta + sqrt(n)) / alpha + l2)            elsewhere

``l1`` and ``l2`` weigh on the sum of all losses, once, not on every step as a weight decay does. A gradient
of the mean over B examples is B times smaller than their sum: divide beta, l1 and l2 by B to mean the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, overload

import torch
from torch import Tensor

from twotower.errors import ConfigError
from twotower.train.rowwise import sum_repeated_rows


class FTRL(torch.optim.Optimizer):
    """``lr`` is the paper's alpha; it must not change between steps, since z holds sums divided by it.

    Weights that do not start at zero start as if z had brought them there. A sparse gradient costs time in
    proportion to the rows it names and changes no other; the result is that of the same gradient made dense.

    >>> weight = torch.nn.Parameter(torch.zeros(2))
    >>> optimizer = FTRL([weight], lr=1.0, beta=1.0, l1=0.5)
    >>> weight.grad = torch.tensor([2.0, 0.5])
    >>> optimizer.step()
    >>> weight.tolist()  # -(2 - .5) / (1 + 2); |z| = .5 is not above l1
    [-0.5, 0.0]

    Raises
    ------
    ConfigError
        A rate or a beta that is not positive, or a negative penalty.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float = 0.1,
        beta: float = 1.0,
        l1: float = 0.0,
        l2: float = 0.0,
    ) -> None:
        if lr <= 0 or beta <= 0 or l1 < 0 or l2 < 0:
            raise ConfigError(f"FTRL needs lr, beta > 0 and l1, l2 >= 0; found {lr}, {beta}, {l1}, {l2}")
        super().__init__(params, {"lr": lr, "beta": beta, "l1": l1, "l2": l2})

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...
    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    self._update(weight, weight.grad, group)
        return loss

    def _update(self, weight: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        alpha, beta, l1, l2 = (group[name] for name in ("lr", "beta", "l1", "l2"))
        state = self.state[weight]
        if not state:
            state["n"] = torch.zeros_like(weight)
            state["z"] = -(weight * (beta / alpha + l2) + weight.sign() * l1)
        if not gradient.is_sparse:
            _advance(weight, gradient, state["z"], state["n"], alpha, beta, l1, l2)
            return
        gradient = sum_repeated_rows(gradient)
        rows = gradient.indices()[0]
        whole = (weight, state["z"], state["n"])
        w, z, n = (tensor.index_select(0, rows) for tensor in whole)
        _advance(w, gradient.values(), z, n, alpha, beta, l1, l2)
        for tensor, part in zip(whole, (w, z, n), strict=True):
            tensor.index_copy_(0, rows, part)


def _advance(
    w: Tensor, g: Tensor, z: Tensor, n: Tensor, alpha: float, beta: float, l1: float, l2: float
) -> None:
    """One step of every coordinate, in place."""
    before = n.sqrt()
    n.addcmul_(g, g)
    root = n.sqrt()
    z += g
    z.addcmul_(root - before, w, value=-1 / alpha)
    w.copy_((z.sign() * l1 - z) / ((beta + root) / alpha + l2))
    w.masked_fill_(z.abs() <= l1, 0.0)
