"""A cross-encoder teaches the text models that stand before it, on the lists that BM25 serves."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from twotower.errors import ConfigError
from twotower.evaluate.experiment import request_of
from twotower.pipeline.changes import changed
from twotower.pipeline.order import training_order
from twotower.pipeline.pipeline import Pipeline
from twotower.pipeline.recipe import Recipe

SAMPLE = {"ranked": 0, "preranked": 0, "retrieved": 15, "random": 5}
RECIPE = {
    "name": "toy",
    "data": {"reader": "beir"},
    "positive": {"label": "grade", "at_least": 1},
    "split": {"kind": "predefined"},
    "history": None,
    "fields": {"query_text": {"tokenizer": "words"}, "text": {"tokenizer": "words"}},
    "models": {
        "cross": {
            "model": "cross-encoder",
            "features": ["query_text", "text"],
            "config": {
                "text": {"kind": "transformer", "dim": 16, "blocks": 1, "heads": 2, "dropout": 0.0},
                "max_length": 24,
                "dropout": 0.0,
            },
            "objective": {"kind": "full-stage", "bce": 0, "sample": SAMPLE},
            "train": {"epochs": 3, "batch_size": 16, "learning_rate": 0.01},
        },
        "student": {
            "model": "dual-encoder",
            "features": ["query_text", "text"],
            "config": {"text": {"kind": "table", "dim": 16}, "similarity": "dot"},
            "objective": {
                "kind": "full-stage",
                "teacher": "cross",
                "bce": 0,
                "softmax": 0,
                "distil": {"loss": "margin"},
                "sample": {"ranked": 10, "preranked": 10, "retrieved": 10, "random": 0},
            },
            "train": {"epochs": 12, "batch_size": 16, "learning_rate": 0.02},
        },
    },
    "cascade": [
        {"stage": "retrieve", "k": 40, "sources": [{"name": "bm25", "lexical": {}, "k": 40}]},
        {"stage": "prerank", "model": "student", "k": 20},
        {"stage": "rank", "model": "cross", "k": 10},
    ],
    "evaluate": {"requests_timed": 2, "samples": 100},
}


@pytest.fixture(scope="module")
def toy(tmp_path_factory) -> Path:
    """120 documents of 8 topics; a query's relevant ones are of its topic."""
    folder, draw = tmp_path_factory.mktemp("toy"), np.random.default_rng(0)
    topic = draw.integers(0, 8, 120)

    def text(about: int, own: int, common: int) -> str:
        words = [f"t{about}w{n}" for n in draw.integers(0, 12, own)]
        return " ".join(draw.permutation([*words, *(f"c{n}" for n in draw.integers(0, 15, common))]))

    documents = [{"_id": f"d{d}", "title": "", "text": text(topic[d], 5, 6)} for d in range(120)]
    queries, rows = [], {"train": [], "dev": [], "test": []}
    for q in range(75):
        about = int(draw.integers(0, 8))
        queries.append({"_id": f"q{q}", "text": text(about, 2, 3)})
        part = ("train", "train", "train", "dev", "test")[q % 5]
        rows[part] += [f"q{q}\td{d}\t1" for d in np.flatnonzero(topic == about)[:8]]
    (folder / "corpus.jsonl").write_text("\n".join(map(json.dumps, documents)) + "\n")
    (folder / "queries.jsonl").write_text("\n".join(map(json.dumps, queries)) + "\n")
    (folder / "qrels").mkdir()
    for part, lines in rows.items():
        (folder / "qrels" / f"{part}.tsv").write_text(
            "\n".join(["query-id\tcorpus-id\tscore", *lines]) + "\n"
        )
    return folder


STUDENTS = {
    "dual-encoder": ({"text": {"kind": "table", "dim": 16}, "similarity": "dot"}, "margin"),
    "colbert": ({"text": {"kind": "table", "dim": 16}, "dim": 16, "augment": False}, "kl"),
}


