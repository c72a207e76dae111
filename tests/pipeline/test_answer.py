"""Answers for one query: known, or described."""

import time
from types import SimpleNamespace

import pytest
import torch

from twotower.cascade.deadline import Budget
from twotower.cascade.fuse import Fuse
from twotower.cascade.predicates import Predicate
from twotower.cascade.retrieve import Retrieve
from twotower.cascade.stage import Request
from twotower.data.funnel import Funnel
from twotower.data.funnel_part import FunnelSampling
from twotower.errors import ConfigError, DataError
from twotower.pipeline.answerer import Answerer
from twotower.pipeline.pipeline import Pipeline
from twotower.pipeline.recipe import Recipe
from twotower.schema import Schema
from twotower.types import Batch

USER = 1000001


@pytest.fixture(scope="module")
def answerer(trained):
    return Answerer.open(trained.directory)


def items(answer):
    return answer.items["item"].to_list()


def test_a_known_user_gets_k_items_not_seen_before(answerer):
    answer = answerer.answer(user=USER, k=7)
    seen = set(answerer.events.filter(answerer.events["user"] == USER)["item"])
    assert answer.items["rank"].to_list() == list(range(1, 8))
    assert not seen & set(items(answer))
    assert answer.items.columns == ["rank", "item", "title", "retrieve score", "rank score"]
    scores = answer.items["rank score"].to_list()
    assert scores == sorted(scores, reverse=True)


def test_ids_may_come_as_words(answerer):
    assert items(answerer.answer(user=str(USER))) == items(answerer.answer(user=USER))


def test_titles_belong_to_their_items(answerer):
    answer, table = answerer.answer(user=USER), answerer.prepared.dataset.items
    titles = dict(zip(table["item"], table["title"], strict=True))
    assert answer.items["title"].to_list() == [titles[item] for item in items(answer)]


def test_k_above_the_depths_deepens_the_stages(answerer):
    assert len(answerer.answer(features={}, k=50).items) == 50


def test_k_above_the_catalogue_gives_all_that_is_left(answerer):
    answer = answerer.answer(user=USER, k=1000)
    seen = answerer.events.filter(answerer.events["user"] == USER)["item"].n_unique()
    assert len(answer.items) == 120 - seen


def test_depths_are_asked_by_stage(answerer):
    answer = answerer.answer(user=USER, k=5, depths={"retrieve": 12})
    assert [(s.stage, s.asked) for s in answer.trace.steps] == [("retrieve", 12), ("rank", 5)]
    assert len(answerer.answer(user=USER, depths={"retrieve": 0}).items) == 0
    with pytest.raises(ConfigError, match="no stage is called"):
        answerer.answer(user=USER, depths={"prerank": 3})


def test_depths_that_leave_fewer_than_asked_are_named(answerer):
    assert answerer.answer(user=USER, k=1000).limited_by == {}  # all there are
    answer = answerer.answer(user=USER, k=9, depths={"retrieve": 4})
    assert (len(answer.items), answer.limited_by) == (4, {"retrieve": 4})
    assert answer.plain()["limited_by"] == {"retrieve": 4}
    assert answer.text().endswith("\nfewer than asked for, limited by depth: retrieve=4")


def test_sources_that_limit_an_answer_are_named(answerer):
    first, last = answerer.cascade.stages
    one, other = (Retrieve(first.model, first.index, k=k, name=name) for name, k in (("a", 3), ("b", 5)))
    united = Answerer(answerer.prepared, Fuse([one, other], name="retrieve") >> last)
    assert len(united.answer(features={}, k=40).items) == 40  # sources look as deep as is asked for
    answer = united.answer(features={}, k=40, depths={"a": 3, "b": 5})
    assert (len(answer.items), answer.limited_by) == (5, {"a": 3, "b": 5})  # what a finds, b finds too
    assert united.answer(features={}, k=40, depths={"a": 3}).limited_by == {}
    assert united.answer(features={}, k=5).limited_by == {}
    assert united.answer(features={}, k=40, depths={"retrieve": 4}).limited_by == {"retrieve": 4}


