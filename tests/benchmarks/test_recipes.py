"""The data sets of the pre-ranking benchmark, as recipes: every row is where it should be."""

import os
from pathlib import Path

import pytest

from twotower.pipeline.prepared import Prepared
from twotower.pipeline.recipe import Recipe

RECIPES = Path(__file__).parents[2] / "benchmarks" / "pre_ranking" / "recipes"


def prepared(recipe: str, folder: str) -> Prepared:
    if "TWOTOWER_DATA" not in os.environ:
        pytest.skip("TWOTOWER_DATA is not set")
    path = Path(os.environ["TWOTOWER_DATA"]) / folder
    return Prepared.make(Recipe.load(RECIPES / f"{recipe}.yaml"), path, "raise")


def rows(made: Prepared) -> dict[str, tuple[int, int]]:
    """Events and positives of each part."""
    parts = {part: made.interactions(made.split.part(part)).labels for part in ("train", "valid", "test")}
    return {part: (len(labels), int(labels.sum())) for part, labels in parts.items()}


@pytest.mark.parametrize("recipe", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_recipe_is_well_formed(recipe):
    assert Recipe.load(recipe).name == recipe.stem


@pytest.mark.data
def test_ml_100k():
    made = prepared("ml-100k", "ml-100k")
    assert (len(made.dataset.queries), len(made.dataset.items)) == (943, 1_682)
    assert made.dataset.notes[0].startswith("27,145 events left out")
    assert rows(made) == {"train": (58_521, 44_400), "valid": (7_269, 5_544), "test": (7_065, 5_431)}


@pytest.mark.data
def test_open_bandit():
    made = prepared("open-bandit", "open-bandit-small")
    assert rows(made) == {"train": (32_000, 153), "valid": (4_000, 26), "test": (4_000, 28)}
    assert made.dataset.items["campaign"].value_counts(sort=True).rows() == [("women", 46), ("men", 34)]
    assert len(made.dataset.queries) == 317  # groups of visitors with the same four features
    assert made.dataset.notes == ("207 of 40,000 events are positive (click >= 1)",)  # no item was added
    features = made.dataset.items.select("feature_1", "feature_2", "feature_3")
    assert features.null_count().sum_horizontal().item() == 0
    assert features.n_unique() > 30
    assert made.items["feature_1"].min() > 1  # every hashed feature occurs in training
