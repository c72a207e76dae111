import gzip

import pytest

from twotower.data.files import find_file, first_file, read_bytes
from twotower.errors import DataError


def test_the_first_name_wins_plain_or_packed(tmp_path):
    (tmp_path / "b.csv").touch()
    (tmp_path / "a.csv.gz").touch()
    assert find_file(tmp_path, "a.csv", "b.csv") == tmp_path / "a.csv.gz"
    assert first_file(tmp_path, "c.csv") is None


def test_two_gzip_members_are_one_file(tmp_path):
    (tmp_path / "t").write_bytes(gzip.compress(b"one\n") + gzip.compress(b"two\n"))
    assert read_bytes(tmp_path / "t") == b"one\ntwo\n"


@pytest.mark.parametrize("content", [b"", b"\n \n", gzip.compress(b"", mtime=0), b"\xef\xbb\xbf"])
def test_nothing_is_an_error(tmp_path, content):
    (tmp_path / "t").write_bytes(content)
    with pytest.raises(DataError, match="the file is empty"):
        read_bytes(tmp_path / "t")


def test_what_is_no_file_is_an_error(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        read_bytes(tmp_path / "t")
    with pytest.raises(DataError, match="cannot be read"):
        read_bytes(tmp_path)
