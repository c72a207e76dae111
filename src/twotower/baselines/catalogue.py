"""Baselines by the name a recipe gives them."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from twotower.baselines.base import Baseline
from twotower.baselines.ease import EASE
from twotower.baselines.ials import IALS
from twotower.baselines.item_knn import ItemKNN
from twotower.baselines.popularity import Popularity, RecentPopularity
from twotower.config import nearest
from twotower.errors import ConfigError

BASELINES: dict[str, type[Baseline]] = {
    "popularity": Popularity,
    "recent-popularity": RecentPopularity,
    "item-knn": ItemKNN,
    "ease": EASE,
    "ials": IALS,
}


def make_baseline(name: str, options: Mapping[str, Any]) -> tuple[str, Baseline]:
    """A baseline that has learned nothing yet, and its label."""
    check_options(name, options)
    return label_of(name, options), BASELINES[name](**options)


def label_of(name: str, options: Mapping[str, Any]) -> str:
    """What reports call a baseline: it says how it was made.

    >>> label_of("recent-popularity", {"days": 30})
    'recent-popularity(days=30)'
    """
    return f"{name}({', '.join(f'{k}={v}' for k, v in options.items())})" if options else name


def check_options(name: str, options: Mapping[str, Any]) -> None:
    """A `ConfigError` for a baseline or an option that does not exist; names the nearest that does."""
    if name not in BASELINES:
        raise ConfigError(f"no baseline is called {name!r}{nearest(name, BASELINES)}")
    known = inspect.signature(BASELINES[name]).parameters
    for option in options:
        if option not in known:
            raise ConfigError(f"baseline {name}: unknown option {option!r}{nearest(option, known)}")
