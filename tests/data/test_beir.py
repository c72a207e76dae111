import gzip
import json
import os
from pathlib import Path

import polars as pl
import pytest

from twotower.data.beir import Beir
from twotower.data.splits import SplitConfig, split
from twotower.errors import ConfigError, DataError

DOCUMENTS = [
    {"_id": "d1", "title": "Cold water", "text": "is wet.", "metadata": {"year": 1}},
    {"_id": "d2", "title": "", "text": "[Title in brackets]"},
    {"_id": "d3", "title": "水は冷たい", "text": " "},
    {"_id": "d4"},
]
QUERIES = [{"_id": f"q{n}", "text": f"question {n}"} for n in range(1, 5)]
QRELS = {"train": ["q1\td1\t2", "q1\td2\t0"], "dev": ["q2\td3\t1"], "test": ["q3\td4\t1", "q3\td1\t1"]}


def lines(rows) -> str:
    return "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)


def write(folder: Path, documents=DOCUMENTS, queries=QUERIES, qrels=QRELS) -> Path:
    (folder / "qrels").mkdir()
    (folder / "corpus.jsonl").write_text(lines(documents), encoding="utf-8")
    (folder / "queries.jsonl.gz").write_bytes(gzip.compress(lines(queries).encode()))
    for part, rows in qrels.items():
        (folder / "qrels" / f"{part}.tsv").write_text(lines(["query-id\tcorpus-id\tscore", *rows]))
    return folder


def test_a_collection_becomes_a_data_set(tmp_path):
    found = Beir().read(write(tmp_path))
    assert found.items.rows() == [
        ("d1", "Cold water", "Cold water is wet."),
        ("d2", None, "[Title in brackets]"),
        ("d3", "水は冷たい", "水は冷たい"),
        ("d4", None, ""),
    ]
    assert found.queries.rows() == [(f"q{n}", f"question {n}") for n in range(1, 5)]
    assert found.events.select("query", "doc", "grade", "part").rows() == [
        ("q1", "d1", 2, "train"),
        ("q1", "d2", 0, "train"),
        ("q2", "d3", 1, "valid"),
        ("q3", "d4", 1, "test"),
        ("q3", "d1", 1, "test"),
    ]
    assert found.notes == (
        "judgements by grade: 0: 1, 1: 3, 2: 1",
        "1 of 4 documents have no text; they are kept",
        "1 of 4 queries have no judgement; they are kept",
    )
    parts = split(found, SplitConfig(kind="predefined"))
    assert [len(parts.part(name)) for name in ("train", "valid", "test")] == [2, 1, 2]


def test_no_document_needs_a_title(tmp_path):
    found = Beir().read(write(tmp_path, documents=[{"_id": f"d{n}", "text": "x"} for n in range(1, 5)]))
    assert found.items["title"].to_list() == [None] * 4
    assert found.items["text"].to_list() == ["x"] * 4


@pytest.mark.parametrize("name", ["qrels.txt", "qrels.tsv", "qrels/qrels.txt"])
def test_one_file_of_trec_is_all_test(tmp_path, name):
    write(tmp_path, qrels={})
    if "/" not in name:
        (tmp_path / "qrels").rmdir()
    (tmp_path / name).write_text("q1 0 d1 1\nq2 0 d2 0\n")
    found = Beir().read(tmp_path)
    assert found.events["part"].unique().to_list() == ["test"]
    assert "1 test queries have no relevant document and are not averaged" in found.notes
    with pytest.raises(DataError, match=r"part 'train' of 2 events is empty(.|\n)*folds"):
        split(found, SplitConfig(kind="predefined"))


@pytest.mark.parametrize(
    ("file", "rows", "message"),
    [
        (
            "corpus",
            [{"_id": "d1", "text": "again"}],
            r"corpus.jsonl:5 \[column _id\]: 'd1' stands here a second",
        ),
        ("corpus", [{"text": "nobody"}], r"corpus.jsonl:5 \[column _id\]: no value"),
        ("corpus", [{"_id": " ", "text": "nobody"}], r"corpus.jsonl:5 \[column _id\]: no value"),
        ("corpus", ["{"], r"corpus.jsonl:5: not valid JSON"),
        ("corpus", ['{"_id": "d9", "text": ["a"]}'], r"corpus.jsonl:5 \[column text\]: found \['a'\]"),
        (
            "corpus",
            ['{"_id": "d9", "text": "\\ud800"}'],
            r"corpus.jsonl:5 \[column text\]: half of a surrogate",
        ),
        ("queries", [{"_id": "q9", "text": " "}], r"queries.jsonl.gz:5 \[column text\]: no value"),
        ("queries", [{"_id": "q1", "text": "again"}], r"queries.jsonl.gz:5 \[column _id\]: 'q1' stands here"),
        ("test", ["q3\td2\tx"], r"test.tsv:4 \[column grade\]: found 'x'"),
        ("test", ["q3\td99\t1"], r"test.tsv:4 \[column doc\]: 'd99' is no doc of the collection"),
        ("test", ["q99\td1\t1"], r"test.tsv:4 \[column query\]: 'q99' is no query of the collection"),
    ],
)
def test_what_is_broken_is_named_or_counted(tmp_path, file, rows, message):
    write(
        tmp_path,
        documents=DOCUMENTS + (rows if file == "corpus" else []),
        queries=QUERIES + (rows if file == "queries" else []),
        qrels={**QRELS, "test": QRELS["test"] + (rows if file == "test" else [])},
    )
    with pytest.raises(DataError, match=message) as caught:
        Beir().read(tmp_path)
    assert caught.value.remedy
    found = Beir().read(tmp_path, "skip")
    assert (len(found.items), len(found.queries), len(found.events)) == (4, 4, 5)
    assert sum("1 broken row dropped" in note for note in found.notes) == 1


