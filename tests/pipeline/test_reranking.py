"""retrieve >> rank >> rerank from one recipe: a list model learns from what the ranker hands on."""

import json

import pytest
import torch

from twotower.cascade.cascade import Cascade
from twotower.errors import DataError
from twotower.evaluate.experiment import request_of
from twotower.models.catalogue import load_model
from twotower.pipeline.learning import train_model
from twotower.pipeline.order import share_left_out
from twotower.pipeline.pipeline import Pipeline
from twotower.pipeline.prepared import Prepared
from twotower.pipeline.recipe import Recipe
from twotower.pipeline.served import dealt, rescore
from twotower.train.events import Saved

RERANKER = {
    "model": "prm",
    "features": ["user", "history", "item", "category"],
    "config": {"embedding": 4, "dim": 8, "hidden": 8, "history": {"kind": "mean"}},
    "objective": {"kind": "lists", "share": 0.5},
    "train": {"epochs": 2, "batch_size": 4, "checkpoint_every_steps": 1},
}


@pytest.fixture(scope="module")
def plain(tiny):
    plain = tiny("data.n_queries=300")
    plain["models"]["reranker"] = RERANKER
    plain["cascade"].append({"stage": "rerank", "model": "reranker", "k": 5})
    return plain


@pytest.fixture(scope="module")
def reranked(plain, tmp_path_factory):
    directory, said = tmp_path_factory.mktemp("reranked"), list[str]()
    pipeline = Pipeline(Recipe.parse(plain), directory, say=said.append)
    return pipeline, pipeline.run(), said


def open_with(plain, directory, **more):
    said: list[str] = []
    pipeline = Pipeline(Recipe.parse(plain), directory, say=said.append, **more)
    pipeline.prepare()
    return pipeline, said


def test_a_run_trains_and_judges_all_three_stages(reranked):
    _, report, said = reranked
    assert [line.split(":")[0] for line in said if ": training" in line] == [
        "retriever",
        "ranker",
        "reranker",
    ]
    retrieve, rank, rerank = report.plain()["stages"]
    assert (rerank["stage"], rerank["k"]) == ("rerank", 5)
    assert rerank["R@10"] <= rank["R@10"] <= retrieve["R@30"]
    assert rerank["alive"] == pytest.approx(rerank["R@10"])


def test_it_reads_what_the_ranker_hands_on(reranked):
    pipeline, _, _ = reranked
    model = pipeline.model("reranker")
    assert int(model.places.last) == 9  # the ranker hands on ten
    request = request_of(pipeline.prepared.task("test"))
    found, trace = pipeline.cascade()(request)
    handed = trace.steps[1].output
    assert found.keys.shape[1] == 5
    for q in range(len(request)):
        assert set(found.keys[q].tolist()) <= {*handed.keys[q].tolist(), -1}
    assert {"retrieve_rank", "rank_score", "rank_rank", "rerank_score"} <= found.pair.keys()


def test_deeper_lists_than_in_training_are_answered(reranked):
    pipeline, _, _ = reranked
    request = request_of(pipeline.prepared.task("test"))
    deeper = type(request)(request.query, request.history, request.exclude, {"rank": 25, "rerank": 25})
    found, trace = pipeline.cascade()(deeper)
    assert torch.equal(found.keys.sort(1).values, trace.steps[1].output.keys.sort(1).values)
    assert found.scores[found.mask].isfinite().all()


def test_it_learns_from_queries_the_ranker_has_not_learnt_from(reranked):
    pipeline, _, _ = reranked
    task = pipeline.prepared.task("valid")
    ranker, _ = dealt(pipeline.prepared, task, 0.5)
    left_out = share_left_out(pipeline.recipe, "reranker")
    learn, select = dealt(pipeline.prepared, task, 0.5, left_out)
    assert left_out == 0.5
    assert len(ranker) + len(learn) + len(select) == len(task)
    assert len({*ranker.query_keys.tolist(), *learn.query_keys.tolist(), *select.query_keys.tolist()}) == len(
        task
    )


def test_rescoring_while_learning_is_what_the_stage_will_do(reranked):
    pipeline, _, _ = reranked
    prepared, stages = pipeline.prepared, pipeline.cascade().stages
    task = prepared.task("test")
    request = request_of(task)
    served = stages[1].run(request, stages[0].run(request, None, 30), 10)
    ours, theirs = (
        rescore(stages[2].model, prepared.items, task, served, 7),
        stages[2].run(request, served, 10),
    )
    assert torch.equal(ours.keys, theirs.keys)
    torch.testing.assert_close(ours.scores, theirs.scores)


def test_the_second_run_makes_nothing_again(plain, reranked):
    pipeline, said = open_with(plain, reranked[0].space.directory)
    pipeline.train()
    assert [line for line in said if "trained already" in line] == [
        f"{name}: trained already" for name in ("retriever", "ranker", "reranker")
    ]


def test_an_interrupted_training_goes_on_to_the_same_weights(plain, reranked, tmp_path):
    def stop(event):
        if isinstance(event, Saved) and event.step >= 3 and (tmp_path / "models/reranker").exists():
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        open_with(plain, tmp_path, events=stop)[0].train()
    pipeline, said = open_with(plain, tmp_path)
    pipeline.train()
    lines = (tmp_path / "models/reranker/train.jsonl").read_text().splitlines()
    started = [line["resumed_at_step"] for line in map(json.loads, lines) if line["event"] == "started"]
    assert started == [0, 3]
    assert "ranker: trained already" in said
    finished = load_model(reranked[0].space.model("reranker"))
    assert pipeline.model("reranker").digest() == finished.digest()


def test_without_fresh_queries_it_says_who_took_them(plain, reranked):
    greedy = {**plain, "models": {name: dict(about) for name, about in plain["models"].items()}}
    greedy["models"]["ranker"]["objective"] = {"kind": "lists", "share": 0.999}
    prepared = Prepared.make(Recipe.parse(greedy), None, "raise")
    before = Cascade(*reranked[0].cascade().stages[:2])
    with pytest.raises(DataError, match=r"'reranker': .* earlier stages learnt from 99.9% of them"):
        train_model(prepared, "reranker", before=before)
