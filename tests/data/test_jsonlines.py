from pathlib import Path

import polars as pl
import pytest

from twotower.data.jsonlines import read_jsonlines
from twotower.data.rows import Broken
from twotower.errors import DataError
from twotower.schema import ROW

GOOD = b'{"a": "x", "n": 1, "tags": ["p", "q"]}\n\n{"n": 2.5, "a": null}\n'


def read(path: Path, content: bytes, on_error="raise"):
    path.write_bytes(content)
    broken = Broken(path, on_error)
    return read_jsonlines(path, ["a", "n", "tags"], broken, lists=["tags"]), broken


def test_values_come_as_text_and_lists_of_text(tmp_path):
    raw, _ = read(tmp_path / "t.jsonl", GOOD)
    assert raw.frame.rows() == [(0, "x", "1", ["p", "q"]), (1, None, "2.5", None)]
    assert [raw.line_of(0), raw.line_of(1)] == [1, 3]


BROKEN = {
    "cut off": (b'{"a": "y", "n":', "not valid JSON"),
    "not an object": (b"[1, 2]", "found list, expected a JSON object"),
    "list for a value": (b'{"a": ["y"], "n": 1}', "expected a single value"),
    "value for a list": (b'{"a": "y", "tags": "p"}', "expected a list"),
    "not UTF-8": (b'{"a": "\xff"}', "not valid JSON"),
}


@pytest.mark.parametrize(("line", "message"), BROKEN.values(), ids=BROKEN)
def test_a_broken_line_is_named_or_dropped_and_counted(tmp_path, line, message):
    content = GOOD + line + b'\n{"a": "z", "n": true}\n'
    with pytest.raises(DataError, match=message) as caught:
        read(tmp_path / "t.jsonl", content)
    assert caught.value.line == 4
    raw, broken = read(tmp_path / "t.jsonl", content, on_error="skip")
    assert raw.frame["a"].to_list() == ["x", None, "z"]
    assert raw.frame[ROW].to_list() == [0, 1, 3]
    assert "1 broken row dropped, first in line 4" in broken.notes()[0]


def test_the_careful_path_gives_the_same_values(tmp_path):
    bulk, _ = read(tmp_path / "t.jsonl", GOOD)
    careful, _ = read(tmp_path / "t.jsonl", GOOD + b"oops\n", on_error="skip")
    assert bulk.frame.equals(careful.frame.select(pl.col(ROW).cast(pl.get_index_type()), "a", "n", "tags"))


def test_a_key_that_no_line_has_is_a_missing_column(tmp_path):
    with pytest.raises(DataError, match="did you mean 'tag'") as caught:
        read(tmp_path / "t.jsonl", b'{"a": "x", "n": 1, "tag": []}\n')
    assert caught.value.column == "tags"


def test_a_key_may_be_optional(tmp_path):
    file = tmp_path / "a.jsonl"
    file.write_text('{"_id": "a"}\n{"_id": "b"}\n')
    with pytest.raises(DataError, match="title"):
        read_jsonlines(file, ["_id", "title"], Broken(file, "raise"))
    raw = read_jsonlines(file, ["_id", "title"], Broken(file, "raise"), optional=["title"])
    assert raw.frame["title"].to_list() == [None, None]


@pytest.mark.parametrize("value", ['"\\ud800"', '["a", "\\udfff"]'])
def test_half_of_a_surrogate_pair_is_no_text(tmp_path, value):
    file = tmp_path / "a.jsonl"
    file.write_text(f'{{"x": {value}}}\n{{"x": {value.replace("ud800", "ud83d" + chr(92) + "ude00")}}}\n')
    lists = ["x"] if value.startswith("[") else []
    with pytest.raises(DataError, match=r"a.jsonl:1 \[column x\]: half of a surrogate pair"):
        read_jsonlines(file, ["x"], Broken(file, "raise"), lists=lists)
