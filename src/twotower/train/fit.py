"""One training loop for every model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from torch import Tensor

from twotower.train.events import Listener, silent
from twotower.train.precision import seeded, without_denormals
from twotower.train.protocols import BatchSource, E, M
from twotower.train.run import FitResult, Run
from twotower.train.settings import TrainSettings

__all__ = ["FitResult", "fit"]


def fit(
    model: M,
    batches: BatchSource[E],
    objective: Callable[[M, E], Mapping[str, Tensor]],
    settings: TrainSettings,
    *,
    validate: Callable[[M], Mapping[str, float]] | None = None,
    directory: Path | None = None,
    events: Listener = silent,
) -> FitResult:
    """Train ``model`` in place; it ends with its best parameters, on the training device, in eval mode.

    ``objective(model, examples)`` returns named scalar losses, whose sum is minimised. With
    ``state_dict``/``load_state_dict`` (a sampler's generator, running counts) it is saved and resumed too.
    ``validate(model)`` runs in eval mode without gradients.

    With a ``directory`` the run can be stopped at any moment, even by kill -9: the same call continues from
    the last snapshot and ends with the same parameters, bit for bit, as a run that was never stopped (same
    machine and thread count). A finished run returns its result at once.

    Raises
    ------
    TrainingError
        A loss, a gradient or the validation metric is not finite; names epoch, step, term and batch.
    MismatchError
        The directory holds a run of other settings, another model or other data.
    StorageError
        A snapshot could not be written or read.
    Interrupted
        On SIGINT or SIGTERM, after a snapshot was written.
    """
    run = Run(model, batches, objective, settings, validate, directory, events)
    with seeded(settings.seed, run.device), without_denormals(), run.interrupts:
        standing = run.start()
        while not run.is_over():
            for examples in batches.epoch(standing.epoch, standing.step_in_epoch):
                run.step(examples.to(run.device))
                if run.validation_due:
                    run.validate()
                run.save_if_due()
                if run.is_over():
                    break
            else:
                run.end_epoch()
                run.save_if_due()
        return run.finish()
