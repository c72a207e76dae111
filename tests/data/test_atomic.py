import pytest

from twotower.data.atomic import replacing
from twotower.errors import StorageError


def test_a_finished_block_replaces_the_file(tmp_path):
    path = tmp_path / "x"
    path.write_text("old")
    with replacing(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["x"]


def write_half(path, error):
    with replacing(path) as temporary:
        temporary.write_text("half")
        raise error


@pytest.mark.parametrize(
    ("error", "raised", "message"),
    [
        (OSError(28, "No space left on device"), StorageError, r"x: could not be written \(No space left"),
        (KeyError("k"), KeyError, "k"),
    ],
)
def test_a_failed_block_leaves_the_old_file_alone(tmp_path, error, raised, message):
    path = tmp_path / "x"
    path.write_text("old")
    with pytest.raises(raised, match=message):
        write_half(path, error)
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["x"]
