"""COLD's choice of groups: made once per data set, read by the row trained with it, told on the page."""

from dataclasses import asdict, replace

import pytest

pytest.importorskip("optuna", reason="the benchmarks' packages (extra: bench) are not installed")

from benchmarks.pre_ranking import groups
from benchmarks.pre_ranking.search import FIRST

from twotower.pipeline.selection import GroupSearch, Subset

ONE = Subset("top-2", ("user", "movie"), 0.61, 1.0, 64)
ALL = Subset("top-3", ("user", "movie", "user x genres"), 0.62, 2.0, 96)
FOUND = GroupSearch({"user": 0.9, "movie": 0.8, "user x genres": 0.1}, (ONE, ALL))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(groups, "groups_path", lambda data: tmp_path / f"{data}.json")
    monkeypatch.setattr(groups, "best", lambda name: {"params": FIRST})
    return tmp_path


def test_the_chosen_groups_are_those_the_row_is_trained_with(folder, monkeypatch):
    with pytest.raises(LookupError, match="run the step groups first"):
        groups.recipe_on("ml-100k", "cold-chosen", FIRST)
    asked = []

    def search_groups(recipe, name, directory, **how):
        asked.append((recipe.models[name].model, recipe.seed))
        return FOUND

    monkeypatch.setattr(groups, "search_groups", search_groups)
    made = groups.choose_groups("ml-100k")
    assert made["chosen"] == ["user", "movie"]  # all of them take more than the share
    assert groups.choose_groups("ml-100k")["subsets"][1]["gauc"] == asdict(ALL)["gauc"]
    assert asked == [("cold", 0)]
    config = groups.recipe_on("ml-100k", "cold-chosen", FIRST)["config"]
    assert (config["keep"], config["gate"]) == (["user", "movie"], False)
    assert "keep" not in groups.recipe_on("ml-100k", "cold", FIRST)["config"]
    text = groups.table(folder)
    assert "| `ml-100k` | 2 (chosen) | 0.6100 | 1.00 | 64 | user (0.90), movie (0.80) |" in text
    assert "| `ml-100k` | 3 | 0.6200 | 2.00 | 96 | user x genres (0.10) |" in text


def test_where_no_subset_is_fast_enough_none_is_chosen(folder, monkeypatch):
    slow = GroupSearch(FOUND.gates, (replace(FOUND.subsets[0], us_per_candidate=1.9), FOUND.subsets[1]))
    monkeypatch.setattr(groups, "search_groups", lambda *args, **how: slow)
    assert groups.choose_groups("ml-100k")["chosen"] == []
    with pytest.raises(LookupError, match="no subset of cold's groups takes at most 70%"):
        groups.recipe_on("ml-100k", "cold-chosen", FIRST)
    assert "chosen)" not in groups.table(folder)
