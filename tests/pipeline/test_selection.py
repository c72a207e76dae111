"""The search for feature groups: what it trains, measures, remembers and chooses."""

import json

import pytest
import torch

from twotower.data.spec import Column, FeatureSpec
from twotower.errors import ConfigError, StorageError
from twotower.models.catalogue import load_model
from twotower.pipeline import selection
from twotower.pipeline.prepared import Prepared
from twotower.pipeline.recipe import Recipe
from twotower.pipeline.selection import GroupSearch, Subset, mean_gates, search_groups
from twotower.pipeline.validation import LabelledEvents

COLD = {
    "model": "cold",
    "features": ["user", "country", "history", "item", "category", "tags"],
    "config": {
        "embedding": 4,
        "layers": [16, 8],
        "crosses": [["country", "category"]],
        "buckets": 64,
        "history": {"kind": "mean"},
    },
    "objective": {"kind": "pointwise"},
    "train": {"epochs": 1, "batch_size": 256, "learning_rate": 0.01},
}


@pytest.fixture(scope="module")
def recipe(tiny) -> Recipe:
    return Recipe.parse({**tiny("cascade=[]"), "models": {"pre": COLD}})


@pytest.fixture(scope="module")
def searched(recipe, tmp_path_factory):
    directory, said = tmp_path_factory.mktemp("runs") / "search", []
    search = search_groups(recipe, "pre", directory, sizes=(2, 5), candidates=20, requests=3, say=said.append)
    return directory, search, said


def test_the_gates_rank_every_group_and_the_subsets_follow_them(searched):
    _, search, said = searched
    ranked = list(search.gates)
    assert set(ranked) == {*COLD["features"], "country x category"}
    assert list(search.gates.values()) == sorted(search.gates.values(), reverse=True)
    assert all(0 < gate < 1 for gate in search.gates.values())
    assert search.subsets[-1].groups == tuple(ranked), "all groups are always tried"
    for subset in search.subsets:
        assert subset.groups == tuple(ranked[: len(subset.groups)])
        assert 0 <= subset.gauc <= 1
        assert subset.us_per_candidate > 0
    assert any("mean gates" in line for line in said)


def test_each_subset_was_trained_without_a_gate_and_measured(searched, recipe):
    directory, search, _ = searched
    prepared = Prepared.make(recipe, None, "raise")
    valid = LabelledEvents(prepared, prepared.split.valid, prepared.split.history("valid"))
    for subset in search.subsets:
        model = load_model(directory / "models" / subset.model)
        assert model.gate is None
        assert set(model.groups) == set(subset.groups)
        assert model.bytes_per_item == subset.bytes_per_item
        assert valid.measure(model)["GAUC"] == pytest.approx(subset.gauc)


def test_mean_gates_are_means_over_single_events(searched, recipe):
    directory = searched[0]
    prepared = Prepared.make(recipe, None, "raise")
    model = load_model(directory / "models" / "gate")
    few = prepared.split.valid.head(150)
    valid = LabelledEvents(prepared, few, prepared.split.history("valid"), rows=40)
    each = []
    for examples in valid.batches.epoch(0):
        for row in range(len(examples)):
            query = model.encode_query(examples.query.slice(row, row + 1))
            item = model.encode_item(prepared.items.take(examples.items[row : row + 1]))
            each.append(model.gates(query, item)[0, 0].detach())
    expected = dict(zip(model.groups, torch.stack(each).mean(0).tolist(), strict=True))
    assert mean_gates(model, valid) == pytest.approx(expected)


def test_a_finished_search_is_read_and_an_interrupted_one_goes_on(searched, recipe, monkeypatch):
    directory, search, _ = searched
    again = {"sizes": (2, 5), "candidates": 20, "requests": 3}
    assert search_groups(recipe, "pre", directory, **again) == search
    assert GroupSearch.load(directory / "groups.json") == search
    (directory / "groups.json").unlink()
    monkeypatch.setattr("twotower.pipeline.pipeline.train_model", None)  # nothing is trained twice
    repeated = search_groups(recipe, "pre", directory, **again)
    assert [s.gauc for s in repeated.subsets] == [s.gauc for s in search.subsets]


def test_the_choice_is_the_best_within_the_budget():
    subsets = [
        Subset("top-2", ("a", "b"), 0.70, 1.0, 8),
        Subset("top-3", ("a", "b", "c"), 0.74, 2.0, 16),
        Subset("top-4", ("a", "b", "c", "d"), 0.74, 4.0, 16),
    ]
    search = GroupSearch({"a": 0.9, "b": 0.8, "c": 0.5, "d": 0.1}, tuple(subsets))
    assert search.choose() == subsets[1], "as good as all of them, and faster"
    assert search.choose(max_us=1.5) == subsets[0]
    assert search.choose(max_share=0.5) == subsets[1]
    assert search.choose(max_us=3, max_share=0.25) == subsets[0], "both limits hold"
    with pytest.raises(ConfigError, match="fastest subset of the groups takes 1"):
        search.choose(max_us=0.5)
    assert subsets[0].config == {"gate": False, "keep": ["a", "b"]}
    assert "c (0.500)" in str(search)


def test_sizes_that_leave_a_side_without_a_field_are_passed_over():
    spec = FeatureSpec(
        columns=tuple(
            Column(name=n, kind="category", side=s, size=3)
            for n, s in [("a", "query"), ("b", "context"), ("c", "item"), ("d", "item")]
        )
    )
    sizes = [len(s) for s in selection._subsets(("a", "b x c", "b", "c", "d"), None, spec)]
    assert sizes == [4, 5]
    assert [len(s) for s in selection._subsets(("a", "c", "b", "d"), (2,), spec)] == [2, 4]


def test_what_cannot_be_searched_is_an_error(recipe, tmp_path):
    with pytest.raises(ConfigError, match="'other' is no model of kind cold"):
        search_groups(recipe, "other", tmp_path)
    config = {**COLD["config"], "pair": ["retrieve_score"]}
    paired = Recipe.parse({**recipe.plain(), "models": {"pre": {**COLD, "config": config}}})
    with pytest.raises(ConfigError, match="pair fields"):
        search_groups(paired, "pre", tmp_path)


def test_a_damaged_record_says_what_to_do(tmp_path):
    path = tmp_path / "groups.json"
    path.write_text(json.dumps({"gates": {}}))
    with pytest.raises(StorageError, match="remove it"):
        GroupSearch.load(path)
