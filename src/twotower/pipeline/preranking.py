"""Train a pre-ranker on the lists of a whole funnel."""

from __future__ import annotations

from pathlib import Path

import torch

from twotower.cascade.cascade import Cascade
from twotower.cascade.stage import Stage
from twotower.data.batches import Examples
from twotower.data.full_stage import FullStage, FullStageBatches
from twotower.data.synthetic import Synthetic
from twotower.errors import ConfigError, DataError
from twotower.metrics.consistency import measure_served
from twotower.models.base import Model
from twotower.pipeline.order import share_taught
from twotower.pipeline.prepared import Prepared
from twotower.pipeline.recipe import Recipe
from twotower.pipeline.replay import funnel_log, logged, replay
from twotower.pipeline.served import ServedValidation, Validate, dealt
from twotower.pipeline.teaching import teachers
from twotower.train.events import Listener, silent
from twotower.train.fit import FitResult, fit
from twotower.train.lists import FullStageConfig, FullStageObjective
from twotower.train.protocols import BatchSource
from twotower.train.settings import TrainSettings
from twotower.types import NO_ITEM, Candidates, Ragged


def train_on_stages(
    prepared: Prepared,
    model: Model,
    samples: FullStage,
    objective: FullStageConfig,
    settings: TrainSettings,
    *,
    validate: Validate | None = None,
    directory: Path | None = None,
    events: Listener = silent,
) -> FitResult:
    """Train ``model`` in place on given samples, so that objectives can be compared on the very same ones.

    ``FullStageConfig(softmax=0)`` with nothing of the unexposed roles in ``sample`` is "exposures only".
    """
    return fit(
        model,
        full_stage_batches(prepared, model, samples, objective, settings.batch_size, settings.seed),
        FullStageObjective(prepared.items, objective),
        settings,
        validate=validate,
        directory=directory,
        events=events,
    )


def full_stage_batches(
    prepared: Prepared,
    model: Model,
    samples: FullStage,
    objective: FullStageConfig,
    batch_size: int,
    seed: int,
) -> BatchSource[Examples]:
    """The lists one epoch draws; requests have no context columns of their own, they are missing."""
    return FullStageBatches(
        samples,
        prepared.queries,
        objective.sample,
        prepared.item_counts.nonzero()[:, 0],
        batch_size=batch_size,
        past=prepared.past(prepared.split.train) if model.history is not None else None,
        context=prepared.missing_context(len(samples)),
        seed=seed,
    )


def full_stage_samples(prepared: Prepared, name: str, before: Cascade, teacher: Stage | None) -> FullStage:
    """The samples that the recipe's model ``name`` asks for; see `FullStageConfig`."""
    recipe = prepared.recipe
    objective = recipe.models[name].objective
    assert isinstance(objective, FullStageConfig)
    if objective.source == "log":
        if objective.log is not None:
            return logged(prepared, funnel_log(prepared, objective.log).rows, teacher)
        if not isinstance(recipe.data, Synthetic):
            raise ConfigError(
                f"model {name!r}: source: log, but {recipe.data.reader} data has no stage log; "
                "name the log of what was served: log: {directory: ...}"
            )
        return logged(prepared, recipe.data.stage_log(), teacher)
    depth = _depth(recipe, name)
    return replay(
        prepared,
        before,
        teacher,
        requests=objective.requests,
        positives=objective.positives,
        ranked=min(depth, depth if teacher is None else teacher.k),
        preranked=depth,
    )


def _depth(recipe: Recipe, name: str) -> int:
    """How many candidates the model is to keep: of its own stage; a teacher without one is asked for ten."""
    return next((stage.k for stage in recipe.cascade if name in stage.models), 10)


def served_validation(
    prepared: Prepared, name: str, before: Cascade, teacher: Stage | None
) -> ServedValidation:
    """Judges model ``name`` on validation queries; not on those that it or its teacher learnt lists from."""
    recipe, task = prepared.recipe, prepared.task("valid")
    taught = share_taught(recipe, (name, *teachers(recipe, name)[:1]))
    if taught:
        _, task = dealt(prepared, task, taught)
    if not len(task):
        raise DataError("the valid part has no query to choose by", remedy="choose another split")
    depth = _depth(recipe, name)
    return ServedValidation(prepared, before, task, depth, teacher)


def served_measures(recipe: Recipe, name: str) -> tuple[str, ...]:
    """What `served_validation` will measure of the model, asked of one query without a candidate."""
    depth, by = _depth(recipe, name), teachers(recipe, name)[:1]
    nothing = torch.full((1, 1), NO_ITEM)
    return tuple(
        measure_served(
            Candidates(nothing, torch.zeros(1, 1)),
            Ragged(nothing[0], torch.tensor([0, 1])),
            nothing if by else None,
            depths=[depth],
            k=min([depth, *(_depth(recipe, teacher) for teacher in by)]),
        )
    )
