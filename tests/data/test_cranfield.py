import os
from pathlib import Path

import polars as pl
import pytest

from twotower.data.cranfield import Cranfield
from twotower.errors import ConfigError, DataError

DOCUMENTS = """.I 1
.T
wings in
a slipstream .
.A
someone
.B
a journal
.W
wings in
a slipstream .
  they lift .
.I 2
.T
heat
.A
.B
.W
heat is felt .
.A
it is not cold
.B
or so .
.I 3
.T
.A
.B
.W
"""
QUERIES = """.I 001
.W
what lifts
a wing .
.I 004
.W
what is heat .
.I 009
.W
what is cold .
"""
QRELS = "1 1 2 \n1 2 4\n2 2 1\n2  1 -1\n3 3 5\n"


def write(folder: Path, documents=DOCUMENTS, queries=QUERIES, qrels=QRELS) -> Path:
    (folder / "cran.all.1400").write_text(documents)
    (folder / "cran.qry").write_text(queries)
    (folder / "cranqrel").write_text(qrels)
    return folder


def test_the_traps(tmp_path):
    found = Cranfield().read(write(tmp_path))
    assert found.items.rows() == [
        ("1", "wings in a slipstream .", "wings in a slipstream . they lift ."),
        ("2", "heat", "heat is felt . it is not cold or so ."),
        ("3", None, ""),
    ]
    assert found.queries.rows() == [
        ("1", "what lifts a wing ."),
        ("2", "what is heat ."),
        ("3", "what is cold ."),
    ]
    judged = [("1", "1", 1), ("1", "2", 1), ("2", "2", 1), ("2", "1", 0), ("3", "3", 0)]
    assert found.events.select("query", "doc", "grade").rows() == judged


def test_graded_codes_count_down(tmp_path):
    found = Cranfield(relevance="graded").read(write(tmp_path))
    assert found.events["grade"].to_list() == [3, 1, 4, 0, 0]
    assert (
        found.notes[0] == "grades: 5 - code for the codes 1 (best) to 4, 0 for 5 and -1 (relevance: graded)"
    )


def test_line_ends_of_other_systems(tmp_path):
    other = [text.replace("\n", "\r\n") for text in (DOCUMENTS, QUERIES, QRELS)]
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    one, two = Cranfield().read(write(tmp_path / "a")), Cranfield().read(write(tmp_path / "b", *other))
    assert one.items.equals(two.items)
    assert one.queries.equals(two.queries)
    assert one.events.equals(two.events)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"documents": DOCUMENTS + ".I 1\n.T\n.A\n.B\n.W\n"},
            r"1400:29 \[column number\]: '1' stands here a",
        ),
        ({"documents": DOCUMENTS + ".I 4\n.T\n.W\n"}, r"1400:29: the record has no number, or not the marks"),
        ({"documents": DOCUMENTS + ".I four\n.T\n.A\n.B\n.W\n"}, r"1400:29: the record has no number"),
        (
            {"queries": QUERIES + ".I 5\nwhat ?\n"},
            r"cran.qry:11: the record has no number, or not the mark .W",
        ),
        ({"queries": QUERIES + ".I 5\n.W\n \n"}, r"cran.qry:11 \[column query_text\]: no value"),
        ({"qrels": QRELS + "1 3 7\n"}, r"cranqrel:6 \[column grade\]: 7 is no code"),
        ({"qrels": QRELS + "1 9 1\n"}, r"cranqrel:6 \[column doc\]: '9' is no doc"),
        ({"qrels": QRELS + "4 1 1\n"}, r"cranqrel:6 \[column query\]: '4' is no query"),
    ],
)
def test_what_is_broken_is_named_or_counted(tmp_path, changes, message):
    write(tmp_path, **changes)
    with pytest.raises(DataError, match=message):
        Cranfield().read(tmp_path)
    found = Cranfield().read(tmp_path, "skip")
    assert (len(found.items), len(found.queries), len(found.events)) == (3, 3, 5)
    assert sum("1 broken row dropped" in note for note in found.notes) == 1


def test_a_skipped_query_keeps_the_places_of_those_behind_it(tmp_path):
    found = Cranfield().read(write(tmp_path, queries=QUERIES.replace("what is heat .", "")), "skip")
    assert found.queries.rows() == [("1", "what lifts a wing ."), ("3", "what is cold .")]
    assert found.events["query"].unique(maintain_order=True).to_list() == ["1", "3"]


def test_another_file_is_no_collection(tmp_path):
    with pytest.raises(DataError, match=r"cran.qry:1: found 'hello', expected a record that begins with .I"):
        Cranfield().read(write(tmp_path, queries="hello\n"))


def test_there_are_always_folds():
    with pytest.raises(ConfigError, match="folds"):
        Cranfield.parse({"folds": 0})


@pytest.mark.data
def test_cranfield_as_counted():
    if "TWOTOWER_DATA" not in os.environ:
        pytest.skip("TWOTOWER_DATA is not set")
    folder = Path(os.environ["TWOTOWER_DATA"]) / "cranfield"
    found = Cranfield(relevance="graded").read(folder)
    assert (len(found.items), len(found.queries), len(found.events)) == (1400, 225, 1837)
    assert int((found.items["text"] == "").sum()) == 2
    assert found.events["doc"].n_unique() == 924
    grades = dict(found.events["grade"].value_counts().rows())
    assert grades == {4: 128, 3: 387, 2: 734, 1: 363, 0: 225}
    tests = [Cranfield(fold=fold).read(folder).events.filter(pl.col("part") == "test") for fold in range(5)]
    assert sum(test["query"].n_unique() for test in tests) == 225
    assert sum(map(len, tests)) == 1837
