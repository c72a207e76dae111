"""The last and the best state of one run, on disk or in memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from twotower.errors import MismatchError
from twotower.train.average import Average
from twotower.train.checkpoint import load_tree, save_tree
from twotower.train.optimizers import Optimizer
from twotower.train.precision import random_state, restore_random_state
from twotower.train.settings import TrainSettings
from twotower.train.standing import Standing

FORMAT = 1


@runtime_checkable
class Stateful(Protocol):
    """An objective that remembers something: a sampler's generator, running counts."""

    def state_dict(self) -> Mapping[str, Any]: ...
    def load_state_dict(self, state: Mapping[str, Any], /) -> object: ...


class Snapshots:
    """Saves and restores everything a run needs to go on exactly as if it had never stopped.

    In ``directory``: ``last.safetensors`` (model, optimizer, objective, random generators, standing) and
    ``best-<step>.safetensors`` (the model's state dict alone). The last snapshot names the step of its best,
    so the two always belong together, whenever the process dies. Without a directory the best state is kept
    in memory and nothing can be resumed.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        average: Average | None,
        objective: object,
        settings: TrainSettings,
        device: torch.device,
        steps_per_epoch: int | None,
        directory: Path | None,
    ) -> None:
        self.model, self.optimizer, self.average, self.objective = model, optimizer, average, objective
        self.device, self.directory = device, directory
        self._best: dict[str, Tensor] | None = None
        self._identity = {
            "format": FORMAT,
            "device": device.type,
            "steps_per_epoch": steps_per_epoch,
            **settings.decisive(),
        }

    @property
    def last(self) -> Path | None:
        return self.directory / "last.safetensors" if self.directory else None

    def best(self, step: int) -> Path | None:
        return self.directory / f"best-{step:08d}.safetensors" if self.directory else None

    def save(self, standing: Standing) -> None:
        """Write the last snapshot; then drop the best ones it no longer names."""
        if self.directory is None or self.last is None:
            return
        state = {
            "identity": self._identity,
            "standing": asdict(standing),
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
            "objective": self.objective.state_dict() if isinstance(self.objective, Stateful) else None,
            "random": random_state(self.device),
        }
        save_tree(self.last, state)
        for path in self.directory.glob("best-*.safetensors"):
            if standing.best_step is None or path != self.best(standing.best_step):
                path.unlink(missing_ok=True)

    def keep_best(self, step: int) -> None:
        """Remember the model as it is now."""
        state = self.model.state_dict()
        path = self.best(step)
        if path is None:
            self._best = {name: tensor.detach().to("cpu", copy=True) for name, tensor in state.items()}
        else:
            save_tree(path, state)

    def load_best(self, step: int) -> None:
        path = self.best(step)
        state = self._best if path is None else load_tree(path)
        assert state is not None, "a best step without a best state"
        self.model.load_state_dict(state)

    def resume(self) -> Standing | None:
        """Go back to the last snapshot; None when there is none.

        Raises
        ------
        MismatchError
            It comes from other settings, another model, another batch source or another kind of device.
        """
        if self.last is None or not self.last.exists():
            return None
        state = load_tree(self.last)
        self._refuse_if(_differences(state["identity"], self._identity), "settings")
        self._refuse_if(_differences(_shapes(state["model"]), _shapes(self.model.state_dict())), "a model")
        if (state["objective"] is not None) != isinstance(self.objective, Stateful):
            self._refuse_if(["one has a state to restore, the other has none"], "an objective")
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        if isinstance(self.objective, Stateful):
            self.objective.load_state_dict(state["objective"])
        restore_random_state(state["random"], self.device)
        return Standing.of(state["standing"])

    def _refuse_if(self, differences: list[str], what: str) -> None:
        if differences:
            shown = "; ".join(differences[:5]) + ("; ..." if len(differences) > 5 else "")
            raise MismatchError(
                f"{self.last}: was made with {what} unlike this run's: {shown}. "
                "Train into another folder, or delete this one to start afresh"
            )


def _shapes(state: Mapping[str, Tensor]) -> dict[str, object]:
    return {name: f"{tuple(t.shape)} {str(t.dtype).removeprefix('torch.')}" for name, t in state.items()}


def _differences(there: Mapping[str, object], here: Mapping[str, object]) -> list[str]:
    # a setting that came later is None where it was not yet known
    return [
        f"{name} is {there.get(name)} there and {here.get(name)} here"
        for name in {**there, **here}
        if there.get(name) != here.get(name)
    ]
