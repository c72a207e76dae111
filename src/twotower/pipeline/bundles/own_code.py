"""Code of the user's own that a bundle rests on: named by its manifest, never imported unasked."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from twotower.errors import ConfigError


def own_code(recipe: Mapping[str, Any]) -> tuple[str, ...]:
    """The import paths ``package.module:Class`` of the models and sources of a recipe, as plain data.

    >>> own_code({"models": {"a": {"model": "two-tower"}, "b": {"model": "our_shop.models:Factors"}},
    ...           "cascade": [{"stage": "retrieve", "sources": [{"source": "our_shop.sources:Trending"}]}]})
    ('our_shop.models:Factors', 'our_shop.sources:Trending')
    """
    models = [about.get("model") for about in (recipe.get("models") or {}).values()]
    stages = recipe.get("cascade") or ()
    sources = [source.get("source") for stage in stages for source in stage.get("sources") or ()]
    paths = [path for path in (*models, *sources) if isinstance(path, str) and ":" in path]
    return tuple(dict.fromkeys(paths))


def check_own_code(recipe: Mapping[str, Any], named: Collection[str], directory: Path) -> None:
    """Refuse a bundle whose recipe would import what its user has not named.

    Raises
    ------
    ConfigError
        Says which import paths the bundle needs, and how they are named.
    """
    unnamed = [path for path in own_code(recipe) if path not in named]
    if unnamed:
        options = " ".join(f"--code {path}" for path in unnamed)
        raise ConfigError(
            f"{directory}: rests on code that is not twotower's: {', '.join(unnamed)}. A bundle imports no "
            f"code by itself; if you trust it, name it: {options} (in Python: code={unnamed})"
        )
