"""``twotower search`` on a run of its own, from files to an answer."""

from __future__ import annotations

import json

import pytest

from twotower.config import dump_yaml

TEXTS = {
    "d1": "red apples and pears",
    "d2": "green frogs jump",
    "d3": "blue water is wet",
    "d4": "apples fall",
}
ASKED = {"q1": "apples", "q2": "frogs", "q3": "water wet", "q4": "pears", "q5": "jump"}
QRELS = {"train": ["q1 0 d1 1", "q2 0 d2 1"], "dev": ["q3 0 d3 1"], "test": ["q4 0 d1 1", "q5 0 d2 1"]}
RECIPE = {
    "name": "words",
    "data": {"reader": "beir"},
    "fields": {"query_text": {"tokenizer": "words"}, "text": {"tokenizer": "words"}},
    "split": {"kind": "predefined"},
    "history": None,
    "models": {
        "towers": {
            "model": "dual-encoder",
            "features": ["query_text", "text"],
            "config": {"text": {"kind": "table", "dim": 64}},
            "objective": {"kind": "in-batch"},
            "train": {"epochs": 1, "batch_size": 2},
        }
    },
    "cascade": [{"stage": "retrieve", "model": "towers", "k": 3}],
    "evaluate": {"requests_timed": 2, "samples": 100},
    "threads": 1,
}


@pytest.fixture
def run(twotower, tmp_path):
    data = tmp_path / "collection"
    (data / "qrels").mkdir(parents=True)
    for name, texts in (("corpus", TEXTS), ("queries", ASKED)):
        lines = [json.dumps({"_id": i, "text": text}) for i, text in texts.items()]
        (data / f"{name}.jsonl").write_text("\n".join(lines))
    for part, lines in QRELS.items():
        (data / "qrels" / f"{part}.tsv").write_text("\n".join(lines))
    recipe = tmp_path / "words.yaml"
    recipe.write_text(dump_yaml(RECIPE))
    result = twotower("run", recipe, "--data", data, "--out", tmp_path / "run", "-q")
    assert result.exit_code == 0, result.stderr
    return tmp_path / "run"


def test_from_files_to_answers(twotower, run, tmp_path):
    result = twotower("search", run, "green frogs", "-k", "2")
    assert result.exit_code == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[0] == "green frogs"
    assert lines[1].split() == ["rank", "doc", "text", "retrieve", "score"]
    assert "d2" in next(line for line in lines if line.lstrip().startswith("1 "))
    assert "green frogs jump" in result.stdout  # without a title, the text says what it is
    assert "retrieve: catalogue -> 2" in result.stdout

    plain = json.loads(twotower("search", run, "green frogs", "--json", "--depth", "retrieve=1").stdout)
    assert plain["query"] == "green frogs"
    assert [item["doc"] for item in plain["items"]] == ["d2"]
    assert [step["stage"] for step in plain["trace"]] == ["retrieve"]

    assert twotower("bundle", "build", run, tmp_path / "bundles").exit_code == 0
    bundled = json.loads(twotower("search", tmp_path / "bundles", "green frogs", "--json").stdout)
    assert bundled["items"][0] == plain["items"][0]

    new = tmp_path / "new.jsonl"
    new.write_text('{"doc": "d9", "text": "green frogs"}\n')
    log = tmp_path / "items.sqlite"
    assert twotower("items", "upsert", tmp_path / "bundles", new, "--log", log).exit_code == 0
    live = json.loads(
        twotower("search", tmp_path / "bundles", "green frogs", "--items", log, "--json").stdout
    )
    assert live["items"][0]["doc"] == "d9"

    new.write_text('{"doc": "d9", "text": "green frogs"}\n{"doc": ""}\n')
    result = twotower("items", "upsert", tmp_path / "bundles", new, "--log", log)
    assert (result.exit_code, "new.jsonl:2 [column doc]: the item lacks its id" in result.stderr) == (
        65,
        True,
    )

    unknown = twotower("search", run, "zebras")
    assert unknown.stdout.startswith("zebras (training knew none of these words)\n")
    plain = json.loads(twotower("search", run, "zebras", "--json").stdout)
    assert (plain["query"], plain["remark"]) == ("zebras", "training knew none of these words")
    assert "remark" not in bundled

    few = twotower("search", run, "frogs", "--depth", "retrieve=1", "-k", "3")
    assert few.stdout.endswith("\nfewer than asked for, limited by depth: retrieve=1\n")

    result = twotower("search", run, "frogs", "--field", "text")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "'text' is no text of the query that is read" in result.stderr
    assert twotower("search", tmp_path, "frogs").exit_code == 74


def test_a_recommender_says_what_answers_instead(twotower, trained):
    result = twotower("search", trained.directory, "tents")
    assert result.exit_code == 2
    assert "queries have no text to search by; twotower recommend asks by id or features" in result.stderr
