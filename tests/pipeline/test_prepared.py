"""Prepared data: saved, loaded, and asked."""

import polars as pl
import pytest
import torch

from twotower.errors import ConfigError
from twotower.pipeline.prepared import Prepared
from twotower.pipeline.recipe import Recipe


@pytest.fixture(scope="module")
def prepared(tiny):
    return Prepared.make(Recipe.parse(tiny()), None, "raise")


def test_loading_gives_what_was_saved(prepared, tmp_path):
    prepared.save(tmp_path)
    loaded = Prepared.load(prepared.recipe, tmp_path)
    for name in ("events", "queries", "items"):
        assert getattr(loaded.dataset, name).equals(getattr(prepared.dataset, name))
    assert loaded.dataset.schema == prepared.dataset.schema
    assert loaded.dataset.notes == prepared.dataset.notes
    assert loaded.features.digest() == prepared.features.digest()
    for part in ("train", "valid", "test"):
        assert loaded.split.part(part).equals(prepared.split.part(part))
    for name, column in prepared.items.items():
        assert torch.equal(loaded.items[name], column)


def test_features_are_fitted_on_training_events_only(prepared):
    trained = set(prepared.split.train["item"])
    known = set(prepared.features.vocabulary("item").values)
    assert known == trained
    assert len(prepared.dataset.items) > len(known)


def test_a_model_may_read_some_of_the_fields(prepared):
    spec = prepared.spec(("user", "item", "history"))
    assert [column.name for column in spec.columns] == ["user", "item", "history"]
    assert prepared.spec(None) is prepared.features.spec
    with pytest.raises(
        ConfigError, match=r"no field 'categroy' that can be encoded; did you mean 'category'\?"
    ):
        prepared.spec(("categroy",))
    with pytest.raises(ConfigError, match="no field 'title'"):  # a text is for people
        prepared.spec(("title",))


def test_labels_are_what_the_rule_calls_positive(prepared):
    events = prepared.split.test
    found = prepared.interactions(events)
    assert found.labels.tolist() == (events["click"] >= 1).cast(float).to_list()
    assert len(prepared.positives(events)) == int(events["click"].sum())


def test_warm_queries_have_a_positive_before_the_part(tiny, prepared):
    warm = Prepared.make(Recipe.parse(tiny("evaluate.queries=warm")), None, "raise").task("test")
    everyone = prepared.task("test")
    positive = prepared.positives(prepared.split.history("test")).query_keys
    expected = [key for key in everyone.query_keys.tolist() if (positive == key).any()]
    assert warm.query_keys.tolist() == expected
    assert 0 < len(warm) < len(everyone)


def test_what_counts_as_seen_is_chosen(tiny, prepared):
    """Impressions: shown but not clicked may come back, if the recipe says so."""
    lenient = Prepared.make(Recipe.parse(tiny("evaluate.seen=positive")), None, "raise").task("test")
    strict = prepared.task("test")
    assert len(lenient.seen.values) < len(strict.seen.values)
    assert lenient.query_keys.tolist() == strict.query_keys.tolist()
    for row in range(len(strict)):
        assert set(lenient.seen[row].tolist()) == set(strict.history[row].tolist())


def test_context_belongs_to_a_request_and_is_missing_in_a_task(prepared):
    query = prepared.task("test").query
    assert (query["device"] == 1).all()
    assert {"device", "position", "user", "history"} <= query.keys()


def test_without_a_history_there_is_no_such_column(tiny):
    plain = tiny("history=null")
    for model in plain["models"].values():
        model["features"].remove("history")
        del model["config"]["history"]
    prepared = Prepared.make(Recipe.parse(plain), None, "raise")
    assert prepared.past(prepared.split.train) is None
    assert "history" not in prepared.task("test").query


def test_changes_to_the_readers_schema(tiny):
    prepared = Prepared.make(
        Recipe.parse(tiny("fields.item.min_count=40", "fields.price.buckets=4")), None, "raise"
    )
    assert prepared.dataset.schema["item"].min_count == 40
    assert prepared.features.spec["price"].kind == "category"
    assert prepared.features.vocabulary("item").size < 100


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("fields.itme.dropout=0.1", "the data has no field 'itme'; did you mean 'item'"),
        ("fields.item.droput=0.1", "fields.item: unknown key 'droput'; did you mean 'dropout'"),
        ("positive.label=clikc", "'clikc' is no label of the data; did you mean 'click'"),
    ],
)
def test_a_recipe_that_does_not_fit_the_data_says_where(tiny, change, message):
    with pytest.raises(ConfigError, match=message):
        Prepared.make(Recipe.parse(tiny(change)), None, "raise")


def test_a_reader_of_files_needs_files(tiny):
    with pytest.raises(ConfigError, match="the movielens reader reads files: say where with --data"):
        Prepared.make(Recipe.parse(tiny("data={reader: movielens}")), None, "raise")


def test_a_history_may_leave_out_events_by_a_yes_or_no_column(tiny, prepared):
    plain = Prepared.make(Recipe.parse(tiny("history.only=sure", "history.events=all")), None, "raise")
    events = plain.split.train.with_row_index("n").with_columns(sure=pl.col("n") % 3 > 0).drop("n")
    past = plain.past(events)
    assert len(past.history) == int(events["sure"].sum())
    with pytest.raises(ConfigError, match=r"history\.only: 'sure' is no yes/no column"):
        plain.past(plain.split.train)
