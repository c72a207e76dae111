import pytest

from twotower.data.marked import read_marked
from twotower.data.rows import Broken
from twotower.errors import DataError


def read(tmp_path, data: bytes, on_error="raise"):
    file = tmp_path / "a.xml"
    file.write_bytes(data)
    return read_marked(
        file, "r", {"id": r"<i>(\d+)</i>", "text": r"(?s)<t>(.*?)</t>"}, Broken(file, on_error)
    )


def test_pieces_are_joined_and_their_marks_left_out(tmp_path):
    raw = read(tmp_path, b"head\n<r x='1'><i>1</i><t> a<b>\nb</b></t><t>c &amp;lt;</t></r>\n<R></R >\n")
    assert raw.frame.rows() == [(0, "1", "a b c &lt;"), (1, None, None)]
    assert [raw.line_of(row) for row in range(raw.total)] == [2, 4]


def test_latin_1_is_read(tmp_path):
    assert read(tmp_path, "<r><t>caf\u00e9</t></r>".encode("latin-1")).frame["text"].to_list() == [
        "caf\u00e9"
    ]


def test_an_unclosed_record_is_named_or_left_out(tmp_path):
    data = b"<r><i>1</i></r>\n<r><i>2</i>\n<r><i>3</i></r>"
    with pytest.raises(DataError, match=r"a.xml:2: the record <r> is not closed"):
        read(tmp_path, data)
    assert read(tmp_path, data, "skip").frame["id"].to_list() == ["1", "3"]