@pytest.mark.parametrize("student", STUDENTS)
def test_a_recipe_lets_a_cross_encoder_teach_on_what_words_find(toy, tmp_path, student):
    said: list[str] = []
    config, loss = STUDENTS[student]
    recipe = changed(RECIPE, [f"models.student.objective.distil.loss={loss}"], "toy")
    recipe["models"]["student"] |= {"model": student, "config": config}
    report = Pipeline(Recipe.parse(recipe), tmp_path, data=toy, say=said.append).run().plain()
    assert [line for line in said if "training" in line] == [
        "cross: training cross-encoder by full-stage",
        f"student: training {student} by full-stage",
    ]
    assert [stage["stage"] for stage in report["stages"]] == ["retrieve", "prerank", "rank"]
    epochs = json.loads((tmp_path / "models/student/result.json").read_text())["history"]
    first, last = epochs[0], epochs[-1]
    assert last["loss/distil"] < 0.8 * first["loss/distil"]
    for measure in ("Overlap@10", "nDCG@10 by ranker"):  # on queries that neither of them met
        assert last[measure] > first[measure] + 0.05


MINED = {"by": ["bm25"], "n": 8, "window": 25, "teacher": "cross"}
BY_WORDS = {"kind": "full-stage", "by": ["bm25"], "bce": 0, "sample": SAMPLE}
LEARN = {
    "in-batch": (
        {"kind": "in-batch", "log_q": "none", "hard": MINED, "distil": {"loss": "margin", "weight": 3.0}},
        {"kind": "in-batch", "log_q": "none", "hard": MINED},
    ),
    "full-stage": (
        RECIPE["models"]["student"]["objective"] | {"by": ["bm25"]},
        BY_WORDS,
    ),
}
"""Of a retriever: with the teacher's scores, and without."""


def retriever_recipe(objective):
    """The student retrieves, beside BM25; both learn apart from what the cascade serves."""
    sources = [
        {"name": "bm25", "lexical": {}, "k": 40},
        {"name": "towers", "model": "student", "k": 40},
    ]
    return RECIPE | {
        "models": {
            "student": RECIPE["models"]["student"] | {"objective": objective},
            "cross": RECIPE["models"]["cross"] | {"objective": BY_WORDS},
        },
        "cascade": [
            {"stage": "retrieve", "k": 40, "sources": sources},
            {"stage": "rank", "model": "cross", "k": 10},
        ],
    }


@torch.inference_mode()
def agreement(run: Pipeline) -> float:
    """Mean correlation of the student's and the teacher's scores of what words find, over test queries."""
    task = run.prepared.task("test")
    found = run.assembly.source(run.recipe.sources[0]).run(request_of(task), None, 20)
    both = []
    for name in ("student", "cross"):
        model = run.model(name)
        item = model.encode_item(run.prepared.items.take(found.keys.clamp(min=0)))
        scores = model.score(model.encode_query(task.query), item)
        mean = (scores * found.mask).sum(1, keepdim=True) / found.mask.sum(1, keepdim=True)
        both.append((scores - mean) * found.mask)
    return float(torch.nn.functional.cosine_similarity(*both).mean())


@pytest.mark.parametrize("kind", LEARN)
def test_a_cross_encoder_teaches_the_retriever_itself(toy, tmp_path, kind):
    agrees = []
    for number, objective in enumerate(LEARN[kind]):
        run = Pipeline(Recipe.parse(retriever_recipe(objective)), tmp_path / str(number), data=toy)
        run.prepare()
        trained = list(run.train())
        assert trained == ["cross", "student"] if number == 0 else {*trained} == {"cross", "student"}
        assert run.cascade() is not None
        agrees.append(agreement(run))
        again = Pipeline(run.recipe, run.space.directory, data=toy, say=(said := []).append)
        again.train()
        assert not [line for line in said if ": training " in line]
    assert agrees[0] > agrees[1] + 0.05


def test_who_serves_must_be_there_and_be_another():
    itself = "cannot learn from what it serves itself"
    for who, message in (("bm52", "did you mean 'bm25'"), ("towers", itself)):
        with pytest.raises(ConfigError, match=message):
            Recipe.parse(retriever_recipe(BY_WORDS | {"by": [who]}))
    with pytest.raises(ConfigError, match="a log says what was served"):
        Recipe.parse(retriever_recipe(BY_WORDS | {"source": "log"}))
    reads = changed(retriever_recipe(LEARN["in-batch"][0]), ["models.cross.config.pair=[bm25_score]"], "toy")
    with pytest.raises(
        ConfigError, match=r"'cross' reads the pair fields bm25_score, which mined items do not"
    ):
        Recipe.parse(reads)
    circle = changed(retriever_recipe(LEARN["in-batch"][0]), ["models.cross.objective.by=[student]"], "toy")
    with pytest.raises(ConfigError, match="wait for each other"):
        training_order(Recipe.parse(circle))
