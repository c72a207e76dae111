"""A ColBERT that retrieves: alone and among other sources, in a run, in a bundle, and while items change."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch

from twotower.cascade.retrieve import Retrieve
from twotower.errors import ConfigError, MismatchError, StorageError
from twotower.evaluate.experiment import request_of
from twotower.index.exact_tokens import ExactTokens
from twotower.index.item_table import ItemTable
from twotower.index.multivector import MultiVectorIndex
from twotower.models.catalogue import make_model
from twotower.pipeline.answerer import Answerer
from twotower.pipeline.assembly import searched
from twotower.pipeline.bundles.bundle import Bundle, build
from twotower.pipeline.bundles.live import LiveBundle
from twotower.pipeline.pipeline import Pipeline
from twotower.pipeline.recipe import Recipe
from twotower.types import Ragged, Rep, RepSpec

APPROXIMATE = {"kind": "multivector", "bits": 4, "probes": 8, "candidates": 2, "rescored": 2}
MODEL: dict[str, Any] = {
    "model": "colbert",
    "features": ["query_text", "text"],
    "config": {"text": {"kind": "table", "dim": 16}, "dim": 16, "query_length": 6, "augment": False},
    "objective": {"kind": "in-batch"},
    "train": {"epochs": 1, "batch_size": 16},
}


def recipe(*cascade: dict[str, Any], **models: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": "tokens",
        "data": {"reader": "beir"},
        "fields": {
            "query_text": {"tokenizer": "words"},
            "text": {"tokenizer": "words"},
            "query_stems": {"of": "query_text", "tokenizer": "stems"},
            "text_stems": {"of": "text", "tokenizer": "stems"},
        },
        "split": {"kind": "predefined"},
        "history": None,
        "models": {"tokens": MODEL, **models},
        "cascade": list(cascade),
        "evaluate": {"measures": ["nDCG@10", "R@20"], "requests_timed": 2, "samples": 100},
        "threads": 1,
    }


def retrieve(index: dict[str, Any] | None = None, k: int = 20) -> dict[str, Any]:
    return {"stage": "retrieve", "model": "tokens", "k": k} | ({} if index is None else {"index": index})


@pytest.fixture(scope="module", params=[None, APPROXIMATE], ids=["exact", "multivector"])
def run(request, collection, tmp_path_factory) -> Pipeline:
    folder = tmp_path_factory.mktemp("tokens") / "run"
    pipeline = Pipeline(Recipe.parse(recipe(retrieve(request.param))), folder, data=collection)
    pipeline.run()
    return pipeline


@pytest.fixture(scope="module")
def root(run, tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("bundles") / "root"
    build(run.space.directory, root)
    return root


def first(run: Pipeline) -> Retrieve:
    cascade = run.cascade()
    assert cascade is not None
    (stage,) = cascade.stages
    assert isinstance(stage, Retrieve)
    return stage


def shown(answerer: Answerer, text: str, k: int = 10) -> list[str]:
    return answerer.search(text, k=k).items["doc"].to_list()


def words_of(live: LiveBundle, row: int) -> str:
    return str(live.bundle.encoded.dataset.items["text"][row])


def test_it_finds_what_its_score_puts_first(run):
    stage, request = first(run), request_of(run.prepared.task("test"))
    assert isinstance(stage.index, ExactTokens if stage.index.exact else MultiVectorIndex)
    with torch.inference_mode():
        query = stage.model.encode_query(request.query)
        scores = stage.model.score(query, stage.model.encode_item(run.prepared.items))
    found = stage.run(request, None, 20)
    truth = scores.topk(20, dim=1)
    if stage.index.exact:
        torch.testing.assert_close(found.scores, truth.values, atol=1e-5, rtol=0)
        torch.testing.assert_close(scores.gather(1, found.keys), truth.values, atol=1e-5, rtol=0)
    else:
        both = [
            len(set(f) & set(t)) for f, t in zip(found.keys.tolist(), truth.indices.tolist(), strict=True)
        ]
        assert sum(both) / found.keys.numel() > 0.8
    assert run.evaluate().experiment.stages[0].values["R@20"].mean() > 0.5


def test_what_a_request_hides_costs_no_place(run):
    stage, request = first(run), request_of(run.prepared.task("test"))
    allow = torch.arange(run.prepared.n_items) % 3 > 0
    gone = stage.run(request, None, 3).keys
    lists = Ragged(gone.flatten(), torch.arange(len(gone) + 1) * 3)
    found = stage.run(replace(request, allow=allow, exclude=lists), None, 20)
    assert (found.counts == 20).all()
    assert allow[found.keys].all()
    assert not (found.keys[:, :, None] == gone[:, None]).any()


def test_it_is_built_once_and_again_when_the_index_is_another(run, collection, tmp_path):
    path = run.space.index("tokens") / "manifest.json"
    before = path.stat().st_mtime_ns
    Pipeline(run.recipe, run.space.directory, data=collection).train()
    assert path.stat().st_mtime_ns == before
    copy = tmp_path / "copy"
    shutil.copytree(run.space.directory, copy)
    other = Pipeline(
        Recipe.parse(recipe(retrieve({"kind": "multivector", "bits": 2}))), copy, data=collection
    )
    other.train()
    index = first(other).index
    assert isinstance(index, MultiVectorIndex)
    assert index.config.bits == 2


def test_an_index_of_other_weights_is_refused(run):
    stage = first(run)
    with torch.no_grad():
        stage.model.get_parameter("item_marker")[0] += 1e-3
    with pytest.raises(MismatchError, match="rebuild the index"):
        Retrieve(stage.model, stage.index)


def test_a_bundle_answers_as_its_run_and_needs_no_table(run, root):
    bundle = Bundle.load(root)
    assert not (bundle.directory / "tables").exists()
    assert isinstance(first(run).index, ExactTokens | MultiVectorIndex)
    said = run.prepared.dataset.items["text"][7]
    assert shown(bundle.answerer(), said) == shown(Answerer.open(run.space.directory), said)


def test_a_damaged_index_is_named(root, tmp_path):
    copy = tmp_path / "root"
    shutil.copytree(root, copy, symlinks=True)
    file = max(Bundle.load(copy).directory.glob("index/tokens/*.bin"), key=lambda path: path.stat().st_size)
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    with pytest.raises(StorageError, match=r"index/tokens"):
        Bundle.load(copy)


def test_documents_come_and_go_while_it_serves(root, tmp_path):
    with LiveBundle.load(root, tmp_path / "items.sqlite") as live:
        said = words_of(live, 3)
        before = shown(live.answerer(), said)
        assert before == shown(live.bundle.answerer(), said)
        live.upsert([{"doc": "twin", "title": "", "text": said}, {"doc": "empty", "title": "", "text": None}])
        after = shown(live.answerer(), said)
        assert "twin" in after
        assert [doc for doc in after if doc != "twin"] == before[: len(after) - 1]
        live.delete([before[0]])
        assert before[0] not in shown(live.answerer(), said, k=20)
        again = shown(live.answerer(), said)
        live.compact()
        assert shown(live.answerer(), said)[:3] == again[:3]
        with LiveBundle.load(root, tmp_path / "items.sqlite") as other:
            assert shown(other.answerer(), said)[:3] == again[:3]
        live.delete(["twin", "empty"])
        row = live.bundle.encoded.dataset.items.filter(pl.col("doc") == before[0]).to_dicts()
        live.upsert(row)
        assert shown(live.answerer(), said)[:3] == before[:3]


def test_as_one_of_several_sources_before_itself_as_ranker(collection, tmp_path):
    sources = [
        {"name": "bm25", "k": 20, "lexical": {"query": "query_stems", "item": "text_stems"}},
        {"name": "late", "k": 20, "model": "tokens", "index": APPROXIMATE},
    ]
    stages = (
        {"stage": "retrieve", "k": 20, "sources": sources},
        {"stage": "rank", "model": "tokens", "k": 10},
    )
    pipeline = Pipeline(Recipe.parse(recipe(*stages)), tmp_path / "run", data=collection)
    pipeline.run()
    cascade = pipeline.cascade()
    assert cascade is not None
    found = cascade(request_of(pipeline.prepared.task("test")))[0]
    assert {"bm25_score", "late_score", "rank_score"} <= found.pair.keys()
    assert found.counts.min() == 10
    build(tmp_path / "run", tmp_path / "root")
    with LiveBundle.load(tmp_path / "root", tmp_path / "items.sqlite") as live:
        said = words_of(live, 5)
        live.upsert([{"doc": "twin", "title": "", "text": said}])
        assert "twin" in shown(live.answerer(), said)


def test_an_index_that_does_not_fit_is_refused_before_anything_is_trained():
    towers = {**MODEL, "model": "dual-encoder", "config": {"text": {"kind": "table", "dim": 8}}}
    kernels = {**MODEL, "model": "knrm", "config": {"text": {"kind": "table", "dim": 8}}}

    def parse(model: str, index: dict[str, Any]) -> None:
        source = {
            "stage": "retrieve",
            "k": 5,
            "sources": [{"name": "a", "k": 5, "model": model, "index": index}],
        }
        for stage in (retrieve(index) | {"model": model}, source):
            Recipe.parse(recipe(stage, towers=towers, kernels=kernels))

    parse("towers", {"effort": 3})
    parse("tokens", {"kind": "exact"})
    with pytest.raises(
        ConfigError, match="'kernels' cannot retrieve, it is late: a dot model can, or a late one"
    ):
        parse("kernels", {})
    with pytest.raises(ConfigError, match="multivector finds items of many vectors, these have one"):
        parse("towers", APPROXIMATE)
    with pytest.raises(ConfigError, match="faiss finds items of one vector, these have many"):
        parse("tokens", {"kind": "faiss"})
    with pytest.raises(ConfigError, match=r"unknown key 'prob'; did you mean 'probes'"):
        parse("tokens", {"kind": "multivector", "prob": 3})
    similar = {"name": "like", "k": 5, "similar": "towers", "index": APPROXIMATE}
    with pytest.raises(ConfigError, match="multivector finds items of many vectors"):
        Recipe.parse(recipe({"stage": "retrieve", "k": 5, "sources": [similar]}, towers=towers))


def test_a_model_that_keeps_no_tokens_says_so(run):
    model = first(run).model
    table = ItemTable(Rep(gist=torch.ones(3, 2)), (RepSpec("gist", (2,)),), "digest")
    with pytest.raises(ConfigError, match=r"ColBERT cannot retrieve: it keeps gist of an item; .* max_sim"):
        searched(model, table)


def test_a_model_that_reads_scores_cannot_bring_the_first(run):
    stage = first(run)
    config = {**stage.model.config.plain(), "pair": ["bm25_score"]}
    with pytest.raises(
        ConfigError, match=r"reads the pair fields \['bm25_score'\], which only stages before"
    ):
        Retrieve(make_model("colbert", stage.model.spec, config), stage.index)
    reads = {**MODEL, "config": {**MODEL["config"], "pair": ["bm25_score"]}}
    parsed = recipe({"stage": "retrieve", "k": 5, "model": "tokens"}, tokens=reads)
    with pytest.raises(ConfigError, match="reads the pair field 'bm25_score', which no stage before it"):
        Recipe.parse(parsed)


def test_its_lists_teach_towers_what_is_hard(collection, tmp_path):
    hard = {"kind": "in-batch", "log_q": "none", "hard": {"by": ["tokens"], "n": 1}}
    towers = {**MODEL, "model": "dual-encoder", "config": {"text": {"kind": "table", "dim": 8}}}
    stages = (
        {"stage": "retrieve", "k": 20, "model": "towers"},
        {"stage": "prerank", "model": "tokens", "k": 10},
    )
    plain = recipe(*stages, towers={**towers, "objective": hard})
    said: list[str] = []
    pipeline = Pipeline(Recipe.parse(plain), tmp_path, data=collection, say=said.append)
    pipeline.prepare()
    pipeline.train()
    assert any("hard" in line for line in said)