def test_someone_unseen_is_answered_by_features_and_history(answerer):
    bought = [50000003, 50000006]
    answer = answerer.answer(features={"country": "de"}, history=bought, k=6)
    assert len(answer.items) == 6
    assert not set(bought) & set(items(answer))
    assert answer.who == "unseen query"
    assert items(answerer.answer(features={"country": "de"}, k=6)) != items(answer)


def test_features_may_all_be_missing(answerer):
    assert len(answerer.answer(features={}, k=3).items) == 3


def test_a_described_query_scores_as_the_known_one_it_describes(answerer):
    """The online way of encoding is the offline one."""
    prepared, cascade = answerer.prepared, answerer.cascade
    key = prepared.dataset.query_catalogue.keys(prepared.dataset.queries["user"][:1])
    row = prepared.dataset.queries.row(0, named=True)
    own = answerer.events.filter(answerer.events["user"] == row["user"])
    clicked = own.filter(own["click"] == 1).sort("timestamp", "row")["item"].to_list()
    assert clicked
    known = prepared.request_columns(torch.from_numpy(key.copy()), own)
    request, _ = answerer._unseen({n: row[n] for n in ("user", "country", "age")}, clicked)
    assert sorted(request.query) == sorted(known)
    for name, column in known.items():
        assert torch.equal(request.query[name], column), name
    one, _ = cascade(Request(Batch(known)))
    other, _ = cascade(Request(request.query))
    assert torch.equal(one.keys, other.keys)


def test_a_history_longer_than_the_column_keeps_its_end(answerer):
    ids = answerer.prepared.dataset.items["item"].to_list()
    request, _ = answerer._unseen({}, ids[:30])
    index = answerer.prepared.features.item_index_of_keys(answerer.prepared.dataset.items)
    assert request.query["history"][0].tolist() == index[22:30].tolist()
    assert request.exclude[0].tolist() == list(range(30))


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({}, "name a known user, or give the features"),
        ({"user": USER, "features": {}}, "name a known user, or give the features"),
        ({"user": USER, "history": [50000003]}, "a known user's history is known"),
        ({"history": [50000003]}, r"a history needs the features of the user .*--features '\{\}'"),
        ({"user": 5}, "no user has the id 5; describe an unseen one with its features"),
        ({"user": "anna"}, "no user has the id 'anna'"),
        ({"features": {}, "history": [1, 50000003, "x"]}, "the catalogue holds no item 1, x$"),
        ({"features": {"contry": "de"}}, "unknown field 'contry'; did you mean 'country'"),
        ({"features": {"history": [50000003]}}, "'history' is made of a history of items; give that instead"),
    ],
)
def test_what_cannot_be_answered_says_why(answerer, asked, message):
    with pytest.raises(ConfigError, match=message):
        answerer.answer(**asked)


def test_a_value_of_the_wrong_type_is_a_data_error(answerer):
    with pytest.raises(DataError, match="column country"):
        answerer.answer(features={"country": {"name": "de"}})


def test_plain_and_text(answerer):
    answer = answerer.answer(user=USER, k=2)
    plain = answer.plain()
    assert plain["query"] == f"user {USER}"
    assert [row["item"] for row in plain["items"]] == items(answer)
    assert [step["stage"] for step in plain["trace"]] == ["retrieve", "rank"]
    assert answer.text().startswith(f"user {USER}\n")
    assert "retrieve: catalogue -> " in answer.text()


def test_a_run_without_a_cascade_has_nothing_to_answer_with(tiny, tmp_path):
    plain = tiny("cascade=[]", "models.ranker.objective={kind: pointwise}", "models.ranker.config.pair=[]")
    Pipeline(Recipe.parse(plain), tmp_path).prepare()
    with pytest.raises(ConfigError, match="the recipe has no cascade"):
        Answerer.open(tmp_path)


