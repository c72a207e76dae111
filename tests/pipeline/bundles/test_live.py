"""Items that change under a bundle that serves, through every kind of stage."""

from __future__ import annotations

import random
import shutil
import threading

import polars as pl
import pytest
import torch

from twotower.data.funnel import Funnel
from twotower.errors import ConfigError, MismatchError
from twotower.pipeline.bundles.bundle import Bundle, build
from twotower.pipeline.bundles.live import LiveBundle
from twotower.pipeline.pipeline import Pipeline
from twotower.pipeline.recipe import Recipe


@pytest.fixture(scope="module")
def root(whole_run, tmp_path_factory):
    root = tmp_path_factory.mktemp("live") / "bundles"
    build(whole_run.space.directory, root)
    return root


@pytest.fixture
def live(root, tmp_path):
    with LiveBundle.load(root, tmp_path / "items.sqlite") as live:
        yield live


def shown(answerer, user, k=10):
    return answerer.answer(user=user, k=k).items["item"].to_list()


def users(live, n=12):
    return live.bundle.encoded.dataset.queries["user"].to_list()[:n]


def test_without_changes_it_answers_as_the_bundle(live):
    plain = live.bundle.answerer()
    for user in users(live):
        assert shown(live.answerer(), user) == shown(plain, user)


def test_a_deleted_item_is_gone_at_once_and_can_come_back(live):
    everyone = {user: shown(live.answerer(), user) for user in users(live)}
    gone = next(iter(everyone.values()))[0]
    row = live.bundle.encoded.dataset.items.filter(item=gone).to_dicts()[0]
    assert live.delete([gone, -5]) == 1
    for user in everyone:
        assert gone not in shown(live.answerer(), user, k=40)
    assert live.upsert([row]) == 1
    assert {user: shown(live.answerer(), user) for user in everyone} == everyone


def test_a_new_item_is_found_ranked_and_named(live):
    """A twin of what stands first for somebody: same features, but for an id that training never saw."""
    user = users(live)[0]
    first = live.answerer().answer(user=user, k=1).items["item"][0]
    twin = live.bundle.encoded.dataset.items.filter(item=first).to_dicts()[0]
    live.upsert([twin | {"item": 900_000 + n, "title": "fresh"} for n in range(300)])
    answer = live.answerer().answer(user=user, k=40, depths={"tower": 300, "retrieve": 300, "filter": 300})
    new = answer.items.filter(answer.items["item"].is_between(900_000, 900_299))
    assert len(new)
    assert new["title"].unique().to_list() == ["fresh"]


def test_a_filter_sees_features_as_they_are_now(live):
    """An item that becomes a tent is one that the recipe's filter hides, and comes back as something else."""
    user = users(live)[0]
    first = live.answerer().answer(user=user, k=1).items["item"][0]
    row = live.bundle.encoded.dataset.items.filter(item=first).to_dicts()[0]
    live.upsert([row | {"category": "tent"}])
    assert first not in shown(live.answerer(), user, k=40)
    live.upsert([row])
    assert shown(live.answerer(), user, k=1) == [first]


def test_changes_outlive_the_process_and_reach_others(live, root, tmp_path):
    user = users(live)[0]
    gone = shown(live.answerer(), user)[:3]
    with LiveBundle.load(root, tmp_path / "items.sqlite") as other:
        live.delete(gone)
        assert other.refresh() == 3
        assert shown(other.answerer(), user) == shown(live.answerer(), user)
    with LiveBundle.load(root, tmp_path / "items.sqlite") as again:
        assert shown(again.answerer(), user) == shown(live.answerer(), user)
        assert not set(gone) & set(shown(again.answerer(), user, k=40))
        again.compact()
        assert not set(gone) & set(shown(again.answerer(), user, k=40))


def test_what_is_wrong_changes_nothing(live):
    before = shown(live.answerer(), users(live)[0])
    with pytest.raises(ConfigError, match="unknown feature 'categori'"):
        live.upsert([{"item": 5, "categori": "tent"}])
    with pytest.raises(ConfigError, match="lacks its id"):
        live.upsert([{"category": "tent"}])
    assert shown(live.answerer(), users(live)[0]) == before
    assert live.log.last == 0


def test_a_log_of_another_bundle_is_refused(trained, root, live, tmp_path):
    live.delete([1])
    build(trained.directory, tmp_path / "others")
    with pytest.raises(MismatchError, match="log"):
        LiveBundle(Bundle.load(tmp_path / "others"), tmp_path / "items.sqlite")


def test_an_item_of_unknown_values_encodes_as_the_unknown_one(live):
    encoded = live.bundle.encoded
    live.upsert([{"item": 777, "category": "never seen", "brand": None}])
    fresh = live.answerer().prepared.dataset.items.filter(item=777)
    columns = encoded.features.encode_items(fresh)
    assert columns["category"].tolist() == [1]
    assert torch.isfinite(columns["price"]).all()


def test_changes_taken_in_one_by_one_answer_as_taken_in_at_once(live, root, tmp_path):
    """Indexes, tables, attributes and filters of every kind of stage, patched after each change."""
    draw, items = random.Random(5), live.bundle.encoded.dataset.items
    ids = items["item"].to_list()
    leave, change = ids[::3], ids[1::3]  # what is deleted keeps the vector it last had, in histories
    for step in range(10):
        row = items.row(draw.randrange(len(items)), named=True)
        if step % 5 == 4:
            live.delete(draw.sample(leave, 8))
        else:
            new = 900_000 + draw.randrange(12)
            live.upsert([row | {"item": draw.choice([new, *draw.sample(change, 3)])} for _ in range(3)])
        live.answerer()
    with LiveBundle.load(root, tmp_path / "items.sqlite") as afresh:
        one, other = live.answerer(), afresh.answerer()
        assert one.prepared.dataset.items.height == other.prepared.dataset.items.height
        for user in users(live, 6):
            assert shown(one, user, k=30) == shown(other, user, k=30)


