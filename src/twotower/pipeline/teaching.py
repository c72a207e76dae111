"""Who teaches whom, as a recipe says it: the models and sources that a model learns from."""

from __future__ import annotations

from typing import TYPE_CHECKING

from twotower.config import nearest
from twotower.models.catalogue import model_class
from twotower.train.lists import FullStageConfig, ListsConfig
from twotower.train.softmax import InBatchConfig

if TYPE_CHECKING:
    from twotower.pipeline.recipe import Recipe


def teachers(recipe: Recipe, name: str) -> tuple[str, ...]:
    """The models that must be trained before ``name`` to teach it, nearest first."""
    found: list[str] = []
    objective = recipe.models[name].objective
    while isinstance(objective, FullStageConfig | ListsConfig) and objective.teacher is not None:
        pupil = found[-1] if found else name
        if objective.teacher not in recipe.models:
            raise ValueError(
                f"model {pupil!r} names the teacher {objective.teacher!r}; models: {sorted(recipe.models)}"
            )
        if objective.teacher in (name, *found):
            raise ValueError(f"model {name!r} is its own teacher: {[*found, objective.teacher]}")
        found.append(objective.teacher)
        objective = recipe.models[objective.teacher].objective
    return tuple(found)


def asked(recipe: Recipe, name: str) -> tuple[str, ...]:
    """The sources and models, by name, whose lists ``name`` learns from; the last one may only score."""
    objective = recipe.models[name].objective
    if isinstance(objective, FullStageConfig):
        return objective.by
    if isinstance(objective, InBatchConfig) and objective.hard is not None:
        return (*objective.hard.by, objective.hard.scorer)
    return ()


def miners(recipe: Recipe, name: str) -> tuple[str, ...]:
    """The models that serve or score what ``name`` learns from, beside the stages before it."""
    objective = recipe.models[name].objective
    hard = objective.hard if isinstance(objective, InBatchConfig) else None
    distils = isinstance(objective, InBatchConfig) and objective.distil is not None
    serve = asked(recipe, name) if hard is None else hard.by
    sources = {source.name: source for source in recipe.sources}
    found = list[str]()
    for who in asked(recipe, name):
        source = sources.get(who)
        model = who if source is None else source.model or source.similar
        if source is None and who not in recipe.models:
            known = [*sources, *recipe.models]
            raise ValueError(
                f"model {name!r}: {who!r} serves nothing to learn from, it is no source or model"
                f"{nearest(who, known)}"
            )
        if model == name:
            raise ValueError(f"model {name!r} cannot learn from what it serves itself, by {who!r}")
        alone = who in serve and source is None
        if alone and model_class(recipe.models[who].model)[0].searched() is None:
            raise ValueError(f"model {name!r}: {who!r} cannot retrieve, it is {recipe.model_kind(who)}")
        scores = source is None or source.lexical is not None or source.model is not None
        if hard is not None and who == hard.scorer and hard.guarded and not scores:
            raise ValueError(
                f"model {name!r}: the source {who!r} scores no given items; name another teacher:"
            )
        asked_to_score = hard is not None and who == hard.scorer and (hard.guarded or distils)
        if asked_to_score and model is not None and recipe.pair_of(model):
            raise ValueError(
                f"model {name!r}: {who!r} reads the pair fields {', '.join(recipe.pair_of(model))}, which "
                "mined items do not have; name another teacher:"
            )
        found += [] if model is None else [model]
    return tuple(dict.fromkeys(found))
