"""A search collection through the whole pipeline: no history, unseen queries, cold documents, grades."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ir_measures
import numpy as np
import polars as pl
import pytest
import torch

from twotower.errors import ConfigError
from twotower.evaluate.trec import evaluate_files, read_run
from twotower.pipeline.answerer import Answerer
from twotower.pipeline.bundles.bundle import build
from twotower.pipeline.bundles.live import LiveBundle
from twotower.pipeline.inspection import inspect_run
from twotower.pipeline.pipeline import Pipeline
from twotower.pipeline.prepared import Prepared
from twotower.pipeline.recipe import Recipe

TOPICS, DOCUMENTS, QUERIES = 12, 5, 7
SEARCH: dict[str, Any] = {
    "name": "tiny-search",
    "data": {"reader": "beir"},
    "fields": {"query_text": {"tokenizer": "words"}, "text": {"tokenizer": "words"}},
    "split": {"kind": "predefined"},
    "history": None,
    "models": {
        "towers": {
            "model": "dual-encoder",
            "features": ["query_text", "text"],
            "config": {"text": {"kind": "table", "dim": 32}},
            "objective": {"kind": "in-batch"},
            "train": {"epochs": 2, "batch_size": 16},
        }
    },
    "cascade": [{"stage": "retrieve", "model": "towers", "k": 20}],
    "evaluate": {"measures": ["nDCG@10", "R@20", "AP", "RR"], "requests_timed": 3, "samples": 100},
    "threads": 1,
}


def word(topic: int, number: int) -> str:
    return "".join(chr(ord("a") + digit) for digit in (topic, number, topic, number))


def write(folder: Path) -> Path:
    """Each topic has words of its own; of its documents the last is in no training judgement.

    Of a topic's queries one is test and one valid, and finds each document by a grade of 0 to 3; -1 is judged
    elsewhere.
    """
    draw = np.random.default_rng(5)

    def said(topic: int, n: int) -> str:
        return " ".join(word(topic, number) for number in draw.permutation(10)[:n])

    documents, queries = [], []
    qrels: dict[str, list[str]] = {part: ["query-id\tcorpus-id\tscore"] for part in ("train", "dev", "test")}
    for topic in range(TOPICS):
        documents += [
            {"_id": f"d{topic}.{n}", "title": f"About {topic}", "text": said(topic, 7)}
            for n in range(DOCUMENTS)
        ]
        for n in range(QUERIES):
            queries.append({"_id": f"q{topic}.{n}", "text": said(topic, 4)})
            part = {0: "test", 1: "dev"}.get(n, "train")
            for to in range(DOCUMENTS if part != "train" else DOCUMENTS - 1):
                qrels[part].append(f"q{topic}.{n}\td{topic}.{to}\t{(topic + to + n) % 4}")
            qrels[part].append(f"q{topic}.{n}\td{(topic + 1) % TOPICS}.0\t-1")
    queries.append({"_id": "nothing", "text": word(0, 0)})
    qrels["test"].append("nothing\td1.1\t0")
    (folder / "qrels").mkdir(parents=True)
    (folder / "corpus.jsonl").write_text("\n".join(map(json.dumps, documents)))
    (folder / "queries.jsonl").write_text("\n".join(map(json.dumps, queries)))
    for part, lines in qrels.items():
        (folder / "qrels" / f"{part}.tsv").write_text("\n".join(lines))
    return folder


@dataclass(frozen=True)
class Searched:
    data: Path
    pipeline: Pipeline
    said: list[str]

    @property
    def directory(self) -> Path:
        return self.pipeline.space.directory


@pytest.fixture(scope="module")
def searched(tmp_path_factory) -> Searched:
    folder, said = tmp_path_factory.mktemp("search"), list[str]()
    data = write(folder / "collection")
    pipeline = Pipeline(Recipe.parse(SEARCH), folder / "run", data=data, say=said.append)
    pipeline.run()
    return Searched(data, pipeline, said)


def judged(data: Path, part: str = "test") -> pl.DataFrame:
    return pl.read_csv(data / "qrels" / f"{part}.tsv", separator="\t")


def test_all_queries_with_a_relevant_document_are_asked_and_nothing_is_seen(searched):
    task = searched.pipeline.prepared.task("test")
    rows = judged(searched.data).filter(pl.col("score") > 0)
    asked = searched.pipeline.prepared.dataset.query_catalogue.ids(task.query_keys.numpy())
    assert set(asked) == set(rows["query-id"])
    assert len(task.relevant.values) == len(rows)
    assert task.already_seen == 0
    assert len(task.seen.values) == len(task.history.values) == 0
    assert "history" not in task.query


def test_grades_are_gains(searched):
    prepared = searched.pipeline.prepared
    task = prepared.task("test")
    ids, items = prepared.dataset.query_catalogue, prepared.dataset.item_catalogue
    found = {
        (
            ids.ids(task.query_keys[[row]].numpy())[0],
            items.ids(task.relevant.values[[place]].numpy())[0],
        ): gain
        for place, (row, gain) in enumerate(
            zip(task.relevant.row_of_value().tolist(), task.gains.tolist(), strict=True)
        )
    }
    rows = judged(searched.data).filter(pl.col("score") > 0).rows()
    assert found == {(query, doc): grade for query, doc, grade in rows}


def test_what_is_not_relevant_teaches_nothing(searched):
    prepared = searched.pipeline.prepared
    rows = judged(searched.data, "train")
    assert len(prepared.positives(prepared.split.train)) == len(rows.filter(pl.col("score") > 0))
    assert f"{len(rows):,}" in str(prepared.leakage)


def test_the_readers_notes_are_said(searched):
    text = "\n".join(searched.said)
    assert "1 test queries have no relevant document and are not averaged" in text
    assert "events are positive (grade >= 1)" in text


def test_documents_without_training_judgements_are_found(searched):
    prepared, cascade = searched.pipeline.prepared, searched.pipeline.cascade()
    trained = set(prepared.split.train["doc"])
    cold = [doc for doc in prepared.dataset.items["doc"] if doc not in trained]
    assert len(cold) == TOPICS
    found = Answerer(prepared, cascade)
    for doc in cold:
        text = prepared.dataset.items.filter(pl.col("doc") == doc)["text"][0]
        assert found.search(text, k=1).items["doc"].to_list() == [doc]
    everything = found.search(word(0, 0), k=len(prepared.dataset.items))
    assert set(everything.items["doc"]) == set(prepared.dataset.items["doc"])


def test_the_towers_find_topics(searched):
    values = pl.read_parquet(searched.directory / "results/per_query.parquet")
    assert values["retrieve R@20"].mean() > 0.9


def test_the_files_of_a_run_give_other_tools_the_same_figures(searched):
    results = searched.directory / "results"
    ours = pl.read_parquet(results / "per_query.parquet")
    names = ["nDCG@10", "R@20", "AP", "RR"]
    theirs = list(
        ir_measures.iter_calc(
            [ir_measures.parse_measure(name) for name in names],
            ir_measures.read_trec_qrels((results / "qrels.trec").read_text()),
            ir_measures.read_trec_run((results / "run.trec").read_text()),
        )
    )
    assert len(theirs) == len(names) * len(ours)
    for metric in theirs:
        own = ours.filter(pl.col("query") == metric.query_id)[f"retrieve {metric.measure}"].item()
        assert own == pytest.approx(metric.value, abs=1e-9), metric


def test_the_collections_own_qrels_give_the_same_figures(searched, tmp_path):
    """Documents that were judged not relevant change nothing, and neither does a query without any other."""
    lines = [f"{query} 0 {doc} {grade}" for query, doc, grade in judged(searched.data).rows()]
    (tmp_path / "qrels.txt").write_text("\n".join(lines))
    results = searched.directory / "results"
    found = evaluate_files(results / "run.trec", tmp_path / "qrels.txt", ["nDCG@10", "AP"])
    ours = pl.read_parquet(results / "per_query.parquet")
    both = found.join(ours, on="query", how="left", maintain_order="left")
    assert both.filter(pl.col("nDCG@10").is_null())["query"].to_list() == ["nothing"]
    both = both.drop_nulls()
    assert len(both) == len(ours)
    for name in ("nDCG@10", "AP"):
        assert both[name].to_list() == pytest.approx(both[f"retrieve {name}"].to_list(), abs=1e-9)


def test_binary_grades_are_what_no_grades_are(searched):
    graded = searched.pipeline.prepared.task("test")
    lists = torch.stack(
        [torch.randperm(60, generator=torch.Generator().manual_seed(n))[:20] for n in range(len(graded))]
    )
    recall, gain = graded.measure(lists, ["R@20", "nDCG@10"]).values()
    flat = graded.__class__(**{**graded.__dict__, "gains": None})
    assert torch.equal(flat.measure(lists, ["R@20"])["R@20"], recall)
    assert not torch.equal(flat.measure(lists, ["nDCG@10"])["nDCG@10"], gain)


def test_a_stricter_rule_may_be_asked_for(searched):
    recipe = Recipe.parse({**SEARCH, "positive": {"at_least": 2}})
    task = Prepared.make(recipe, searched.data, "raise").task("test")
    assert sorted(set(task.gains.tolist())) == [2, 3]


def test_a_text_may_be_read_in_a_second_way(searched):
    fields = {**SEARCH["fields"], "letters": {"of": "text", "tokenizer": "letters"}}
    models = {"towers": {**SEARCH["models"]["towers"], "features": None}}
    prepared = Prepared.make(
        Recipe.parse({**SEARCH, "fields": fields, "models": models}), searched.data, "raise"
    )
    column = prepared.features.spec["letters"]
    assert (column.side, column.tokenizer) == ("item", "letters")
    assert prepared.dataset.items.columns == ["doc", "title", "text"]
    assert prepared.items["letters"].shape[0] == TOPICS * DOCUMENTS


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"letters": {"tokenizer": "letters"}},
            "no field 'letters'.*one more reading of a text names it with of",
        ),
        (
            {"letters": {"of": "txt", "tokenizer": "letters"}},
            "of='txt' is no text of the data; did you mean 'text'",
        ),
        ({"txt": {"of": "text"}}, "txt.*needs a tokenizer"),
    ],
)
def test_a_reading_of_nothing_is_explained(searched, fields, message):
    with pytest.raises(ConfigError, match=message):
        Prepared.make(Recipe.parse({**SEARCH, "fields": fields}), searched.data, "raise")


def test_a_search_answers_as_the_known_query_of_the_same_words(searched):
    prepared, cascade = searched.pipeline.prepared, searched.pipeline.cascade()
    answerer = Answerer(prepared, cascade)
    row = prepared.dataset.queries.filter(pl.col("query") == "q3.0").row(0, named=True)
    answer = answerer.search(row["query_text"], k=20)
    run = read_run(searched.directory / "results/run.trec").filter(pl.col("query") == "q3.0")
    assert answer.items["doc"].to_list() == run["item"].to_list()
    assert answer.who == row["query_text"]
    assert answerer.answer(user="q3.0", k=20).items.equals(answer.items)
    assert answer.items.columns == ["rank", "doc", "title", "retrieve score"]
    assert "About 3" in answer.text()
    assert "retrieve: catalogue -> 20" in answer.text()


@pytest.mark.parametrize("text", ["naïve 水", "!?", "zzzz " * 1000])
def test_words_that_nobody_knows_are_answered_and_said(searched, text):
    answer = Answerer(searched.pipeline.prepared, searched.pipeline.cascade()).search(text, k=3)
    assert len(answer.items) == 3
    assert answer.who.endswith("(training knew none of these words)")
    assert answer.items["retrieve score"].is_finite().all()


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"text": " "}, "the query is empty"),
        ({"text": "a", "field": "query_txt"}, "no text of the query that is read; did you mean 'query_text'"),
        ({"text": "a", "depths": {"rank": 3}}, "no stage is called"),
    ],
)
def test_what_cannot_be_searched_says_why(searched, asked, message):
    with pytest.raises(ConfigError, match=message):
        Answerer(searched.pipeline.prepared, searched.pipeline.cascade()).search(**asked)


def test_a_recommender_has_nothing_to_search(trained):
    with pytest.raises(ConfigError, match="twotower recommend asks by id or features"):
        Answerer.open(trained.directory).search("tent")


def test_a_bundle_searches_as_its_run_and_finds_new_documents(searched, tmp_path):
    asked = f"{word(4, 1)} {word(4, 2)} {word(4, 3)}"
    before = Answerer(searched.pipeline.prepared, searched.pipeline.cascade()).search(asked, k=5)
    bundle = build(searched.directory, tmp_path / "bundles")
    assert bundle.answerer().search(asked, k=5).items.equals(before.items)
    with LiveBundle.load(tmp_path / "bundles", tmp_path / "items.sqlite") as live:
        live.upsert([{"doc": "new", "title": "New", "text": asked}])
        found = live.answerer().search(asked, k=5).items
        assert found.row(0)[:3] == (1, "new", "New")
        live.delete(["new"])
        assert live.answerer().search(asked, k=5).items.equals(before.items)


def test_inspection_names_texts_and_readings(searched):
    fields = inspect_run(searched.directory)["data"]["fields"]
    assert "text (text, item, words)" in fields
    assert "title (text, item)" in fields
