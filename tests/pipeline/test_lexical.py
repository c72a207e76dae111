"""BM25 in a recipe: alone, beside a model, for the stages behind it, and in a bundle."""

from __future__ import annotations

import pytest
import torch

from twotower.baselines.bm25 import BM25
from twotower.cascade.lexical import RetrieveLexical
from twotower.data.spec import Column, FeatureSpec
from twotower.errors import ConfigError, StorageError
from twotower.evaluate.experiment import request_of
from twotower.pipeline.bundles.bundle import Bundle, build
from twotower.pipeline.lexical import Lexical
from twotower.pipeline.pipeline import Pipeline
from twotower.pipeline.recipe import Recipe

STEMS = {"query_text": {"tokenizer": "stems"}, "text": {"tokenizer": "stems"}}


def recipe(**changes):
    return {
        "name": "words",
        "data": {"reader": "beir"},
        "split": {"kind": "predefined"},
        "history": None,
        "fields": STEMS,
        "cascade": [
            {"stage": "retrieve", "k": 20, "sources": [{"name": "bm25", "k": 20, "lexical": {"k1": 0.9}}]}
        ],
        "evaluate": {"measures": ["nDCG@10"], "requests_timed": 5, "samples": 100},
        **changes,
    }


@pytest.fixture(scope="module")
def run(collection, tmp_path_factory):
    pipeline = Pipeline(Recipe.parse(recipe()), tmp_path_factory.mktemp("run"), data=collection)
    pipeline.run()
    return pipeline


def test_alone_it_needs_no_model(run):
    (stage,) = run.cascade().stages
    (source,) = stage.sources
    assert isinstance(source, RetrieveLexical)
    prepared, request = run.prepared, request_of(run.prepared.task("test"))
    found = run.cascade()(request)[0]
    column = prepared.features.spec["text"]
    again = BM25(k1=0.9).fit(prepared.items["text"], column.size).search(request.query["query_text"], 20)
    assert torch.equal(found.keys, again.keys)
    assert torch.equal(found.pair["bm25_score"][found.mask], again.scores[again.mask])
    assert run.evaluate().experiment.stages[0].values["nDCG@10"].mean() > 0.5


def test_it_is_fitted_once(run, collection):
    path = run.space.source("bm25")
    before = path.stat().st_mtime_ns
    again = Pipeline(Recipe.parse(recipe()), run.space.directory, data=collection)
    again.train()
    assert path.stat().st_mtime_ns == before
    changed = recipe()
    changed["cascade"][0]["sources"][0]["lexical"]["k1"] = 2.0
    Pipeline(Recipe.parse(changed), run.space.directory, data=collection).train()
    assert path.stat().st_mtime_ns > before
    again.train()


def test_a_bundle_carries_it(run, tmp_path):
    build(run.space.directory, tmp_path / "bundles")
    bundle = Bundle.load(tmp_path / "bundles")
    request = request_of(run.prepared.task("test"))
    here, there = run.cascade()(request)[0], bundle.cascade(request)[0]
    assert torch.equal(here.keys, there.keys)
    assert torch.equal(here.scores, there.scores)


def test_a_damaged_one_is_named_with_the_remedy(run, collection, tmp_path):
    pipeline = Pipeline(Recipe.parse(recipe()), tmp_path / "run", data=collection)
    pipeline.prepare()
    pipeline.train()
    pipeline.space.source("bm25").write_bytes(b"nothing")
    with pytest.raises(StorageError, match=r"bm25.safetensors: no readable source .*train the run again"):
        pipeline.cascade()


def test_beside_a_model_every_candidate_has_its_score(collection, tmp_path):
    """A hybrid, and what a ranker behind it reads."""
    words = {"kind": "table", "dim": 8}
    towers = {"model": "dual-encoder", "config": {"text": words}, "train": {"epochs": 1}}
    tower = towers | {"objective": {"kind": "in-batch", "log_q": "none"}}
    sources = [{"name": "bm25", "k": 4, "lexical": {}}, {"name": "dense", "k": 10, "model": "tower"}]
    plain = recipe(models={"tower": tower}, cascade=[{"stage": "retrieve", "k": 14, "sources": sources}])
    pipeline = Pipeline(Recipe.parse(plain), tmp_path / "run", data=collection)
    pipeline.prepare()
    pipeline.train()
    request = request_of(pipeline.prepared.task("test"))
    found = pipeline.cascade()(request)[0]
    bm25 = pipeline.cascade().stages[0].sources[0].bm25
    assert torch.equal(found.pair["bm25_score"], bm25.scores_of(request.query["query_text"], found.keys))
    by_dense_alone = found.mask & (found.pair["from_bm25"] == 0)
    assert (found.pair["bm25_score"][by_dense_alone] > 0).any()
    assert (found.pair["bm25_rank"][by_dense_alone] == 4).all()


def column(name, side, tokenizer, kind="text"):
    return Column(name=name, kind=kind, side=side, size=9, width=4, tokenizer=tokenizer)


@pytest.mark.parametrize(
    ("asked", "texts", "message"),
    [
        ({}, [column("t", "item", "stems")], "no text of the query is encoded as words"),
        ({}, [column("q", "query", "some/model"), column("t", "item", "stems")], "no text of the query"),
        (
            {},
            [column("q", "query", "stems"), column("t", "item", "stems"), column("u", "item", "words")],
            r"the item has the texts \['t', 'u'\]: name one as item:",
        ),
        ({"item": "tt"}, [column("q", "query", "stems"), column("t", "item", "stems")], "did you mean 't'"),
        (
            {},
            [column("q", "query", "stems"), column("t", "item", "words")],
            r"'q' \(stems\) and 't' \(words\) share no vocabulary",
        ),
    ],
)
def test_which_texts_are_compared_is_said(asked, texts, message):
    with pytest.raises(ConfigError, match=message):
        Lexical.parse(asked).columns(FeatureSpec(columns=tuple(texts)))


def test_the_only_words_are_found_beside_other_texts():
    texts = [
        column("q", "query", "stems"),
        column("p", "query", "some/model"),
        column("l", "query", "letters"),
    ]
    texts += [column("t", "item", "stems"), column("m", "item", "letters")]
    spec = FeatureSpec(columns=tuple(texts))
    assert [c.name for c in Lexical().columns(spec)] == ["q", "t"]
    assert [c.name for c in Lexical(query="l", item="m").columns(spec)] == ["l", "m"]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"baseline": "popularity"}, "is one of model, baseline, similar, lexical, source; found"),
        ({"lexical": {"k2": 1}}, "lexical: unknown key 'k2'; known: b, item, k1"),
    ],
)
def test_what_is_wrong_with_a_source_is_said(source, message):
    plain = recipe()
    plain["cascade"][0]["sources"][0] |= source
    with pytest.raises(ConfigError, match=message):
        Recipe.parse(plain)


def test_a_recipe_without_models_has_a_cascade():
    with pytest.raises(ConfigError, match="names models, or a cascade"):
        Recipe.parse(recipe(cascade=[]))