def test_a_request_may_say_what_alone_it_is_shown(answerer):
    before = items(answerer.answer(user=USER, k=10))
    deny = {"not": {"ids": before[:4]}}
    kept = items(answerer.answer(user=USER, k=10, where=deny))
    assert len(kept) == 10
    assert not set(kept) & set(before[:4])
    allow = Predicate.parse({"ids": before[2:5]})
    assert set(items(answerer.answer(user=USER, k=10, where=allow))) == set(before[2:5])
    assert items(answerer.answer(user=USER, k=10)) == before  # nothing stays of it
    assert items(answerer.answer(user=USER, where={"ids": []})) == []
    with pytest.raises(ConfigError, match=r"where\.missing: no item field 'colour'"):
        answerer.answer(user=USER, where={"missing": "colour"})
    with pytest.raises(ConfigError, match="exactly one of"):
        answerer.answer(user=USER, where={})


def test_a_request_may_bring_a_budget_of_its_own(answerer):
    hurried = answerer.answer(user=USER, budget=Budget(stages={"rank": 0}))
    assert hurried.trace.degraded == ("rank",)
    assert hurried.plain()["degraded"] == ["rank"]
    assert answerer.answer(user=USER, budget=Budget()).trace.degraded == ()
    with pytest.raises(ConfigError, match="the budget is for"):
        answerer.answer(user=USER, budget=Budget(stages={"prerank": 3}))


def test_the_budget_of_a_request_counts_from_when_it_arrived(answerer, monkeypatch):
    """Its history and features, too, take of the time; here, a minute."""
    generous = Budget(total_ms=50_000)
    assert answerer.answer(user=USER, budget=generous).trace.degraded == ()
    earlier = SimpleNamespace(time=time.time, perf_counter=lambda: time.perf_counter() - 60)
    monkeypatch.setattr("twotower.pipeline.answerer.time", earlier)
    assert answerer.answer(user=USER, budget=generous).trace.degraded == ("rank",)


def test_of_several_texts_the_searched_one_is_named():
    text = {"kind": "text", "role": "query", "tokenizer": "words"}
    fields = (
        {"name": "query", "kind": "id", "role": "query"},
        {"name": "doc", "kind": "id", "role": "item"},
        {"name": "title", **text},
        {"name": "body", **text},
    )
    schema = Schema.parse({"query": "query", "item": "doc", "fields": fields})
    answerer = Answerer(SimpleNamespace(dataset=SimpleNamespace(schema=schema, events=None)), cascade=None)
    with pytest.raises(ConfigError, match=r"the texts title, body: say which .* \(--field\)$"):
        answerer.search("green frogs")
    with pytest.raises(ConfigError, match="'bod' is no text of the query that is read; did you mean 'body'"):
        answerer.search("green frogs", field="bod")


def test_answers_are_logged_as_they_were_shown(trained, tmp_path):
    answerer = Answerer.open(trained.directory)
    with answerer.logging(tmp_path / "served", produced_by="v1") as log:
        known = answerer.answer(user=str(USER), k=4)
        unseen = answerer.answer(features={"country": "de"}, k=3)
    assert (log.dropped, log.about.produced_by) == (0, "v1")
    rows = Funnel(tmp_path / "served").rows()
    assert (
        set(rows["request"]) == {known.request, unseen.request} == {known.plain()["request"], unseen.request}
    )
    for answer, user in ((known, USER), (unseen, None)):
        own = rows.filter(request=answer.request)
        assert own["user"].unique().to_list() == [user]
        assert own.filter(stage="exposed").sort("rank")["item"].to_list() == items(answer)
        assert len(own) == answer.trace.steps[0].n_out
    assert "request" not in Answerer.open(trained.directory).answer(user=USER).plain()


def test_a_log_takes_the_share_of_requests_that_it_is_told_to(trained, tmp_path):
    answerer = Answerer.open(trained.directory)
    with answerer.logging(tmp_path / "served", FunnelSampling(requests=0.5)):
        asked = [answerer.answer(user=USER, k=2).request for _ in range(60)]
    kept = set(Funnel(tmp_path / "served").rows()["request"])
    assert kept < set(asked)
    assert 10 < len(kept) < 50
    with pytest.raises(ConfigError, match="no stage is called 'rnak'"):
        answerer.logging(tmp_path / "served", FunnelSampling(stages={"rnak": 0.5}))
