"""Which device, which number format, and which random numbers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import torch
from torch import Tensor

from twotower.errors import ConfigError


def choose_device(wanted: str = "auto") -> tuple[torch.device, str]:
    """The device to train on, and the reason in words.

    >>> choose_device("cpu")
    (device(type='cpu'), 'as set')

    Raises
    ------
    ConfigError
        ``wanted`` is no device, or one this machine or this build of torch does not have.
    """
    if wanted == "auto":
        if torch.cuda.is_available():
            name = torch.cuda.get_device_name()
            return torch.device("cuda", torch.cuda.current_device()), f"auto: CUDA found, {name}"
        return torch.device("cpu"), f"auto: no CUDA device, {torch.get_num_threads()} threads"
    try:
        device = torch.device(wanted)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"device {wanted!r} cannot be used: {reason}; try 'auto' or 'cpu'") from None
    if wanted == "cuda":
        device = torch.device("cuda", torch.cuda.current_device())
    return device, "as set"


def autocast(device: torch.device, precision: str) -> AbstractContextManager[object]:
    """Forward passes inside run matrix products in bfloat16 when ``precision`` is "bf16".

    bfloat16 and not float16: it needs no loss scaling, and CPUs have matrix units for it.
    """
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16")


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Inside, torch's own generators (dropout) start from ``seed``; outside they go on untouched."""
    on_cuda = device.type == "cuda"
    with torch.random.fork_rng(devices=[device] if on_cuda else []):
        torch.default_generator.manual_seed(seed)
        if on_cuda:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield


def random_state(device: torch.device) -> dict[str, Tensor]:
    """State of the generators that `seeded` governs."""
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def restore_random_state(state: dict[str, Tensor], device: torch.device) -> None:
    torch.set_rng_state(state["cpu"])
    if device.type == "cuda":
        torch.cuda.set_rng_state(state["cuda"], device)


@contextmanager
def without_denormals() -> Iterator[None]:
    """Inside, CPU arithmetic of this thread rounds numbers below 1e-38 to zero; outside it is as it was.

    The moments that Adam keeps of a weight whose gradient has become zero (a unit that no longer fires)
    shrink by a tenth per step: after some 800 steps they are denormal, for which CPUs take up to a hundred
    times as long. `benchmarks/denormals.py` measures what that costs.
    """
    before = bool(
        torch.tensor(torch.finfo(torch.float32).tiny) / 2 == 0
    )  # torch can set the mode, not tell it
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(before)
