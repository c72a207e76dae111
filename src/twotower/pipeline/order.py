"""Which model of a recipe is trained after which others, and what stands before it then."""

from __future__ import annotations

from collections.abc import Iterable

from twotower.errors import ConfigError
from twotower.pipeline.recipe import Recipe
from twotower.pipeline.stages import StageRecipe
from twotower.pipeline.teaching import asked, miners, teachers
from twotower.train.lists import ListsConfig


def training_order(recipe: Recipe) -> list[str]:
    """All models, each behind its teachers and miners, and the stages whose candidates it learns from.

    Raises
    ------
    ConfigError
        Models that wait for each other.
    """
    in_cascade = [name for stage in recipe.cascade for name in stage.models]
    names = [needed for name in (*in_cascade, *recipe.models) for needed in _needed(recipe, name)]
    return list(dict.fromkeys(names))


def _needed(recipe: Recipe, name: str, waiting: tuple[str, ...] = ()) -> list[str]:
    """The models that must be trained for this one, and itself."""
    waiting = (*waiting, name)
    if name in waiting[:-1]:
        raise ConfigError(f"models wait for each other to be trained: {' for '.join(waiting)}")
    first = [*teachers(recipe, name)[:1], *miners(recipe, name)]
    if learns_from_stages(recipe, name):
        first += [model for stage in stages_before(recipe, name) for model in stage.models]
    return [*(needed for model in first for needed in _needed(recipe, model, waiting)), name]


def learns_from_stages(recipe: Recipe, name: str) -> bool:
    """Whether the model learns from candidates that other stages serve."""
    return recipe.models[name].objective.kind in ("lists", "full-stage")


def stages_before(recipe: Recipe, name: str) -> tuple[StageRecipe, ...]:
    """Stages before the first one that uses the model, or is taught by it: that one is trained later.

    None where the model learns from what others serve (``by``).
    """
    if learns_from_stages(recipe, name) and asked(recipe, name):
        return ()
    for number, stage in enumerate(recipe.cascade):
        if name in stage.models or any(name in teachers(recipe, model) for model in stage.models):
            return recipe.cascade[:number]
    return ()


def share_left_out(recipe: Recipe, name: str) -> float:
    """The share of validation queries that a model by `lists` leaves out, as earlier stages learnt from them.

    The scores these hand over look better there than they will when serving. Each such model learns from its
    own share of what the ones before it left, unless it asks for all.
    """
    objective = recipe.models[name].objective
    if not isinstance(objective, ListsConfig) or objective.queries == "all":
        return 0.0
    earlier = [model for stage in stages_before(recipe, name) for model in stage.models]
    return share_taught(recipe, earlier) if earlier else 0.0


def share_taught(recipe: Recipe, names: Iterable[str] | None = None) -> float:
    """The share of validation queries that any of these models, or of the cascade's, learnt lists from."""
    taught = 0.0
    for name in names or {model for stage in recipe.cascade for model in stage.models}:
        objective = recipe.models[name].objective
        if isinstance(objective, ListsConfig):
            left_out = share_left_out(recipe, name)
            taught = max(taught, left_out + (1 - left_out) * objective.share)
    return taught
