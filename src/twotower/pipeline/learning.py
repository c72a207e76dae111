"""Train one model of a recipe: its batches, its objective, and what chooses among its epochs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from twotower.cascade.cascade import Cascade
from twotower.cascade.stage import Stage
from twotower.config import nearest
from twotower.data.batches import EventBatches, Examples, ListBatches
from twotower.data.collection import Collection
from twotower.data.full_stage import TEACHER_SCORE
from twotower.data.hard_negatives import HardNegatives, Judged
from twotower.data.sequences import SequenceBatches
from twotower.errors import ConfigError, DataError
from twotower.evaluate.experiment import request_of
from twotower.metrics.ranking import average
from twotower.models.base import Model
from twotower.models.catalogue import make_model
from twotower.pipeline.encoding import Meter
from twotower.pipeline.order import share_left_out
from twotower.pipeline.prepared import Prepared
from twotower.pipeline.preranking import (
    full_stage_batches,
    full_stage_samples,
    served_measures,
    served_validation,
)
from twotower.pipeline.recipe import Recipe
from twotower.pipeline.requirements import cannot_rank_all, check_factories, has_factory
from twotower.pipeline.served import Validate, dealt, gains_of, rescore, scores_by, serve
from twotower.pipeline.validation import CATALOGUE_MEASURES, LabelledEvents, rank_catalogue
from twotower.train.counting import count
from twotower.train.events import Listener, silent
from twotower.train.fit import FitResult, fit
from twotower.train.lists import FullStageConfig, ListsConfig
from twotower.train.objectives import CountsConfig, make_objective
from twotower.train.optimizers import Optimizer
from twotower.train.protocols import BatchSource
from twotower.train.softmax import InBatchConfig, SampledConfig
from twotower.types import Batch

LIST_MEASURES = ("nDCG@10",)  # of the candidates that a list-wise ranker was served


def train_model(
    prepared: Prepared,
    name: str,
    *,
    before: Cascade | None = None,
    teacher: Stage | None = None,
    hard: HardNegatives | None = None,
    start: Callable[[Model], object] | None = None,
    directory: Path | None = None,
    events: Listener = silent,
) -> tuple[Model, FitResult]:
    """Train ``recipe.models[name]``; ``before`` is the cascade whose lists a list-wise ranker learns from.

    ``teacher`` is the trained stage that a pre-ranker learns from on full-stage samples, ``hard`` what was
    mined for an in-batch objective that asks for it (`twotower.pipeline.mining`).
    ``start`` may change the fresh model, to start warm. With a directory the training resumes where it was
    interrupted.
    """
    recipe = prepared.recipe
    about = recipe.models[name]
    torch_seed = recipe.seed + 1  # initialisation and batch order differ by seed, and from each other
    with torch.random.fork_rng():
        torch.manual_seed(torch_seed)
        model = make_model(about.model, prepared.spec(about.features), about.config)
    model.see_items(prepared.items)
    if isinstance(about.objective, CountsConfig):  # always of everything: a warm start would count twice
        return model, _counted(prepared, model, about.train.metric)
    if start is not None:
        start(model)
    judged = None if hard is not None else known_positives(prepared, name)
    objective = make_objective(
        about.objective, prepared.items, prepared.item_counts, recipe.seed, hard, judged
    )
    batches, validate = _source(prepared, name, model, before, teacher, events)
    settings = about.train.model_copy(update={"seed": recipe.seed})
    result = fit(model, batches, objective, settings, validate=validate, directory=directory, events=events)
    return model.cpu().eval(), result


def check_settings(prepared: Prepared, name: str) -> None:
    """Refuse what recipe, data and a fresh model tell of training that would fail, or of its index.

    A metric that validation does not measure, validation on a catalogue that the model cannot rank, learning
    rates of no parameter, a factory that makes no index of the model's vectors.
    """
    recipe, about = prepared.recipe, prepared.recipe.models[name]
    metric, measured = about.train.metric, measured_for(recipe, name)
    if metric is not None and metric not in measured:
        raise ConfigError(
            f"model {name!r}: metric is {metric!r}, but its validation measures {', '.join(measured)}"
            f"{nearest(metric, measured)}"
        )
    if isinstance(about.objective, SampledConfig) and recipe.model_kind(name) == "joint":
        raise ConfigError(cannot_rank_all(name, about.model, "joint"))
    if not (about.train.learning_rates or has_factory(recipe, name)):
        return
    with torch.random.fork_rng():
        model = make_model(about.model, prepared.spec(about.features), about.config)
    try:
        if about.train.learning_rates:
            Optimizer(model, about.train)
        check_factories(recipe, name, model)
    except ConfigError as error:
        raise ConfigError(f"model {name!r}: {error}") from None


def measured_for(recipe: Recipe, name: str) -> tuple[str, ...]:
    """Names of what the validation of a model measures; it is chosen by the first one, if by no other."""
    objective = recipe.models[name].objective
    if isinstance(objective, FullStageConfig) or (isinstance(objective, ListsConfig) and objective.teacher):
        return served_measures(recipe, name)
    if isinstance(objective, ListsConfig):
        return LIST_MEASURES
    pointwise = isinstance(objective, CountsConfig) or objective.kind == "pointwise"
    return LabelledEvents.MEASURES if pointwise else CATALOGUE_MEASURES


def known_positives(prepared: Prepared, name: str) -> Judged | None:
    """The training positives that the model's objective shall mask; None if it shall not, or masks nothing.

    Where it is not said: of collections, whose queries have many answers in a batch, and without a history.
    """
    objective, recipe = prepared.recipe.models[name].objective, prepared.recipe
    if not isinstance(objective, InBatchConfig | SampledConfig):
        return None
    masked = objective.mask_known
    if masked is None:
        masked = isinstance(recipe.data, Collection) or recipe.history is None
    if not masked or not prepared.item_counts.any():
        return None
    positives = prepared.positives(prepared.split.train)
    return Judged.of(positives.query_keys, positives.item_keys, prepared.n_items)


def _source(
    prepared: Prepared,
    name: str,
    model: Model,
    before: Cascade | None,
    teacher: Stage | None,
    events: Listener,
) -> tuple[BatchSource[Examples], Validate]:
    """What the model reads, and how its epochs are compared."""
    about, recipe = prepared.recipe.models[name], prepared.recipe
    size, train = about.train.batch_size, prepared.split.train
    source: BatchSource[Examples]
    if isinstance(about.objective, ListsConfig):
        if before is None:
            raise ConfigError(f"model {name!r} learns from lists, but no stage stands before it")
        return _lists(prepared, name, before, teacher, about.objective)
    if isinstance(about.objective, FullStageConfig):
        if before is None:
            raise ConfigError(
                f"model {name!r} learns to serve what is retrieved, but no stage stands before it"
            )
        samples = full_stage_samples(prepared, name, before, teacher)
        source = full_stage_batches(prepared, model, samples, about.objective, size, recipe.seed)
        return source, served_validation(prepared, name, before, teacher)
    past = prepared.past(train) if model.history is not None else None
    if about.objective.kind == "pointwise":
        source = EventBatches(
            prepared.interactions(train),
            prepared.queries,
            batch_size=size,
            past=past,
            strict_time=prepared.strict_time,
            seed=recipe.seed,
        )
        valid = LabelledEvents(prepared, prepared.split.valid, prepared.split.history("valid"))
        return source, lambda model: valid.measure(model)
    if model.kind not in ("dot", "late") or model.pair_fields:  # a class of one's own need not have said so
        raise ConfigError(cannot_rank_all(name, about.model, model.kind, model.pair_fields))
    task = prepared.task("valid")
    if not len(task):
        raise DataError("the valid part has no positive to choose by", remedy="choose another split")

    def by_ranking(model: Model) -> dict[str, float]:
        return rank_catalogue(model, prepared.items, task, Meter(events, f"items of {name} for validation"))

    # every event of a sequence is a target, so its history must hold nothing but positives
    pure = recipe.history is None or recipe.history.events == "positive" or recipe.positive.label is None
    if about.batches == "sequences" and not pure:
        raise ConfigError(f"model {name!r}: batches: sequences needs history: {{events: positive}}")
    sequences = about.batches == "sequences" or (about.batches == "auto" and past is not None and pure)
    if sequences and recipe.weights is not None:
        raise ConfigError(
            f"model {name!r}: weights belong to events; sequences have none (set batches: events)"
        )
    if not sequences:
        positives = prepared.positives(train)
        source = EventBatches(
            positives,
            prepared.queries,
            batch_size=size,
            past=past,
            strict_time=prepared.strict_time,
            seed=recipe.seed,
        )
        return source, by_ranking
    if past is None:
        raise ConfigError(f"model {name!r}: batches: sequences needs a model with a history")
    queries = prepared.known_columns(torch.arange(len(prepared.dataset.queries)))
    source = SequenceBatches(
        past, queries, batch_size=size, windows="all", horizon=about.horizon, seed=recipe.seed
    )
    return source, by_ranking


def _counted(prepared: Prepared, model: Model, metric: str | None) -> FitResult:
    """One pass over the training events."""
    parts = prepared.split
    valid = LabelledEvents(prepared, parts.valid, parts.history("valid"))
    return count(model, prepared.interactions(parts.train), prepared.items, valid.measure, metric)


def _lists(
    prepared: Prepared, name: str, before: Cascade, teacher: Stage | None, config: ListsConfig
) -> tuple[BatchSource[Examples], Validate]:
    """The candidates the cascade serves to validation queries: most of them teach, the others choose."""
    task = prepared.task("valid")
    left_out = share_left_out(prepared.recipe, name)
    learn, select = dealt(prepared, task, config.share, left_out)
    if not len(learn) or not len(select):
        raise DataError(
            f"model {name!r}: {len(task)} validation queries are too few to learn from lists"
            + (f": earlier stages learnt from {left_out:.1%} of them" if left_out else ""),
            remedy="give the models that learn from lists a smaller share, or the valid part more queries",
        )
    served = serve(before, learn)
    pair = served.pair
    if teacher is not None:
        taught = scores_by(teacher, request_of(learn), served.keys, pair)
        pair = Batch({**pair, TEACHER_SCORE: taught})
    source = ListBatches(
        torch.arange(len(learn)),
        served.keys,
        learn.query,
        batch_size=prepared.recipe.models[name].train.batch_size,
        labels=gains_of(served.keys, learn, prepared),
        pair=pair,
        seed=prepared.recipe.seed,
    )
    if teacher is not None:
        return source, served_validation(prepared, name, before, teacher)
    held = serve(before, select)

    def by_lists(model: Model) -> dict[str, float]:
        keys = rescore(model, prepared.items, select, held).keys
        return {name: average(values).value for name, values in select.measure(keys, LIST_MEASURES).items()}

    return source, by_lists
