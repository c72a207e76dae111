"""Two bundles of tiny runs that differ in everything, built once: look at them, but copy before changing."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from twotower.pipeline.bundles.bundle import Bundle, build
from twotower.pipeline.pipeline import Pipeline
from twotower.pipeline.recipe import Recipe


@dataclass(frozen=True)
class Packed:
    """A bundle, the root it was published below, and the run it was built from."""

    run: Path
    root: Path
    bundle: Bundle


@pytest.fixture(scope="session")
def packed(trained, tmp_path_factory) -> Packed:
    root = tmp_path_factory.mktemp("bundles") / "root"
    return Packed(trained.directory, root, build(trained.directory, root))


@pytest.fixture(scope="session")
def other(tiny, tmp_path_factory) -> Packed:
    """The same recipe on another synthetic world of another size, with another seed; never evaluated."""
    folder = tmp_path_factory.mktemp("other")
    changes = (
        "seed=1",
        "data.seed=1",
        "data.n_items=130",
        "cascade.0.k=25",
        "models.ranker.config.crosses=2",
    )
    pipeline = Pipeline(Recipe.parse(tiny(*changes)), folder / "run")
    pipeline.prepare()
    pipeline.train()
    return Packed(folder / "run", folder / "root", build(folder / "run", folder / "root"))
