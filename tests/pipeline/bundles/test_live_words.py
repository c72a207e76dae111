"""BM25 under a bundle whose items change: what it finds, and what it says of what others found."""

from __future__ import annotations

import json

import pytest
import torch

from twotower.baselines.bm25 import BM25
from twotower.pipeline.bundles.bundle import build
from twotower.pipeline.bundles.live import LiveBundle
from twotower.pipeline.pipeline import Pipeline
from twotower.pipeline.recipe import Recipe

TOWERS = {
    "model": "dual-encoder",
    "config": {"text": {"kind": "table", "dim": 8}},
    "objective": {"kind": "in-batch", "log_q": "none"},
    "train": {"epochs": 1},
}
SOURCES = [
    {"name": "bm25", "k": 9, "lexical": {"k1": 0.9}},
    {"name": "short", "k": 5, "lexical": {"b": 0.0}},
    {"name": "towers", "k": 20, "model": "towers"},
]


@pytest.fixture(scope="module")
def root(collection, tmp_path_factory):
    recipe = {
        "name": "words",
        "data": {"reader": "beir"},
        "split": {"kind": "predefined"},
        "history": None,
        "fields": {"query_text": {"tokenizer": "stems"}, "text": {"tokenizer": "stems"}},
        "models": {"towers": TOWERS},
        "cascade": [{"stage": "retrieve", "k": 25, "sources": SOURCES}],
        "threads": 1,
    }
    folder = tmp_path_factory.mktemp("words")
    pipeline = Pipeline(Recipe.parse(recipe), folder / "run", data=collection)
    pipeline.prepare()
    pipeline.train()
    build(folder / "run", folder / "bundles")
    return folder / "bundles"


@pytest.fixture
def live(root, tmp_path):
    with LiveBundle.load(root, tmp_path / "items.sqlite") as live:
        yield live


def change(live):
    """A new document, a changed one and a deleted one."""
    items = live.bundle.encoded.dataset.items
    old, other = items.row(11, named=True), items.row(23, named=True)
    live.upsert([{"doc": "fresh", "text": "bara tele tele murmuring"}, old | {"text": "kinu kinu sopo"}])
    live.delete([other["doc"]])
    return old, other


def source(answerer, name="bm25"):
    return next(source for source in answerer.cascade.stages[0].sources if source.name == name)


def found(answerer, text):
    request = answerer._unseen({"query_text": text}, ())[0]
    keys = source(answerer).run(request, None, 60).keys
    return answerer.prepared.dataset.items["doc"].gather(keys[keys >= 0].numpy()).to_list()


def check_it_is_a_fresh_fit(live):
    answerer = live.answerer()
    tokens, alive = answerer.prepared.items["text"], live.store.alive.nonzero()[:, 0]
    size = answerer.prepared.features.spec["text"].size
    queries = live.bundle.encoded.queries["query_text"]
    every = torch.arange(len(alive)).expand(len(queries), -1)
    for name, afresh in (("bm25", BM25(k1=0.9)), ("short", BM25(b=0.0))):
        afresh.fit(tokens[alive], size)
        expected = afresh.search(queries, 60)
        now = source(answerer, name).bm25
        real = now.search(queries, 60)
        assert torch.equal(real.scores, expected.scores)
        assert torch.equal(real.keys, torch.where(expected.mask, alive[expected.keys.clamp(min=0)], -1))
        assert torch.equal(now.scores_of(queries, alive[every]), afresh.scores_of(queries, every))


def test_words_are_those_that_the_items_have_now(live):
    plain = live.answerer()
    old, other = change(live)
    now = live.answerer()
    assert "fresh" in found(now, "tele")
    assert old["doc"] in found(now, "kinu")
    gone = set(old["text"].split()) - {"kinu", "sopo"}
    for word in gone:
        assert old["doc"] in found(plain, word)  # an answerer that is out is as it was
        assert old["doc"] not in found(now, word)
    assert other["doc"] in found(plain, other["text"])
    assert other["doc"] not in found(now, other["text"])
    check_it_is_a_fresh_fit(live)


def test_all_that_can_happen_to_an_item_in_turn(live, root, tmp_path):
    old, other = change(live)
    live.answerer()
    live.upsert(
        [other, {"doc": "late", "text": None}, {"doc": "gone", "text": "bara"}]
    )  # back; empty; short-lived
    live.delete(["fresh", "gone"])
    check_it_is_a_fresh_fit(live)
    live.upsert([{"doc": "fresh", "text": "telo unheard"}, {"doc": "late", "text": "telo"}, old])
    check_it_is_a_fresh_fit(live)
    order = found(live.answerer(), "telo")
    assert order.index("late") < order.index("fresh")  # whose unknown word is part of its length
    before = live.answerer().search("telo bara", k=25).items
    live.compact()
    check_it_is_a_fresh_fit(live)
    with LiveBundle.load(root, tmp_path / "items.sqlite") as again:
        check_it_is_a_fresh_fit(again)
        after = again.answerer().search("telo bara", k=25).items
        assert after["doc"].to_list() == before["doc"].to_list()
    live.delete(live.answerer().prepared.dataset.items["doc"])
    assert found(live.answerer(), "telo") == []


def test_what_the_towers_alone_found_has_its_score(live):
    change(live)
    answerer = live.answerer()
    request = answerer._unseen({"query_text": "tele murmuring"}, ())[0]
    united = answerer.cascade(request)[0]
    key = int(live.store.keys(answerer.prepared.dataset.items["doc"][-1:])[0])
    only = source(answerer).run(request, None, 60)
    by_key = dict(zip(only.keys[0].tolist(), only.scores[0].tolist(), strict=True))
    by_key.pop(-1)
    assert by_key[key] > 0
    assert len(by_key) > 9  # more than the source is asked for
    for k, score in zip(united.keys[0].tolist(), united.pair["bm25_score"][0].tolist(), strict=True):
        assert score == by_key.get(k, 0.0)


def test_a_bundle_without_changes_reads_no_texts(live, monkeypatch):
    monkeypatch.setattr(type(live._assembly), "_words", None)
    first = source(live.answerer())
    assert source(live.answerer()) is first
    assert live._assembly._postings == {}
    assert live.fixed == ()


def test_deleted_documents_need_no_mask(live):
    change(live)
    assert live.answerer().allow is None
    answer = json.dumps(live.answerer().search("bara tele", k=5).plain())
    assert "fresh" in answer
