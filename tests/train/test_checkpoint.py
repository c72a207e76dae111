import errno
import os

import pytest
import torch
from torch import nn

from twotower.errors import StorageError
from twotower.train import checkpoint
from twotower.train.checkpoint import load_tree, save_tree

TREE = {
    "model": {"weight": torch.arange(6.0).reshape(2, 3), "half": torch.ones(2, dtype=torch.bfloat16)},
    "random": torch.arange(5, dtype=torch.uint8),
    "scalars": {"step": torch.tensor(3.0), "empty": torch.zeros(0, 4), "flag": torch.tensor([True, False])},
    "plain": [1, 2.5, None, True, "text", {"big": 2**100, "tiny": 0.1 + 0.2}, float("inf")],
}


def assert_equal(found, expected):
    assert type(found) is type(expected)
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for key in expected:
            assert_equal(found[key], expected[key])
    elif isinstance(expected, list):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_equal(one, other)
    elif isinstance(expected, torch.Tensor):
        assert found.dtype == expected.dtype
        assert torch.equal(found, expected)
    else:
        assert found == expected


def test_a_tree_comes_back_as_it_went(tmp_path):
    save_tree(tmp_path / "new" / "folder" / "a.safetensors", TREE)
    assert_equal(load_tree(tmp_path / "new" / "folder" / "a.safetensors"), TREE)


def test_a_state_dict_keeps_its_plain_names_for_other_tools(tmp_path):
    from safetensors.torch import load_file

    save_tree(tmp_path / "a", nn.Linear(2, 3).state_dict())
    assert load_file(tmp_path / "a").keys() == {"weight", "bias"}


def test_tied_and_viewed_tensors_are_written_whole(tmp_path):
    base = torch.arange(12.0).reshape(3, 4)
    tree = {"a": base, "tied": base, "column": base[:, 1], "row": base[1]}
    save_tree(tmp_path / "a", tree)
    assert_equal(load_tree(tmp_path / "a"), tree)
    assert (tmp_path / "a").stat().st_size < 2000


def test_what_is_no_plain_value_is_refused_by_name(tmp_path):
    with pytest.raises(TypeError, match=r"a/0: .* found object"):
        save_tree(tmp_path / "a", {"a": [object()]})
    with pytest.raises(ValueError, match="share the name 'a/b'"):
        save_tree(tmp_path / "a", {"a": {"b": torch.zeros(1)}, "a/b": torch.zeros(1)})


@pytest.mark.parametrize("place", ["header", "data", "cut", "empty", "other", "absent", "folder"])
def test_damage_is_told(place, tmp_path):
    path = tmp_path / "a.safetensors"
    save_tree(path, TREE)
    content = bytearray(path.read_bytes())
    if place == "header":
        at = content.index(b"text")
        content[at : at + 4] = b"test"
    elif place == "data":
        content[-3] ^= 1
    path.write_bytes({"cut": content[:-4], "empty": b"", "other": b"not a tensor at all"}.get(place, content))
    if place in ("absent", "folder"):
        path.unlink()
    if place == "folder":
        path.mkdir()
    words = {"header": "checksum", "data": "checksum", "absent": "no such file", "folder": "no such file"}
    with pytest.raises(StorageError, match=words.get(place, "truncated or damaged")):
        load_tree(path)


def test_a_foreign_safetensors_file_is_told(tmp_path):
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(1)}, tmp_path / "a")
    with pytest.raises(StorageError, match="not one that twotower wrote"):
        load_tree(tmp_path / "a")


def test_a_failed_write_leaves_the_old_file_and_no_litter(tmp_path, monkeypatch):
    path = tmp_path / "a"
    save_tree(path, {"version": 1})

    def full(_handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint.os, "fsync", full)
    with pytest.raises(StorageError, match="No space left"):
        save_tree(path, {"version": 2})
    assert load_tree(path) == {"version": 1}
    assert os.listdir(tmp_path) == ["a"]


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="could not be written"):
        save_tree(tmp_path / "file" / "a", {})
