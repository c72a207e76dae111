"""The delta over an item table: the newest row of every key, in memory and compacted."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from twotower.errors import ConfigError, MismatchError
from twotower.index.delta_table import DeltaTable
from twotower.index.item_table import ItemTable, Storage
from twotower.types import NO_ITEM, Rep, RepSpec

SPECS = (RepSpec("vector", (3,)), RepSpec("year", (), "int64"))


def encode(keys: Tensor, version: int = 0) -> Rep:
    return Rep(vector=torch.stack([keys + version, keys / 3, -keys], 1).float(), year=keys + 1900 + version)


def table(storage: Storage | None = None) -> DeltaTable:
    return DeltaTable(ItemTable.build(encode, 10, SPECS, "digest", storage=storage))


def same(a: Rep, b: Rep) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("on_disk", [False, True])
@pytest.mark.parametrize("storage", [None, "bfloat16"])
def test_random_changes_leave_what_building_afresh_gives(
    storage: Storage | None, on_disk: bool, tmp_path: Path
) -> None:
    generator = torch.Generator().manual_seed(0)
    index, version = table(storage), [0] * 10 + [-1] * 5
    for step in range(1, 60):
        keys = torch.randperm(15, generator=generator)[: step % 4]
        index.upsert(keys, encode(keys, step))
        for key in keys.tolist():
            version[key] = step
        if step % 20 == 0:
            index.compact(tmp_path if on_disk else None)
            assert index.n_fresh == 0
    fresh = torch.tensor(version)

    def afresh(keys: Tensor) -> Rep:
        parts = [encode(key[None], int(fresh[key])) for key in keys]
        return Rep((name, torch.cat([part[name] for part in parts])) for name in parts[0])

    wanted = ItemTable.build(afresh, 15, SPECS, "digest", storage=storage)
    asked = torch.randint(NO_ITEM, 15, (4, 30), generator=generator)
    assert same(index.take(asked), wanted.take(asked))
    assert same(index.slice(3, 15), wanted.slice(3, 15))
    assert (index.rows, index.bytes_per_item, index.kept) == (15, wanted.bytes_per_item, wanted.kept)
    assert index.take(torch.empty(2, 0, dtype=torch.int64))["vector"].shape == (2, 0, 3)


def test_keys_that_never_had_a_row() -> None:
    index = table()
    index.upsert(torch.tensor([12]), encode(torch.tensor([12])))
    with pytest.raises(IndexError, match="of a table of 10 items"):
        index.take(torch.tensor([[11]]))
    with pytest.raises(IndexError, match="of a table of 10 items"):
        index.take(torch.tensor([[12, 13]]))
    index.compact()
    assert index.slice(10, 13)["year"].tolist() == [0, 0, 1912]


def test_changes_while_compacting_survive(monkeypatch: pytest.MonkeyPatch) -> None:
    index, build = table(), ItemTable.build
    index.upsert(torch.tensor([2, 3]), encode(torch.tensor([2, 3]), 1))

    def slowly(*args: object, **options: object) -> ItemTable:
        built = build(*args, **options)
        index.upsert(torch.tensor([3, 10]), encode(torch.tensor([3, 10]), 2))
        return built

    monkeypatch.setattr(ItemTable, "build", slowly)
    index.compact()
    assert index.slice(0, 11)["year"].tolist() == [1900, 1901, 1903, 1905, *range(1904, 1910), 1912]
    assert index.n_fresh == 2


def test_a_compaction_does_not_go_on_with_one_that_died(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The dead one had read a row that has changed since: its draft would bring the old one back."""
    monkeypatch.setattr("twotower.index.draft.SAVE_EVERY_S", 0.0)
    monkeypatch.setattr("twotower.index.item_table.CHUNK", 2)
    index, take = table(), ItemTable.take
    index.upsert(torch.tensor([1]), encode(torch.tensor([1]), 1))

    def dies(self: ItemTable, keys: torch.Tensor) -> Rep:
        if 6 in keys:
            raise KeyboardInterrupt
        return take(self, keys)

    with monkeypatch.context() as patch:
        patch.setattr(ItemTable, "take", dies)
        with pytest.raises(KeyboardInterrupt):
            index.compact(tmp_path)
    assert (tmp_path / ".draft").exists()
    index.upsert(torch.tensor([1]), encode(torch.tensor([1]), 2))
    index.compact(tmp_path)
    assert index.n_fresh == 0
    assert index.take(torch.tensor([[1]]))["year"].tolist() == encode(torch.tensor([[1]]), 2)["year"].tolist()


def test_the_base_is_left_alone_and_so_is_the_callers_memory() -> None:
    base = ItemTable.build(encode, 10, SPECS, "digest")
    index, rep = DeltaTable(base), encode(torch.tensor([4]), 7)
    index.upsert(torch.tensor([4]), rep)
    rep["year"].zero_()
    index.take(torch.tensor([[4]]))["year"].zero_()
    assert index.take(torch.tensor([[4]]))["year"].tolist() == [[1911]]
    assert same(base.slice(0, 10), encode(torch.arange(10)))


def test_rows_of_another_model_are_refused() -> None:
    with pytest.raises(MismatchError, match=r"for items \[4\].., the specs declare"):
        table().upsert(torch.tensor([4]), Rep(vector=torch.ones(1, 3)))
    with pytest.raises(ConfigError, match="occur once"):
        table().upsert(torch.tensor([4, 4]), encode(torch.tensor([4, 4])))
