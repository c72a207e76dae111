"""One training run in progress: the steps that the loop in `fit` strings together."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Generic

import torch
from torch import Tensor

from twotower.config import nearest
from twotower.errors import ConfigError, TrainingError
from twotower.train.average import Average
from twotower.train.bad_batch import describe, save_batch
from twotower.train.events import EpochEnded, Listener, Saved, Started, Step, Stopped, Validated
from twotower.train.interrupts import Interrupted, Interrupts
from twotower.train.optimizers import Optimizer
from twotower.train.precision import autocast, choose_device
from twotower.train.protocols import BatchSource, E, M
from twotower.train.schedule import rate_factor
from twotower.train.settings import TrainSettings
from twotower.train.snapshots import Snapshots
from twotower.train.standing import Standing, Tally


@dataclass(frozen=True)
class FitResult:
    """How a run went. Epochs count from 1; ``history`` has a row per epoch and per validation."""

    best_value: float | None  # None without validation: the last state is then the best one
    best_epoch: int
    steps: int
    history: tuple[Mapping[str, float], ...]
    seconds: float
    examples_per_second: float
    stopped_because: str
    best_path: Path | None  # state dict of the final model, when there is a directory


class Run(Generic[M, E]):
    """What the loop in `fit` is made of."""

    def __init__(
        self,
        model: M,
        batches: BatchSource[E],
        objective: Callable[[M, E], Mapping[str, Tensor]],
        settings: TrainSettings,
        validate: Callable[[M], Mapping[str, float]] | None,
        directory: Path | None,
        events: Listener,
    ) -> None:
        if settings.patience and validate is None:
            raise ConfigError("patience needs a validation to lose patience with: pass validate, or unset it")
        self.model, self.objective, self.settings = model, objective, settings
        self.validator, self.directory, self.events = validate, directory, events
        self.device, self.device_reason = choose_device(settings.device)
        self.steps_per_epoch = batches.steps_per_epoch
        self.total_steps = settings.total_steps(self.steps_per_epoch)
        self._rate_factor(settings.warmup_steps)  # a schedule without an end is refused before any work
        model.to(self.device)
        self.optimizer = Optimizer(model, settings)
        self.average = Average(model, settings.average) if settings.average else None
        self.snapshots = Snapshots(
            model,
            self.optimizer,
            self.average,
            objective,
            settings,
            self.device,
            self.steps_per_epoch,
            directory,
        )
        self.interrupts = Interrupts()
        self.standing = Standing()
        self._lap_at = self._saved_at = self._reported_at = time.perf_counter()
        self._steps_here = self._unsaved_steps = 0
        self._seconds_here = 0.0  # training in this session: the base of the time left
        self._unsaved_best = self._was_over = False
        self._unreported, self._unreported_seconds = Tally(), 0.0  # since the last report

    def start(self) -> Standing:
        """Resume, or begin; says which."""
        self.standing = self.snapshots.resume() or self.standing
        self._was_over = self.is_over()
        sizes = {name: parameter.numel() for name, parameter in self.optimizer.parameters}
        self.events(
            Started(
                device=str(self.device),
                reason=self.device_reason,
                precision=self.settings.precision,
                parameters=sum(sizes.values()),
                sparse_parameters=sum(sizes[name] for name in self.optimizer.sparse_names),
                epochs=self.settings.epochs,
                steps_per_epoch=self.steps_per_epoch,
                total_steps=self.total_steps,
                resumed_at_step=self.standing.step,
            )
        )
        self.model.train()
        self._lap()
        return self.standing

    def is_over(self) -> bool:
        return bool(self.standing.stopped_because)

    def step(self, examples: E) -> None:
        """Forward, backward, check, update, report."""
        self.optimizer.zero_grad()
        with autocast(self.device, self.settings.precision):
            terms = self.objective(self.model, examples)
        self._check_terms(terms)
        torch.autograd.backward(functools.reduce(torch.add, terms.values()))
        # one transfer for all numbers: on a GPU each would wait for the device
        numbers = [*(term.detach().float() for term in terms.values()), self.optimizer.gradient_norm()]
        *values, norm = torch.stack(numbers).tolist()
        losses = dict(zip(terms, values, strict=True))
        if not all(map(math.isfinite, [*values, norm])):
            raise self._derailed(losses, examples)
        if self.settings.clip_norm is not None and norm > self.settings.clip_norm:
            self.optimizer.scale_gradients(self.settings.clip_norm / norm)
        factor = self._rate_factor(self.standing.step)
        self.optimizer.step(factor)
        self.standing.count(losses, len(examples))
        if self.average is not None:
            self.average.update(self.standing.step)
        self._unreported.count(losses, len(examples))
        seconds = self._lap()
        self.standing.train_seconds += seconds
        self._seconds_here += seconds
        self._unreported_seconds += seconds
        self._steps_here += 1
        self._unsaved_steps += 1
        if self._lap_at - self._reported_at >= self.settings.report_every_s:
            self._report(norm, factor)
        if self.settings.max_steps is not None and self.standing.step >= self.settings.max_steps:
            self.standing.stopped_because = f"all {self.settings.max_steps:,} steps done"

    @property
    def validation_due(self) -> bool:
        """Whether this very step asks for a validation."""
        settings = self.settings
        return settings.validate_unit == "step" and self.standing.step % settings.validate_every == 0

    def validate(self) -> None:
        """Measure, note, keep the best, lose patience; nothing when there is no validation."""
        if self.validator is not None:
            with self._as_served():
                self._validate(self.validator)

    def _as_served(self) -> AbstractContextManager[None]:
        """Inside, the model has the weights that would be kept."""
        return nullcontext() if self.average is None else self.average.in_place()

    def _validate(self, validator: Callable[[M], Mapping[str, float]]) -> None:
        self.model.eval()
        with torch.no_grad():
            metrics = {name: float(value) for name, value in validator(self.model).items()}
        self.model.train()
        standing, metric = self.standing, self.settings.metric or next(iter(metrics), "")
        if metric not in metrics:
            raise ConfigError(f"validate returned no metric {metric!r}{nearest(metric, metrics)}")
        if math.isnan(metrics[metric]):
            raise TrainingError(f"epoch {standing.shown_epoch}, step {standing.step}: {metric} is NaN")
        standing.note(metrics)
        improved = standing.judge(metrics[metric], self.settings.minimises(metric))
        if improved:
            self.snapshots.keep_best(standing.step)
            self._unsaved_best = True
        elif self.settings.patience is not None and standing.misses >= self.settings.patience:
            standing.stopped_because = f"{metric} no better for {standing.misses} validations"
        assert standing.best_value is not None
        self._lap()
        self.events(
            Validated(
                epoch=standing.shown_epoch,
                step=standing.step,
                metrics=metrics,
                metric=metric,
                best_value=standing.best_value,
                improved=improved,
                misses=standing.misses,
            )
        )

    def end_epoch(self) -> None:
        standing = self.standing
        if standing.step_in_epoch == 0:
            raise TrainingError(f"epoch {standing.epoch + 1} gave no batch: the training set is empty")
        if (
            self.settings.validate_unit == "epoch"
            and standing.shown_epoch % self.settings.validate_every == 0
        ):
            self.validate()
        if standing.tally.steps:
            standing.note({})
        measured = {name: v for name, v in standing.history[-1].items() if name not in ("epoch", "step")}
        self.events(EpochEnded(standing.shown_epoch, standing.step, standing.seconds, measured))
        standing.epoch, standing.step_in_epoch = standing.epoch + 1, 0
        if standing.epoch == self.settings.epochs and not standing.stopped_because:
            standing.stopped_because = f"all {self.settings.epochs} epochs done"

    def save_if_due(self) -> None:
        """Write a snapshot when it is time; after a signal, write one and stop."""
        if (
            self.interrupts.received is not None
            or self._unsaved_best
            or time.perf_counter() - self._saved_at >= self.settings.checkpoint_every_s
            or self._unsaved_steps >= (self.settings.checkpoint_every_steps or math.inf)
        ):
            self._save()
        self._stop_if_asked()

    def finish(self) -> FitResult:
        """Measure the last state if that is owed, go back to the best one, and sum up."""
        standing = self.standing
        if self.validator is not None and standing.validated_step != standing.step:
            self.validate()
        if standing.tally.steps:
            standing.note({})
        if standing.best_step is None:  # nothing was measured: the last state is the one to keep
            standing.best_step, standing.best_epoch = standing.step, standing.shown_epoch
            with self._as_served():
                self.snapshots.keep_best(standing.step)
        if not self._was_over:
            self._save()
        self.snapshots.load_best(standing.best_step)
        self.model.eval()
        assert standing.best_epoch is not None
        result = FitResult(
            best_value=standing.best_value,
            best_epoch=standing.best_epoch,
            steps=standing.step,
            history=tuple(standing.history),
            seconds=standing.seconds,
            examples_per_second=standing.examples / max(standing.train_seconds, 1e-9),
            stopped_because=standing.stopped_because,
            best_path=self.snapshots.best(standing.best_step),
        )
        self.events(
            Stopped(
                epoch=standing.shown_epoch,
                step=standing.step,
                because=standing.stopped_because,
                best_value=standing.best_value,
                best_epoch=standing.best_epoch,
                seconds=standing.seconds,
                examples_per_second=result.examples_per_second,
            )
        )
        self._stop_if_asked()  # the run is complete, but whoever called it was asked to stop as well
        return result

    def _check_terms(self, terms: Mapping[str, Tensor]) -> None:
        if not terms:
            raise ConfigError("the objective returned no loss at all")
        for name, term in terms.items():
            if term.dim():
                raise ConfigError(
                    f"loss {name!r} has shape {tuple(term.shape)}, expected a scalar: take its mean"
                )

    def _derailed(self, losses: Mapping[str, float], examples: E) -> TrainingError:
        """The error that names where, what and which batch; keeps the batch when there is a directory."""
        standing = self.standing
        broken = [f"loss {name!r} is {value}" for name, value in losses.items() if not math.isfinite(value)]
        if not broken:
            names = self.optimizer.broken_gradients()
            broken = [f"the gradient of {', '.join(names) or 'all parameters together'} is not finite"]
        lines = [
            f"epoch {standing.epoch + 1}, step {standing.step + 1}: {'; '.join(broken)}",
            f"  batch: {describe(examples)}",
        ]
        if self.directory is not None:
            path = self.directory / "bad_batch.safetensors"
            save_batch(path, examples)
            lines.append(f"  the batch was saved in {path}")
        lines.append("  remedy: look for NaN in the features, lower learning_rate, or set clip_norm")
        return TrainingError("\n".join(lines))

    def _rate_factor(self, step: int) -> float:
        settings = self.settings
        return rate_factor(step, settings.schedule, settings.warmup_steps, self.total_steps)

    def _report(self, gradient_norm: float, factor: float) -> None:
        left = None
        if self.total_steps is not None:
            left = (self.total_steps - self.standing.step) * self._seconds_here / self._steps_here
        self.events(
            Step(
                epoch=self.standing.shown_epoch,
                step=self.standing.step,
                total_steps=self.total_steps,
                losses=self._unreported.mean_losses(),
                gradient_norm=gradient_norm,
                learning_rate=self.settings.learning_rate * factor,
                examples_per_second=self._unreported.examples / max(self._unreported_seconds, 1e-9),
                eta_s=left,
            )
        )
        self._unreported, self._unreported_seconds = Tally(), 0.0
        self._reported_at = time.perf_counter()

    def _save(self) -> None:
        self._lap()
        self.snapshots.save(self.standing)
        self._unsaved_best, self._unsaved_steps = False, 0
        self._saved_at = time.perf_counter()
        if self.snapshots.last is not None:
            self.events(Saved(self.standing.step, str(self.snapshots.last)))
        self._lap()

    def _stop_if_asked(self) -> None:
        received = self.interrupts.received
        if received is None:
            return
        where = f"epoch {self.standing.shown_epoch}, step {self.standing.step}"
        then = "nothing was saved, because no directory was given"
        if self.directory is not None:
            then = f"saved in {self.directory}; run the same again to continue from there"
        raise Interrupted(f"stopped by {received.name} in {where}: {then}", received)

    def _lap(self) -> float:
        """Seconds since the last call, added to the run's wall clock."""
        now = time.perf_counter()
        seconds, self._lap_at = now - self._lap_at, now
        self.standing.seconds += seconds
        return seconds
