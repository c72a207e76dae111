"""Hard negatives in a recipe: by words, by a model that was trained before, and by both."""

from __future__ import annotations

import pytest
import torch

from twotower.cascade.fuse import Fuse
from twotower.cascade.stage import Request
from twotower.data.hard_negatives import Judged
from twotower.errors import ConfigError
from twotower.pipeline.mining import mine_hard
from twotower.pipeline.order import training_order
from twotower.pipeline.pipeline import Pipeline
from twotower.pipeline.recipe import Recipe
from twotower.train.softmax import HardConfig

WORDS = {"tokenizer": "stems"}


def recipe(**hard):
    tower = {"model": "dual-encoder", "config": {"text": {"kind": "table", "dim": 8}}, "train": {"epochs": 1}}
    plain = {"kind": "in-batch", "log_q": "none"}
    mined = {"by": ["bm25", "first"], "n": 2, "window": 6, "guard": 0.95, "teacher": "first", **hard}
    return {
        "name": "mined",
        "data": {"reader": "beir"},
        "split": {"kind": "predefined"},
        "history": None,
        "fields": {"query_text": WORDS, "text": WORDS},
        "models": {
            "tower": tower | {"objective": plain | {"hard": mined}},
            "first": tower | {"objective": plain},
        },
        "cascade": [
            {
                "stage": "retrieve",
                "k": 20,
                "sources": [
                    {"name": "bm25", "k": 20, "lexical": {}},
                    {"name": "dense", "k": 20, "model": "tower"},
                ],
            }
        ],
    }


@pytest.fixture(scope="module")
def run(collection, tmp_path_factory):
    said = []
    pipeline = Pipeline(
        Recipe.parse(recipe()), tmp_path_factory.mktemp("run"), data=collection, say=said.append
    )
    pipeline.prepare()
    pipeline.train()
    assert any("48 pairs with" in line and "hard negatives each" in line for line in said)
    return pipeline


def mined(run, **options):
    return mine_hard(run.prepared, run.assembly, HardConfig(**options))


def test_miners_are_trained_first(run):
    assert training_order(run.recipe) == ["first", "tower"]


def test_training_is_skipped_until_a_miner_changes(run, collection):
    def trained(plain):
        said = []
        pipeline = Pipeline(Recipe.parse(plain), run.space.directory, data=collection, say=said.append)
        pipeline.train()
        return [line.split(":")[0] for line in said if ": training " in line]

    assert trained(recipe()) == []
    other = recipe()
    other["cascade"][0]["sources"][0]["k"] = 9  # how many are served, not how they are mined
    assert trained(other) == []
    other = recipe()
    other["cascade"][0]["sources"][0]["lexical"] = {"b": 0.1}
    assert trained(other) == ["tower"]
    assert trained(recipe(window=7)) == ["tower"]
    other = recipe()
    other["models"]["first"]["train"] = {"epochs": 2}
    assert trained(other) == ["first", "tower"]
    assert trained(recipe()) == ["first", "tower"]


def test_words_mine_what_bm25_finds_but_the_answer(run):
    train = run.prepared.positives(run.prepared.split.train)
    judged = Judged.of(train.query_keys, train.item_keys, run.prepared.n_items)
    bm25 = run.assembly.source(run.recipe.sources[0]).bm25
    found = mined(run, by=("bm25",), skip=1, window=3)
    queries = run.prepared.queries["query_text"]
    for pair, (query, item) in enumerate(zip(judged.query_keys, judged.item_keys, strict=True)):
        keys = bm25.search(queries[query][None], 60).keys[0].tolist()
        wanted = [key for key in keys if key not in (-1, int(item))]
        assert found.lists[pair].tolist() == wanted[1:4]
    guarded = mined(run, by=("bm25",), window=60, guard=0.5)  # by its own scores
    best = bm25.scores_of(queries[judged.query_keys], judged.item_keys[:, None])[:, 0]
    torch.testing.assert_close(guarded.positive_scores, best)
    row = guarded.lists.row_of_value()
    assert (guarded.scores <= 0.5 * best[row]).all()
    given = bm25.scores_of(queries[judged.query_keys[row]], guarded.lists.values[:, None])[:, 0]
    torch.testing.assert_close(guarded.scores, given)
    assert len(guarded.lists.values) < len(mined(run, by=("bm25",), window=60).lists.values)


def test_a_model_mines_by_its_own_whole_order_and_guards(run):
    first = run.model("first")
    found = mined(run, by=("first",), window=60)
    assert (found.lists.lengths == 59).all()  # all but the one answer
    prepared = run.prepared
    with torch.inference_mode():
        item = first.encode_item(prepared.items)
        query = first.encode_query(prepared.known_columns(found.judged.query_keys))
        scores = first.score(query, item)
    own = scores.gather(1, found.lists.padded())
    assert (own.diff(dim=1) <= 1e-5).all()
    guarded = mined(run, by=("bm25", "first"), window=60, guard=0.9, teacher="first")
    best = scores.gather(1, found.judged.item_keys[:, None])[:, 0]
    row = guarded.lists.row_of_value()
    said = scores[row, guarded.lists.values]
    torch.testing.assert_close(guarded.scores, said, rtol=1e-4, atol=1e-5)
    assert (said <= best[row] - 0.1 * best[row].abs() + 1e-4).all()


def test_several_miners_are_united_in_the_order_of_their_fusion(run):
    found = mined(run, by=("bm25", "dense"), window=5)
    depth = 2 * 5 + 1
    sources = [run.assembly.source(s.model_copy(update={"k": depth})) for s in run.recipe.sources]
    queries, _ = found.judged.lists()
    request = Request(run.prepared.known_columns(queries))
    served = Fuse(sources, k=depth).run(request, None, depth)
    for pair, item in enumerate(found.judged.item_keys.tolist()):
        assert found.lists[pair].tolist() == [key for key in served.keys[pair].tolist() if key != item][:5]


def test_what_was_mined_teaches(run):
    tower, first = run.model("tower").state_dict(), run.model("first").state_dict()
    assert tower.keys() == first.keys()  # of one seed, data and config
    assert any(not torch.equal(tower[name], first[name]) for name in tower)


@pytest.mark.parametrize(
    ("hard", "message"),
    [
        (
            {"by": ["bm52"]},
            "'bm52' serves nothing to learn from, it is no source or model; did you mean 'bm25'",
        ),
        ({"by": ["tower"]}, "'tower' cannot learn from what it serves itself, by 'tower'"),
        ({"by": ["dense"]}, "'tower' cannot learn from what it serves itself, by 'dense'"),
        ({"teacher": "frist"}, "did you mean 'first'"),
        ({"by": []}, "by: .*at least 1"),
        ({"windows": 3}, "unknown key 'windows'; did you mean 'window'"),
        ({"guard": 1.5}, "guard: "),
    ],
)
def test_what_cannot_mine_is_named(hard, message):
    with pytest.raises(ConfigError, match=message):
        Recipe.parse(recipe(**hard))


def test_models_that_wait_for_each_other_are_named():
    plain = recipe()
    plain["models"]["first"]["objective"] = {
        "kind": "in-batch",
        "log_q": "none",
        "hard": {"by": ["tower"]},
    }
    with pytest.raises(ConfigError, match="wait for each other to be trained: tower for first for tower"):
        training_order(Recipe.parse(plain))
