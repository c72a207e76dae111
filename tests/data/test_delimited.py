import csv
import gzip
import io
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from twotower.data import delimited
from twotower.data.delimited import Form, read_delimited
from twotower.data.rows import Broken
from twotower.errors import DataError
from twotower.schema import ROW


def read(path: Path, content: str | bytes, form: Form = Form(), wanted="abc", on_error="raise"):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    broken = Broken(path, on_error)
    return read_delimited(path, form, list(wanted), broken), broken


def test_columns_come_as_text_with_missing_values_as_null(tmp_path):
    raw, _ = read(tmp_path / "t.csv", 'a,b,c\r\n1,"x, y",\r\n2,,"say ""hi"""\r\n')
    assert raw.frame.rows() == [(0, "1", "x, y", None), (1, "2", None, 'say "hi"')]
    assert [raw.line_of(0), raw.line_of(1)] == [2, 3]


def test_separators_of_several_characters_leave_single_ones_alone(tmp_path):
    form = Form("::", quoted=False, names=("a", "b", "c"))
    raw, _ = read(tmp_path / "t.dat", '1::Alien: "3"::x\n2::Se7en::y\n', form)
    assert raw.frame["b"].to_list() == ['Alien: "3"', "Se7en"]
    assert raw.line_of(1) == 2


def test_latin1_is_read_only_where_it_is_allowed(tmp_path):
    content = "1|Misérables|x\n".encode("latin-1")
    form = Form("|", quoted=False, names=("a", "b", "c"), latin1=True)
    assert read(tmp_path / "t", content, form)[0].frame["b"][0] == "Misérables"
    assert read(tmp_path / "t", content.decode("latin-1"), form)[0].frame["b"][0] == "Misérables"
    with pytest.raises(DataError, match="not valid UTF-8"):
        read(tmp_path / "t", content, Form("|", quoted=False, names=("a", "b", "c")))


def test_lines_are_found_behind_blank_lines_and_quoted_line_breaks(tmp_path):
    raw, _ = read(tmp_path / "t.csv", 'a,b,c\n1,"two\nlines",x\n\n2,y,z\n')
    assert [raw.line_of(row) for row in range(2)] == [2, 5]


def test_gzip_is_known_by_its_content_and_bom_is_dropped(tmp_path):
    raw, _ = read(tmp_path / "t.csv", gzip.compress(b"\xef\xbb\xbfa,b,c\n1,2,3\n"))
    assert raw.frame.select("a", "b", "c").rows() == [("1", "2", "3")]


BROKEN = {
    "too few fields": ("a,b,c\n1,2,3\n4,5\n7,8,9\n", 3, "found 2 fields, expected 3"),
    "too many fields": ("a,b,c\n1,2,3\n\n4,5,6,7\n7,8,9\n", 4, "found 4 fields, expected 3"),
    "not UTF-8": (b"a,b,c\n1,2,3\n4,\xff,6\n7,8,9\n", 3, "not valid UTF-8"),
    "misplaced quote": ('a,b,c\n1,2,3\n4,"5"x",6\n7,8,9\n', 3, "misplaced quote"),
}


@pytest.mark.parametrize(("content", "line", "message"), BROKEN.values(), ids=BROKEN)
def test_a_broken_row_is_named_or_dropped_and_counted(tmp_path, content, line, message):
    with pytest.raises(DataError, match=message) as caught:
        read(tmp_path / "t.csv", content)
    assert (caught.value.line, caught.value.file) == (line, tmp_path / "t.csv")
    assert "--on-error skip" in str(caught.value)
    raw, broken = read(tmp_path / "t.csv", content, on_error="skip")
    assert raw.frame["a"].to_list() == ["1", "7"]
    assert raw.frame[ROW].to_list() == [0, 2]
    assert raw.total == 3
    assert broken.count == 1
    assert f"t.csv: 1 broken row dropped, first in line {line}" in broken.notes()[0]


NEVER_SKIPPED = {
    "empty file": (b"", "the file is empty"),
    "unclosed quote": (b'a,b,c\n1,2,3\n4,"5,6\n7,8,9\n', "never closed"),
    "doubled column": (b"a,b,b,c\n1,2,3,4\n", "twice"),
    "missing column": (b"a,bb,d\n1,2,3\n", "no such column"),
    "truncated gzip": (gzip.compress(b"a,b,c\n" + b"1,2,3\n" * 50_000)[:-40], "truncated or damaged"),
}


