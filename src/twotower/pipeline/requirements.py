"""What a recipe requires, found wanting before hours of training: objectives that fit their models, packages,
devices, and indexes that can be built."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from twotower.data.collection import Collection
from twotower.data.positives import Positive
from twotower.errors import ConfigError
from twotower.index.build import IndexConfig, build_index
from twotower.models.base import Model
from twotower.models.catalogue import MODELS, model_class
from twotower.optional import require
from twotower.pipeline.stages import RetrieveRecipe, SourceRecipe
from twotower.train.counting import learns_by_counting
from twotower.train.precision import choose_device

if TYPE_CHECKING:
    from twotower.pipeline.recipe import Recipe

NEEDED_BY = {
    "item-knn": ("scipy.sparse",),
    "ease": ("scipy.sparse",),
    "ials": ("threadpoolctl", "scipy.sparse", "implicit.cpu.als"),
}
"""Baseline -> modules of the extra ``baselines`` that it asks for once it is fitted; those that the others of
them import come first, so that it is they who are named."""


def check_positive(recipe: Recipe) -> None:
    """Refuse a threshold of nothing; a resolved recipe holds the default one, so that says nothing."""
    rule, judged = recipe.positive, isinstance(recipe.data, Collection)
    if rule.label is None and rule.at_least != Positive().at_least and not judged:
        raise ValueError(
            f"positive: at_least: {rule.at_least:g} needs a label: without one every event is positive; "
            f"name the label, as in positive: {{label: rating, at_least: {rule.at_least:g}}}"
        )


def check_objective(recipe: Recipe, name: str) -> None:
    """Refuse an objective that the model cannot learn by, as far as its class and its config tell."""
    about = recipe.models[name]
    cls, by, pair = model_class(about.model)[0], about.objective.kind, recipe.pair_of(name)
    who = f"model {name!r}: {about.model}"
    if by == "counts":
        if not learns_by_counting(cls):
            raise ValueError(f"{who} learns by gradients; objective: counts is for models that count")
    elif about.model in MODELS and learns_by_counting(cls):  # an `update` of one's own may mean anything
        raise ValueError(f"{who} counts; objective: {{kind: counts}}")
    if by == "full-stage" and pair:
        raise ValueError(
            f"{who} scores with the pair fields {', '.join(pair)}, which exposed and random candidates of "
            "full-stage lists do not have; take them out of its config"
        )
    # joint models do learn on sampled items; that their epochs cannot be compared is said before training
    joint = cls.kind == "joint" and by in ("in-batch", "full-softmax")
    if joint or (pair and by in ("in-batch", "full-softmax", "sampled")):
        raise ValueError(cannot_rank_all(name, about.model, cls.kind, pair))


def cannot_rank_all(name: str, model: str, kind: str, pair: Sequence[str] = ()) -> str:
    """Why a model has no objective over the catalogue.

    >>> cannot_rank_all("m", "dcn-v2", "joint")
    "model 'm': dcn-v2 (joint) cannot rank the whole catalogue; train it on lists or pointwise"
    """
    only = f" (its pair fields, {', '.join(pair)}, come with lists only)" if pair else ""
    why = f"{model} ({kind}) cannot rank the whole catalogue"
    return f"model {name!r}: {why}; train it on lists or pointwise{only}"


def require_extras(recipe: Recipe) -> None:
    """Ask for the packages of baselines and indexes, which else are asked for after all training.

    Raises
    ------
    MissingExtra
        One is not installed.
    """
    measured = recipe.baselines if recipe.cascade else ()  # beside a cascade, or not at all
    fitted = [*(s.baseline for s in recipe.sources), *(b.name for b in measured)]
    for module in dict.fromkeys(module for name in fitted for module in NEEDED_BY.get(name or "", ())):
        require(module, extra="baselines")
    if any(index.kind == "faiss" for _, index, _ in _indexes(recipe)):
        require("faiss", extra="faiss")


def check_device(recipe: Recipe, name: str) -> None:
    """Refuse a device that there is not, by the name of the model that is to be trained on it."""
    try:
        choose_device(recipe.models[name].train.device)
    except ConfigError as error:
        raise ConfigError(f"model {name!r}: {error}") from None


def has_factory(recipe: Recipe, name: str) -> bool:
    """Whether an index of the model is made by a factory string of the recipe's own."""
    return bool(_factories(recipe, name))


def check_factories(recipe: Recipe, name: str, model: Model) -> None:
    """Refuse factory strings that FAISS makes no index of, for vectors as long as the model's.

    Only how many vectors there must be to train it is not known yet: an empty one is made.
    """
    for index, similar in _factories(recipe, name):
        wanted = "vector" if similar else model.searched()
        sizes = [spec.shape[0] for spec in model.item_specs() if spec.name == wanted and spec.shape]
        if not sizes:
            continue  # nothing to search: who builds the index says what the model keeps instead
        content = getattr(model, "dim", None) if similar else None
        floats = sizes[0] if content is None else min(sizes[0], content)
        try:
            build_index(index, torch.empty(0, floats))
        except ConfigError as error:
            raise ConfigError(
                f"no index with factory={index.factory!r} can be made of vectors with {floats} floats: "
                f"{_reason(error)}"
            ) from None


def _factories(recipe: Recipe, name: str) -> list[tuple[IndexConfig, bool]]:
    """Indexes of a model with a factory that is not the default, which is known to be good."""
    return [
        (index, similar)
        for model, index, similar in _indexes(recipe)
        if model == name and index.kind == "faiss" and index.factory != IndexConfig().factory
    ]


def _indexes(recipe: Recipe) -> list[tuple[str, IndexConfig, bool]]:
    """Key of the model, index, and whether it compares items with those of the history."""
    found = list[tuple[str, IndexConfig, bool]]()
    for about in (*recipe.cascade[:1], *recipe.sources):
        if not isinstance(about, RetrieveRecipe | SourceRecipe) or not isinstance(about.index, IndexConfig):
            continue
        if about.model is not None:
            found.append((about.model, about.index, False))
        elif isinstance(about, SourceRecipe) and about.similar is not None:
            found.append((about.similar, about.index, True))
    return found


def _reason(error: ConfigError) -> str:
    """FAISS's own words without the C++ function and file they come from, or ours."""
    words = str(error.__cause__ or error).strip()
    return re.sub(r"^Error in .* at \S+:\d+: (Error: )?", "", words)