def test_judgements_of_a_dropped_query_are_counted_too(tmp_path):
    write(tmp_path, queries=[*QUERIES[:2], {"_id": "q3", "text": ""}])
    found = Beir().read(tmp_path, "skip")
    assert found.notes[:2] == (
        "queries.jsonl.gz: 1 broken row dropped, first in line 3 [column text]: no value, expected text",
        "test.tsv: 2 broken rows dropped, first in line 2 [column query]: 'q3' is no query of the collection",
    )


def test_judgements_that_are_not_read_are_said(tmp_path):
    write(tmp_path)
    for name in ("dev.txt", "more.tsv"):
        (tmp_path / "qrels" / name).write_text("q1\td1\t1\n")
    notes = Beir().read(tmp_path).notes
    assert notes[:2] == ("qrels/dev.txt is not read", "qrels/more.tsv is not read")


@pytest.mark.parametrize("name", ["corpus.jsonl", "queries.jsonl", "qrels.tsv or qrels.txt"])
def test_a_missing_file_is_named(tmp_path, name):
    write(tmp_path)
    for file in [*tmp_path.glob(f"{name}*"), *(tmp_path / "qrels").glob("*.tsv" if "or" in name else "-")]:
        file.unlink()
    with pytest.raises(DataError, match=f"no file {name}"):
        Beir().read(tmp_path)


MANY = [{"_id": f"q{n}", "text": "?"} for n in range(400)]
JUDGED = [f"q{n}\td{1 + n % 4}\t1" for n in range(400)]


def test_validation_queries_may_be_cut_from_train(tmp_path):
    write(tmp_path, queries=MANY, qrels={"train": JUDGED[:300], "test": JUDGED[300:]})
    found = Beir(valid_share=0.2).read(tmp_path)
    parts = {n: set(found.events.filter(pl.col("part") == n)["query"]) for n in ("train", "valid", "test")}
    assert parts["test"] == {f"q{n}" for n in range(300, 400)}
    assert len(parts["train"] | parts["valid"]) == 300
    assert 40 < len(parts["valid"]) < 80
    assert found.notes[0] == (
        f"{len(parts['valid'])} of 300 train queries became valid by the hash of their id (valid_share 0.2)"
    )


def test_folds_hold_each_query_once_as_test(tmp_path):
    write(tmp_path, queries=MANY, qrels={"train": JUDGED[:300], "test": JUDGED[300:]})
    tests, valids = [], []
    for fold in range(4):
        found = Beir(folds=4, fold=fold).read(tmp_path)
        parts = {
            n: set(found.events.filter(pl.col("part") == n)["query"]) for n in ("train", "valid", "test")
        }
        assert sum(map(len, parts.values())) == len(set.union(*parts.values())) == 400
        tests.append(parts["test"])
        valids.append(parts["valid"])
    assert sum(map(len, tests)) == len(set.union(*tests)) == 400
    assert valids == [*tests[1:], tests[0]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"folds": 2}, "folds must be 3 or more"),
        ({"folds": 3, "fold": 3}, "fold 3 of 3 folds; they count from 0"),
        ({"fold": 1}, "fold 1 of 0 folds"),
        ({"folds": 3, "valid_share": 0.1}, "choose one of them"),
    ],
)
def test_options_that_say_nothing(options, message):
    with pytest.raises(ConfigError, match=message):
        Beir.parse(options)


def test_a_share_of_what_has_a_valid_part_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="the parts are train, valid, test; drop valid_share"):
        Beir(valid_share=0.1).read(write(tmp_path))


def _data() -> Path:
    if "TWOTOWER_DATA" not in os.environ:
        pytest.skip("TWOTOWER_DATA is not set")
    return Path(os.environ["TWOTOWER_DATA"])


def _counts(found) -> dict[str, tuple[int, int]]:
    by_part = found.events.group_by("part").agg(pl.len(), pl.col("query").n_unique().alias("queries"))
    return {part: (queries, judged) for part, judged, queries in by_part.rows()}


@pytest.mark.data
def test_scifact_as_published():
    found = Beir().read(_data() / "scifact")
    assert (len(found.items), len(found.queries)) == (5183, 1109)
    assert _counts(found) == {"train": (809, 919), "test": (300, 339)}
    assert found.notes == ("judgements by grade: 1: 1,258",)


@pytest.mark.data
def test_nfcorpus_as_counted():
    found = Beir().read(_data() / "nfcorpus")
    assert (len(found.items), len(found.queries)) == (3395, 3244)
    assert _counts(found) == {"train": (2563, 110_075), "valid": (324, 11_385), "test": (323, 12_334)}
    assert set(found.events["grade"].unique()) == {1, 2}