@pytest.mark.parametrize("on_error", ["raise", "skip"])
@pytest.mark.parametrize(("content", "message"), NEVER_SKIPPED.values(), ids=NEVER_SKIPPED)
def test_losses_that_cannot_be_counted_are_always_errors(tmp_path, content, message, on_error):
    with pytest.raises(DataError, match=message):
        read(tmp_path / "t.csv", content, on_error=on_error)


def test_a_truncated_gzip_says_how_far_it_can_be_read(tmp_path):
    lines = "".join(f"{n},{n * 7919 % 104729},x\n" for n in range(20_000))
    packed = gzip.compress(f"a,b,c\n{lines}".encode())
    with pytest.raises(DataError) as caught:
        read(tmp_path / "t.csv", packed[: len(packed) // 2])
    assert 5_000 < (caught.value.line or 0) < 15_000


field = st.text(st.characters(codec="utf-8", exclude_characters="\r\n\0\x1f"), max_size=6)


@given(st.lists(st.tuples(field, field, field), min_size=1, max_size=8), st.booleans())
def test_the_bulk_and_the_careful_path_agree(tmp_path_factory, rows, break_one):
    """Oracle: what the csv module wrote, with or without a broken row at the end."""
    out = io.StringIO(newline="")
    csv.writer(out, quoting=csv.QUOTE_ALL).writerows([("a", "b", "c"), *rows])
    content = out.getvalue() + ("only one\r\n" if break_one else "")
    raw, broken = read(tmp_path_factory.mktemp("t") / "t.csv", content, on_error="skip")
    expected = [tuple(value or None for value in row) for row in rows]
    assert raw.frame.select("a", "b", "c").rows() == expected
    assert broken.count == break_one


def test_the_table_stays_text(tmp_path):
    raw, _ = read(tmp_path / "t.csv", "a,b,c\n007,1e3,true\n")
    assert raw.frame.schema == {ROW: pl.get_index_type(), "a": pl.String, "b": pl.String, "c": pl.String}


HIDING = {  # a stray quote and a later one: taken for one value, they would hide the rows between
    "an inch mark": ('a,b,c\n1,2,"Rocky\n4,5,foo\n7,8,5" disc\n1,2,bar\n', ["4", "7", "1"]),
    "two quotes in later fields": ('a,b,c\n1,2,"Rocky\n4,5,foo\n7,8,5" disc\n1,2,b"ar\n', ["4", "7", "1"]),
    "a quote closed too early": ('a,b,c\n1,"2"x,3\n4,5,6\n', ["4"]),
}


@pytest.mark.parametrize(("content", "kept"), HIDING.values(), ids=HIDING)
def test_a_misplaced_quote_hides_no_row(tmp_path, content, kept):
    with pytest.raises(DataError, match="misplaced quote") as caught:
        read(tmp_path / "t.csv", content)
    assert caught.value.line == 2
    raw, broken = read(tmp_path / "t.csv", content, on_error="skip")
    assert raw.frame["a"].to_list() == kept
    assert (raw.total, broken.count) == (len(kept) + 1, 1)


def test_sound_quotes_are_no_reason_to_be_careful(tmp_path, monkeypatch):
    monkeypatch.setattr(delimited, "_careful", lambda *_: pytest.fail("the careful path was taken"))
    raw, _ = read(tmp_path / "t.csv", 'a,b,c\r\n"1",5" disc,"x, ""y"", z"\r\n2,"a\nb",""\r\n')
    assert raw.frame.select("a", "b", "c").rows() == [("1", '5" disc', 'x, "y", z'), ("2", "a\nb", None)]


def test_blank_lines_before_the_header_make_it_no_row(tmp_path):
    raw, _ = read(tmp_path / "t.csv", "\n\r\na,b,c\n1,2,3\n\n4,5,6\n")
    assert raw.frame["a"].to_list() == ["1", "4"]
    assert [raw.line_of(row) for row in (0, 1)] == [4, 6]


@pytest.mark.parametrize("separator", ["::", "§"])
def test_a_long_separator_inside_quotes_is_text(tmp_path, separator):
    content = 'a::b::c\n1::"x::y"::2\n3::4::"5\n6"\n'.replace("::", separator)
    raw, _ = read(tmp_path / "t.dat", content, Form(separator))
    assert raw.frame["b"].to_list() == [f"x{separator}y", "4"]


def test_long_values_are_sound_beside_a_broken_row(tmp_path):
    raw, broken = read(tmp_path / "t.csv", f"a,b,c\n1,2,{'x' * 200_000}\n4,5\n", on_error="skip")
    assert (raw.frame["c"].str.len_bytes().to_list(), broken.count) == ([200_000], 1)
