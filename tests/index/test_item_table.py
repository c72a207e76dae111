"""The item table: what goes in comes out, from memory and from disk, in every storage."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from twotower.errors import DataError, MismatchError, StorageError
from twotower.index.item_table import ItemTable
from twotower.types import NO_ITEM, Rep, RepSpec

SPECS = (RepSpec("vector", (3,)), RepSpec("heads", (2, 2)), RepSpec("year", (), "int64"))


def encode(keys: Tensor) -> Rep:
    x = keys.float()
    return Rep(
        vector=torch.stack([x, x.sin(), -x], 1),
        heads=x.reshape(-1, 1, 1).expand(-1, 2, 2) / 3,
        year=keys + 1900,
    )


def build(**options: object) -> ItemTable:
    return ItemTable.build(encode, 10, SPECS, "digest", **options)


def same(a: Rep, b: Rep) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("chunk", [1, 3, 10, 100])
@pytest.mark.parametrize("on_disk", [False, True])
def test_chunks_and_disk_change_nothing(tmp_path: Path, chunk: int, on_disk: bool) -> None:
    table = build(chunk=chunk, directory=tmp_path if on_disk else None)
    assert same(table.slice(0, 10), encode(torch.arange(10)))
    assert (table.rows, table.bytes_per_item) == (10, 12 + 16 + 8)


def test_take_gives_rows_by_key_and_zeros_for_no_item() -> None:
    table = build()
    keys = torch.tensor([[7, NO_ITEM, 0], [NO_ITEM, NO_ITEM, 9]])
    rep = table.take(keys)
    for name, whole in encode(torch.arange(10)).items():
        assert rep[name].shape == (2, 3, *whole.shape[1:])
        assert torch.equal(rep[name][keys >= 0], whole[[7, 0, 9]])
        assert not rep[name][keys < 0].any()
    assert same(
        table.take(torch.tensor([[1, 2]])), Rep((n, t[None, 1:3]) for n, t in table.slice(0, 10).items())
    )


def test_take_of_nothing_and_from_an_empty_table() -> None:
    assert build().take(torch.empty(2, 0, dtype=torch.int64))["heads"].shape == (2, 0, 2, 2)
    empty = ItemTable.build(encode, 0, SPECS, "digest")
    assert empty.take(torch.full((2, 4), NO_ITEM))["vector"].tolist() == torch.zeros(2, 4, 3).tolist()
    assert (empty.rows, empty.bytes_per_item) == (0, 36)


@pytest.mark.parametrize("key", [-2, 10])
def test_a_key_that_cannot_be_is_an_error(key: int) -> None:
    with pytest.raises(IndexError, match="of a table of 10 items"):
        build().take(torch.tensor([[0, key]]))


@pytest.mark.parametrize(
    ("storage", "size"), [(None, 36), ("float32", 36), ("bfloat16", 22), ("float16", 22)]
)
@pytest.mark.parametrize("streamed", [False, True])
def test_storage_changes_bytes_and_precision_only(
    tmp_path: Path, storage: str | None, size: int, streamed: bool
) -> None:
    if not streamed:
        build(storage=storage).save(tmp_path)
    table = build(storage=storage, directory=tmp_path) if streamed else ItemTable.load(tmp_path, "digest")
    assert table.bytes_per_item == size
    exact = encode(torch.arange(10))
    for name, tensor in table.take(torch.arange(10)).items():
        assert tensor.dtype == exact[name].dtype
        torch.testing.assert_close(tensor, exact[name], rtol=1e-2, atol=0)
    assert torch.equal(table.slice(0, 10)["year"], exact["year"]), "whole numbers keep all their bits"
    assert same(table.stored, build(storage=storage).stored)


def test_an_empty_table_is_saved_and_loaded(tmp_path: Path) -> None:
    ItemTable.build(encode, 0, SPECS, "digest", directory=tmp_path)
    table = ItemTable.load(tmp_path)
    assert (table.rows, table.specs) == (0, SPECS)


def test_the_table_of_another_model_is_refused(tmp_path: Path) -> None:
    build().save(tmp_path)
    with pytest.raises(MismatchError, match="produced by digest, expected other"):
        ItemTable.load(tmp_path, expect="other")


def test_damage_is_refused(tmp_path: Path) -> None:
    build().save(tmp_path)
    heads = next(tmp_path.glob("heads-*.bin"))
    heads.write_bytes(heads.read_bytes()[:-4])
    with pytest.raises(StorageError, match=r"heads\.bin is damaged"):
        ItemTable.load(tmp_path)


def test_a_mapped_table_survives_its_replacement(tmp_path: Path) -> None:
    build().save(tmp_path)
    old = ItemTable.load(tmp_path)
    ItemTable.build(lambda keys: encode(keys + 5), 4, SPECS, "next", directory=tmp_path)
    assert same(old.slice(0, 10), encode(torch.arange(10)))
    assert same(ItemTable.load(tmp_path, "next").slice(0, 4), encode(torch.arange(5, 9)))


@pytest.mark.parametrize(
    "wrong",
    [
        lambda keys: Rep(vector=encode(keys)["vector"]),
        lambda keys: encode(keys[:-1]),
        lambda keys: Rep({**encode(keys), "year": keys.float()}),
    ],
    ids=["name", "rows", "dtype"],
)
def test_an_encoder_that_breaks_its_word_is_refused(wrong) -> None:
    with pytest.raises(MismatchError, match="the specs declare"):
        ItemTable.build(wrong, 10, SPECS, "digest")


def test_building_keeps_no_graph() -> None:
    weight = torch.ones(3, requires_grad=True)
    table = ItemTable.build(lambda keys: Rep(v=keys[:, None] * weight), 4, [RepSpec("v", (3,))], "digest")
    assert not table.stored["v"].requires_grad


def test_numbers_that_a_storage_cannot_hold_are_refused() -> None:
    def encode(keys: Tensor) -> Rep:
        return Rep(vector=torch.where(keys == 3, 1e5, 1.0)[:, None].expand(-1, 2))

    specs = [RepSpec("vector", (2,))]
    with pytest.raises(DataError, match="vector of item 3 is NaN or infinite as float16"):
        ItemTable.build(encode, 5, specs, "digest", storage="float16")
    assert ItemTable.build(encode, 5, specs, "digest", storage="bfloat16").rows == 5
