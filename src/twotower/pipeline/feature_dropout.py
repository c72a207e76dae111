"""FSCD's way to a pre-ranker (Ma et al., SIGIR 2021): a ranker drops fields, the rest is trained on."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from twotower.errors import ConfigError
from twotower.models.base import Model
from twotower.models.fscd import FSCD
from twotower.pipeline.learning import train_model
from twotower.pipeline.prepared import Prepared
from twotower.pipeline.recipe import ModelRecipe
from twotower.train.events import Listener, silent
from twotower.train.run import FitResult


@dataclass(frozen=True)
class Reduced:
    """A ranker on all fields, and the pre-ranker made of it."""

    ranker: FSCD
    pre_ranker: FSCD
    results: tuple[FitResult, FitResult]

    def __str__(self) -> str:
        likely, costs = self.ranker.keep_probabilities.tolist(), self.ranker.costs.tolist()
        lines = ["  field                 cost  keep probability"]
        for name, cost, p in zip(self.ranker.fields, costs, likely, strict=True):
            mark = "*" if name in self.pre_ranker.fields else " "
            lines.append(f"{mark} {name:<20}  {cost:4.2f}  {p:.3f}")
        return "\n".join(lines)


def reduce_fields(
    prepared: Prepared,
    name: str,
    *,
    threshold: float = 0.5,
    epochs: int | None = None,
    directory: Path | None = None,
    events: Listener = silent,
) -> Reduced:
    """Train ``recipe.models[name]``, an ``fscd`` learning pointwise, and a pre-ranker on the fields it keeps.

    The pre-ranker begins with the ranker's parameters; ``epochs`` is how long it trains on, None as long as
    the ranker. With a ``directory`` both trainings go on where they were interrupted.

    Raises
    ------
    ConfigError
        The model is not an ``fscd`` with gates that learns pointwise.
    """
    about = prepared.recipe.models.get(name)
    if about is None or about.model != "fscd" or about.objective.kind != "pointwise":
        raise ConfigError(f"{name!r} is no model of kind fscd that learns pointwise")
    if about.config.get("gate") is False:
        raise ConfigError(f"model {name!r} has no gates to choose fields by; set gate: true")
    ranker, first = train_model(prepared, name, directory=directory and directory / "ranker", events=events)
    assert isinstance(ranker, FSCD)
    changes = {"gate": False, "keep": ranker.kept(threshold)}
    pre_ranker, second = train_model(
        _with(prepared, name, about, changes, epochs),
        name,
        start=lambda model: _fscd(model).inherit(ranker),
        directory=directory and directory / "pre_ranker",
        events=events,
    )
    return Reduced(ranker, _fscd(pre_ranker), (first, second))


def _with(
    prepared: Prepared, name: str, about: ModelRecipe, changes: dict[str, Any], epochs: int | None
) -> Prepared:
    """The same data, for a recipe whose model has other options."""
    train = about.train if epochs is None else about.train.model_copy(update={"epochs": epochs})
    model = about.model_copy(update={"config": {**about.config, **changes}, "train": train})
    recipe = prepared.recipe.model_copy(update={"models": {**prepared.recipe.models, name: model}})
    return replace(prepared, recipe=recipe)


def _fscd(model: Model) -> FSCD:
    assert isinstance(model, FSCD)
    return model
