"""Artefacts: nothing is overwritten, nothing damaged or foreign is read."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from torch import Tensor

from twotower.data.atomic import LOCK
from twotower.errors import MismatchError, StorageError
from twotower.index.build import load_index
from twotower.index.item_table import ItemTable
from twotower.index.manifest import MANIFEST, open_artefact, publish, write_tensor


def put(directory: Path, text: str, produced_by: str = "model", kind: str = "thing") -> None:
    with publish(directory, kind=kind, produced_by=produced_by, about={"n": 1}) as draft:
        (draft / "text.txt").write_text(text)


def get(directory: Path) -> str:
    return open_artefact(directory, "thing").file("text.txt").read_text()


def test_what_is_published_is_found_again(tmp_path: Path) -> None:
    put(tmp_path / "new" / "place", "hello")
    artefact = open_artefact(tmp_path / "new" / "place", ("other", "thing"), expect="model")
    assert (artefact.kind, artefact.produced_by, artefact.about) == ("thing", "model", {"n": 1})
    assert get(tmp_path / "new" / "place") == "hello"


def test_a_new_version_replaces_the_old_one_and_leaves_foreign_files_alone(tmp_path: Path) -> None:
    put(tmp_path, "one")
    (tmp_path / "notes.txt").write_text("mine")
    put(tmp_path, "two")
    assert get(tmp_path) == "two"
    names = sorted(path.suffix for path in tmp_path.iterdir() if path.name != LOCK)
    assert names == [".json", ".txt", ".txt"], "the old version and the draft are gone"
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_publishing_the_same_content_twice_keeps_it(tmp_path: Path) -> None:
    put(tmp_path, "same")
    put(tmp_path, "same", produced_by="another")
    assert get(tmp_path) == "same"
    open_artefact(tmp_path, "thing", expect="another")


def test_an_error_while_writing_leaves_the_old_version(tmp_path: Path) -> None:
    put(tmp_path, "old")

    def fail() -> None:
        with publish(tmp_path, kind="thing", produced_by="model", about={}) as draft:
            (draft / "text.txt").write_text("half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert get(tmp_path) == "old"
    assert len(list(tmp_path.iterdir())) == 3


def test_what_a_crash_has_left_goes_with_the_next_version(tmp_path: Path) -> None:
    (tmp_path / ".tmp-abc").mkdir()
    (tmp_path / ".tmp-abc" / "vectors.bin").write_bytes(b"half")
    (tmp_path / "vectors-0123456789abcdef.bin").write_bytes(b"never named")
    put(tmp_path, "new")
    assert {path.name.partition("-")[0] for path in tmp_path.iterdir()} == {"text", MANIFEST, LOCK}


def test_of_two_writers_the_second_is_refused(tmp_path: Path) -> None:
    with publish(tmp_path, kind="thing", produced_by="model", about={}) as draft:
        (draft / "text.txt").write_text("first")
        with pytest.raises(StorageError, match="another process is building this thing"):
            put(tmp_path, "second")
    assert get(tmp_path) == "first"


def test_a_full_disk_is_a_clear_error_and_the_old_version_survives(tmp_path: Path) -> None:
    """The kernel really refuses: the child may not write files above 20 kB."""
    program = """
        import resource, sys, torch
        from pathlib import Path
        from twotower.errors import StorageError
        from twotower.index.build import IndexConfig, build_index
        from twotower.index.item_table import ItemTable
        from twotower.types import Rep, RepSpec

        def save(kind, rows):
            vectors, place = torch.ones(rows, 4), Path(sys.argv[1]) / kind
            if kind == "table":
                specs = [RepSpec("vector", (4,))]
                ItemTable.build(lambda keys: Rep(vector=vectors[keys]), rows, specs, "m", directory=place)
            else:
                build_index(IndexConfig(kind=kind, factory="Flat"), vectors, produced_by="m").save(place)

        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
        for kind in ("table", "exact", "faiss"):
            save(kind, 50)
            try:
                save(kind, 5_000)
            except StorageError as error:
                print(error)
    """
    child = [sys.executable, "-W", "error", "-c", textwrap.dedent(program), str(tmp_path)]
    messages = subprocess.run(child, check=True, capture_output=True, text=True).stdout.splitlines()
    for kind, message in zip(("table", "exact", "faiss"), messages, strict=True):
        assert message.startswith(f"{tmp_path / kind}: could not write the")
        assert "File too large" in message
        assert "unchanged" in message
        assert not list((tmp_path / kind).glob(".tmp-*"))
    assert ItemTable.load(tmp_path / "table").rows == 50
    assert [len(load_index(tmp_path / kind)) for kind in ("exact", "faiss")] == [50, 50]


def test_a_directory_that_cannot_be_made_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match="could not write the thing"):
        put(tmp_path / "file", "text")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), "4 of 5 bytes"),
        (lambda path: path.write_bytes(b"hexlo"), "checksum is wrong"),
        (lambda path: path.unlink(), "cannot be read"),
    ],
    ids=["truncated", "flipped", "missing"],
)
def test_damage_is_noticed(tmp_path: Path, damage, message: str) -> None:
    put(tmp_path, "hello")
    damage(next(tmp_path.glob("*.txt")))
    with pytest.raises(StorageError, match=message):
        open_artefact(tmp_path, "thing")


def test_without_verification_only_sizes_are_compared(tmp_path: Path) -> None:
    put(tmp_path, "hello")
    next(tmp_path.glob("*.txt")).write_bytes(b"hexlo")
    open_artefact(tmp_path, "thing", verify=False)
    next(tmp_path.glob("*.txt")).write_bytes(b"hex")
    with pytest.raises(StorageError, match="3 of 5 bytes"):
        open_artefact(tmp_path, "thing", verify=False)


def test_the_wrong_artefact_is_refused(tmp_path: Path) -> None:
    put(tmp_path, "hello", produced_by="a" * 12)
    with pytest.raises(MismatchError, match="holds: thing, expected: table"):
        open_artefact(tmp_path, "table")
    with pytest.raises(MismatchError, match="produced by aaaaaaaaaaaa, expected bbbbbbbbbbbb"):
        open_artefact(tmp_path, "thing", expect="b" * 12)


def test_a_manifest_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="no such file"):
        open_artefact(tmp_path, "thing")
    (tmp_path / MANIFEST).write_text('{"half": ')
    with pytest.raises(StorageError, match="not a manifest"):
        open_artefact(tmp_path, "thing")


def test_newer_formats_and_paths_out_of_the_folder_are_refused(tmp_path: Path) -> None:
    put(tmp_path, "hello")
    manifest = json.loads((tmp_path / MANIFEST).read_text())
    (tmp_path / MANIFEST).write_text(json.dumps({**manifest, "format": 99}))
    with pytest.raises(StorageError, match="format 99"):
        open_artefact(tmp_path, "thing")
    manifest["files"]["text.txt"]["stored_as"] = "../secret"
    (tmp_path / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(StorageError, match="stored_as"):
        open_artefact(tmp_path, "thing")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "int64", "bool"])
def test_tensors_come_back_bit_for_bit_and_privately(tmp_path: Path, dtype: str) -> None:
    tensor = torch.arange(6).reshape(2, 3).to(getattr(torch, dtype))
    with publish(tmp_path, kind="thing", produced_by="m", about={}) as draft:
        write_tensor(draft / "a.bin", tensor[:1])
        write_tensor(draft / "a.bin", tensor[1:])
        write_tensor(draft / "none.bin", tensor[:0])
    artefact = open_artefact(tmp_path, "thing")
    mapped = artefact.tensor("a.bin", (2, 3), dtype)
    assert torch.equal(mapped, tensor)
    mapped.zero_()
    assert torch.equal(artefact.tensor("a.bin", (2, 3), dtype), tensor), "writing stays in this process"
    assert artefact.tensor("none.bin", (0, 3), dtype).shape == (0, 3)
    with pytest.raises(StorageError, match="expected"):
        artefact.tensor("a.bin", (3, 3), dtype)
    with pytest.raises(StorageError, match=r"no file 'b\.bin'"):
        artefact.tensor("b.bin", (3, 3), dtype)


@pytest.mark.parametrize(
    "tensor",
    [
        torch.arange(9.0).reshape(3, 3)[1:2, 1:2],
        torch.arange(9.0).reshape(3, 3)[:, ::2][1:2, :0],
        torch.tensor(7).expand(1),
        torch.arange(6)[::6],
    ],
    ids=lambda tensor: f"{tuple(tensor.shape)} {tensor.stride()}",
)
def test_a_tensor_of_hardly_anything_is_kept_whatever_its_strides(tensor: Tensor, tmp_path: Path) -> None:
    with publish(tmp_path, kind="thing", produced_by="model", about={}) as draft:
        write_tensor(draft / "one.bin", tensor)
    kept = open_artefact(tmp_path, "thing").tensor(
        "one.bin", tuple(tensor.shape), str(tensor.dtype).removeprefix("torch.")
    )
    assert torch.equal(kept, tensor)