def test_a_new_item_like_those_of_the_history_is_found_by_the_source_of_likeness(live):
    user = users(live)[0]
    answerer = live.answerer()
    past = answerer.prepared.dataset.events.filter(user=user, click=1)["item"][0]
    twin = live.bundle.encoded.dataset.items.filter(item=past).to_dicts()[0]
    live.upsert([twin | {"item": 900_000}])

    def like():
        fuse = live.answerer().cascade.stages[0]
        return next(source for source in fuse.sources if source.name == "like")

    request, _ = live.answerer().request(user=user)
    key = live.store.keys(pl.Series("item", [900_000]))[0]
    assert key in like().run(request, None, 60).keys
    live.delete([900_000])
    assert key not in like().run(request, None, 130).keys


def test_what_knows_no_items_is_loaded_once(live):
    first = live.answerer().cascade.stages[0]
    live.delete([live.bundle.encoded.dataset.items["item"][0]])
    second = live.answerer().cascade.stages[0]
    assert first is not second
    assert [a is b for a, b in zip(first.sources, second.sources, strict=True)] == [False, True, False]


def test_sources_that_follow_no_change_are_named_once(root, tmp_path, capsys):
    said = []
    with LiveBundle.load(root, tmp_path / "items.sqlite", say=said.append) as live:
        row = live.bundle.encoded.dataset.items.row(0, named=True)
        assert live.fixed == ("popular",)
        live.delete([row["item"]])
        assert said == []  # deleted ones are hidden
        live.upsert([row])
        live.upsert([row | {"item": 900_000}])
    assert len(said) == 1
    assert "popular will know nothing until a new bundle is built" in said[0]
    assert capsys.readouterr().err == ""
    with LiveBundle.load(root, tmp_path / "items.sqlite") as live:
        live.upsert([row])
    assert capsys.readouterr().err == said[0] + "\n"


def test_a_pin_inserts_no_deleted_item(trained, tiny, tmp_path):
    """In a cascade whose sources all follow the log, so that no mask of items is given to them."""
    item = trained.pipeline.prepared.dataset.items["item"][7]
    recipe = tiny()
    rules = [{"kind": "pin", "places": {2: item}, "insert": True}]
    recipe["cascade"].append({"stage": "rules", "k": 10, "rules": rules})
    run = shutil.copytree(trained.directory, tmp_path / "run")
    pipeline = Pipeline(Recipe.parse(recipe), run)
    pipeline.prepare()
    pipeline.train()  # nothing: all of it is there
    build(run, tmp_path / "bundles")
    with LiveBundle.load(tmp_path / "bundles", tmp_path / "items.sqlite") as live:
        row = live.bundle.encoded.dataset.items.filter(item=item).to_dicts()[0]
        who = [user for user in users(live, 6) if item in shown(live.answerer(), user)]
        assert who  # the others have seen it
        live.delete([item])
        assert not any(item in shown(live.answerer(), user) for user in who)
        live.upsert([row])
        assert all(item in shown(live.answerer(), user) for user in who)


def test_an_answerer_that_is_held_answers_from_the_items_of_its_moment(live):
    user = users(live)[0]
    held = live.answerer()
    before = shown(held, user, k=40)
    row = live.bundle.encoded.dataset.items.filter(item=before[0]).to_dicts()[0]
    live.upsert([row | {"item": 7000 + number} for number in range(50)])
    live.delete(before[:3])
    live.compact()
    assert shown(held, user, k=40) == before
    now = shown(live.answerer(), user, k=40)
    assert not set(before[:3]) & set(now)
    assert any(item >= 7000 for item in now)
    assert shown(held, user, k=40) == before


def test_answers_given_while_items_come_and_go_are_of_one_moment(live):
    who, wrong, done = users(live), [], threading.Event()
    row = live.bundle.encoded.dataset.items.to_dicts()[0]

    def ask() -> None:
        while not done.is_set():
            for user in who:
                try:
                    found = shown(live.answerer(), user, k=40)
                    if len(set(found)) != len(found):
                        wrong.append(found)
                except Exception as error:  # whatever it is, it must not happen
                    wrong.append(error)

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    for number in range(40):
        live.upsert([row | {"item": 9000 + number}])
        live.delete([9000 + number - 3])
    done.set()
    for thread in threads:
        thread.join()
    assert not wrong
    assert sorted(set(shown(live.answerer(), who[0], k=400)) & set(range(9000, 9040))) == [9037, 9038, 9039]


def test_what_a_live_bundle_serves_is_logged_with_items_that_came_later(live, tmp_path):
    user = users(live)[0]
    row = live.bundle.encoded.dataset.items.filter(item=shown(live.answerer(), user)[0]).to_dicts()[0]
    with live.logging(tmp_path / "served"):
        live.upsert([row | {"item": 777}])
        answer = live.answerer().answer(user=user, k=40)
    rows = Funnel(tmp_path / "served").rows().filter(stage="exposed")
    assert rows.sort("rank")["item"].to_list() == answer.items["item"].to_list()
    assert 777 in rows["item"].to_list()
