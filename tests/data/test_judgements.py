import gzip

import polars as pl
import pytest

from twotower.data.judgements import Judgements
from twotower.errors import DataError


def read(tmp_path, text, on_error="raise"):
    file = tmp_path / "test.tsv"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return Judgements.read(file, on_error)


ROWS = [("q1", "d1", 2), ("q1", "d2", 0), ("q2", "d1", -1)]


@pytest.mark.parametrize(
    "text",
    [
        "query-id\tcorpus-id\tscore\nq1\td1\t2\nq1\td2\t0\nq2\td1\t-1\n",
        "q1\td1\t2\nq1\td2\t0\nq2\td1\t-1",
        "q1 0 d1 2\nq1 Q0 d2 0\n\nq2 0 d1 -1\n",
        "q1  d1 2 \r\nq1 d2  0 \r\n q2 d1 -1\r\n",
        gzip.compress(b"query-id\tcorpus-id\tscore\nq1\td1\t2\nq1\td2\t0\nq2\td1\t-1\n", mtime=0),
    ],
)
def test_every_form_holds_the_same(tmp_path, text):
    assert read(tmp_path, text).frame.drop("line").rows() == ROWS


def test_ids_between_tabs_may_hold_blanks(tmp_path):
    assert read(tmp_path, "q 1\td 1\t1\n").frame.rows() == [("q 1", "d 1", 1, 1)]


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ("q9 d9", r"test.tsv:3: found 2 fields, expected 3: query document grade"),
        ("q9 0 d9 1", r"test.tsv:3: found 4 fields, expected 3"),
        ("q9 d9 much", r"test.tsv:3 \[column grade\]: found 'much', expected an integer"),
        ("q9 d9 0.5", r"test.tsv:3 \[column grade\]: found '0.5', expected an integer"),
        ("q1 d1 3", r"test.tsv:3 \[column doc\]: 'd1' is judged a second time"),
    ],
)
def test_a_broken_line_is_named_or_counted(tmp_path, bad, message):
    text = f"q1 d1 2\nq1 d2 0\n{bad}\nq2 d1 -1\n"
    with pytest.raises(DataError, match=message) as caught:
        read(tmp_path, text)
    assert "--on-error skip" in str(caught.value)
    found = read(tmp_path, text, "skip")
    assert found.frame.drop("line").rows() == ROWS
    assert found.frame["line"].to_list() == [1, 2, 4]
    assert len(found.notes) == 1
    assert found.notes[0].startswith("test.tsv: 1 broken row dropped, first in line 3")


def test_a_broken_first_line_is_no_header(tmp_path):
    with pytest.raises(DataError, match=r"test.tsv:1 \[column grade\]"):
        read(tmp_path, "query doc grade\nq1 d1 2\n")


def test_unknown_ids_are_named_or_counted_apart(tmp_path):
    text = "q1 d1 1\nq7 d1 1\nq1 d8 1\nq1 d9 1\n"
    queries, documents = pl.Series(["q1"]), pl.Series(["d1"])
    with pytest.raises(DataError, match=r"test.tsv:2 \[column query\]: 'q7' is no query of the collection"):
        read(tmp_path, text).known(queries, documents)
    found = read(tmp_path, text, "skip").known(queries, documents)
    assert found.frame.rows() == [("q1", "d1", 1, 1)]
    assert [note.split(",")[0] for note in found.notes] == [
        "test.tsv: 1 broken row dropped",
        "test.tsv: 2 broken rows dropped",
    ]


def test_nothing_sound_is_an_error_even_when_skipping(tmp_path):
    with pytest.raises(DataError, match="not one sound row"):
        read(tmp_path, "a b c\n", "skip")
    with pytest.raises(DataError, match="the file is empty"):
        read(tmp_path, "\n")
    with pytest.raises(DataError, match="the file has no rows"):
        read(tmp_path, "query-id\tcorpus-id\tscore\n")
