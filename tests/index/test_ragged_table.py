"""Tables and deltas of items with n rows each, against plain lists of tensors."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from twotower.errors import ConfigError, MismatchError, StorageError
from twotower.index.delta_table import DeltaTable
from twotower.index.item_table import ItemTable, Storage
from twotower.index.ragged_rows import inside, joined, packed, padded
from twotower.types import NO_ITEM, Ragged, Rep, RepSpec

SPECS = (RepSpec("year", (), "int64"), RepSpec("tokens", (3,), ragged=True))
Tokens = list[Tensor]
"""Of each item its rows, (n, 3)."""


def draw(lengths: list[int], seed: int = 0) -> Tokens:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(n, 3, generator=generator) for n in lengths]


def rep_of(tokens: Tokens, years: Tensor, extra: int = 0) -> Rep:
    """Padded wider than need be, and with rubbish in the padding."""
    length = torch.tensor([len(t) for t in tokens], dtype=torch.int64)
    width = max([0, *length.tolist()]) + extra
    out = torch.full((len(tokens), width, 3), 99.0)
    for row, t in enumerate(tokens):
        out[row, : len(t)] = t
    return Rep(tokens=out, tokens_length=length, year=years)


def build(tokens: Tokens, **options: object) -> ItemTable:
    def encode(keys: Tensor) -> Rep:
        return rep_of([tokens[key] for key in keys.tolist()], keys + 1900, extra=2)

    return ItemTable.build(encode, len(tokens), SPECS, "digest", **options)


def wanted(tokens: Tokens, keys: Tensor) -> tuple[Tensor, Tensor]:
    """What `take` must give, one item after the other."""
    chosen = [tokens[key] if key >= 0 else torch.empty(0, 3) for key in keys.flatten().tolist()]
    width = max([0, *(len(t) for t in chosen)])
    out = torch.zeros(len(chosen), width, 3)
    for row, t in enumerate(chosen):
        out[row, : len(t)] = t
    length = torch.tensor([len(t) for t in chosen], dtype=torch.int64)
    return out.view(*keys.shape, width, 3), length.view(keys.shape)


def assert_is(rep: Rep, tokens: Tokens, keys: Tensor) -> None:
    values, length = wanted(tokens, keys)
    assert list(rep) == ["year", "tokens", "tokens_length"]
    assert torch.equal(rep["tokens"], values)
    assert torch.equal(rep["tokens_length"], length)
    assert torch.equal(rep["year"], torch.where(keys >= 0, keys + 1900, 0))


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 5), max_size=9), st.integers(1, 10), st.data())
def test_a_table_is_a_list_of_tensors(lengths: list[int], chunk: int, data: st.DataObject) -> None:
    tokens = draw(lengths)
    table = build(tokens, chunk=chunk)
    keys = torch.tensor(
        data.draw(st.lists(st.integers(NO_ITEM, len(tokens) - 1), max_size=12)), dtype=torch.int64
    )
    assert_is(table.take(keys), tokens, keys)
    assert_is(
        table.take(keys[: len(keys) // 2 * 2].view(2, -1)), tokens, keys[: len(keys) // 2 * 2].view(2, -1)
    )
    start = data.draw(st.integers(0, len(tokens)))
    stop = data.draw(st.integers(0, len(tokens) + 1))
    assert_is(table.slice(start, stop), tokens, torch.arange(len(tokens))[start:stop])
    assert table.rows == len(tokens)
    assert table.bytes_per_item == pytest.approx(16 + 12 * sum(lengths) / max(1, len(lengths)))


@pytest.mark.parametrize("storage", [None, "bfloat16", "float16"])
@pytest.mark.parametrize("chunk", [1, 4, 100])
@pytest.mark.parametrize("streamed", [False, True])
def test_disk_and_storage_change_precision_only(
    tmp_path: Path, storage: Storage | None, chunk: int, streamed: bool
) -> None:
    tokens = draw([3, 0, 5, 1, 0, 2, 2])
    if streamed:
        table = build(tokens, chunk=chunk, storage=storage, directory=tmp_path)
    else:
        build(tokens, chunk=chunk, storage=storage).save(tmp_path)
        table = ItemTable.load(tmp_path, "digest")
    kept = tokens if storage is None else [t.to(getattr(torch, storage)).float() for t in tokens]
    assert_is(table.take(torch.arange(7)), kept, torch.arange(7))
    assert table.bytes_per_item == 16 + (12 if storage is None else 6) * 13 / 7
    assert "tokens n x (3,)" in repr(table)
    before = table.take(torch.tensor([2]))["tokens"]
    before.zero_()
    assert_is(table.take(torch.arange(7)), kept, torch.arange(7))


def test_an_empty_table_and_one_of_empty_items(tmp_path: Path) -> None:
    for lengths in ([], [0, 0]):
        build(draw(lengths), directory=tmp_path / str(len(lengths)))
        table = ItemTable.load(tmp_path / str(len(lengths)))
        keys = torch.full((2, 2), NO_ITEM)
        assert_is(table.take(keys), [], keys)
        assert table.rows == len(lengths)
        assert table.slice(0, 2)["tokens"].shape == (len(lengths), 0, 3)


def test_a_damaged_ragged_file_is_refused(tmp_path: Path) -> None:
    build(draw([3, 1]), directory=tmp_path)
    for path in tmp_path.glob("tokens*.bin"):
        whole = bytearray(path.read_bytes())
        whole[-1] ^= 1
        path.write_bytes(whole)
        with pytest.raises(StorageError, match="checksum is wrong"):
            ItemTable.load(tmp_path)
        whole[-1] ^= 1
        path.write_bytes(whole)
    assert ItemTable.load(tmp_path).rows == 2


def test_tables_written_before_there_were_ragged_ones_are_read(tmp_path: Path) -> None:
    ItemTable.build(
        lambda keys: Rep(year=keys), 3, [RepSpec("year", (), "int64")], "digest", directory=tmp_path
    )
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    for spec in (*manifest["about"]["specs"], *manifest["about"]["kept"]):
        del spec["ragged"]
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    assert ItemTable.load(tmp_path).slice(0, 3)["year"].tolist() == [0, 1, 2]


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**30), st.sampled_from([None, "bfloat16"]))
def test_random_changes_leave_what_building_afresh_gives(seed: int, storage: Storage | None) -> None:
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(6, (14,), generator=generator).tolist()
    tokens = draw(lengths[:8], seed) + [torch.empty(0, 3)] * 6
    index, there = DeltaTable(build(tokens[:8], storage=storage)), set(range(8))
    for step in range(12):
        keys = torch.randperm(14, generator=generator)[: step % 4]
        new = draw(torch.randint(7, (len(keys),), generator=generator).tolist(), seed + step)
        index.upsert(keys, rep_of(new, keys + 1900, extra=step % 2))
        for key, one in zip(keys.tolist(), new, strict=True):
            tokens[key] = one
            there.add(key)
        if step % 5 == 4:
            index.compact()
            assert index.n_fresh == 0
            there |= set(range(index.rows))
            index.upsert(torch.arange(14), rep_of(tokens, torch.arange(14) + 1900))
            there = set(range(14))
        asked = torch.tensor(sorted(there))[torch.randint(len(there), (2, 9), generator=generator)]
        asked[0, :2] = NO_ITEM
        kept = tokens if storage is None else [t.bfloat16().float() for t in tokens]
        assert_is(index.take(asked), kept, asked)


def test_a_compacted_table_has_the_rows_of_the_delta(tmp_path: Path) -> None:
    tokens = draw([2, 0, 4])
    index = DeltaTable(build(tokens))
    new = draw([5, 1], seed=1)
    index.upsert(torch.tensor([4, 0]), rep_of(new, torch.tensor([1904, 1900])))
    now = [new[1], tokens[1], tokens[2], torch.empty(0, 3), new[0]]
    keys = torch.tensor([0, 1, 2, 4])
    for _ in range(2):
        assert_is(index.take(keys), now, keys)
        index.compact(tmp_path)
    assert index.bytes_per_item == 16 + 12 * 10 / 5


def test_what_does_not_fit_the_specs_is_named() -> None:
    good = rep_of(draw([2]), torch.tensor([1900]))
    index = DeltaTable(build(draw([1])))
    with pytest.raises(MismatchError, match="tokens_length is 3 to 3 for rows 2 wide"):
        index.upsert(torch.tensor([0]), Rep({**good, "tokens_length": torch.tensor([3])}))
    with pytest.raises(MismatchError, match="the specs declare"):
        index.upsert(torch.tensor([0]), Rep(tokens=good["tokens"], year=good["year"]))
    with pytest.raises(MismatchError, match="the specs declare"):
        index.upsert(torch.tensor([0]), Rep({**good, "tokens": good["tokens"][..., :2]}))
    twice = (RepSpec("tokens_length", (), "int64"), *SPECS)
    with pytest.raises(ConfigError, match="use a name twice"):
        ItemTable.build(lambda keys: good, 1, twice, "digest")


@given(st.lists(st.integers(0, 5), min_size=1, max_size=8))
@settings(max_examples=30, deadline=None)
def test_packing_and_padding_undo_each_other(lengths: list[int]) -> None:
    length = torch.tensor(lengths)
    values = torch.randn(len(lengths), 6, 2) * inside(length, 6)[..., None]
    rows = packed(values, length)
    assert isinstance(rows, Ragged)
    again, counted = padded(rows, torch.arange(len(lengths)), torch.float32)
    assert torch.equal(counted, length)
    assert torch.equal(again, values[:, : int(length.max())])
    both = joined([Rep(x=again, n=length), Rep(x=values, n=length)])
    assert torch.equal(both["x"], torch.cat([values, values]))
    assert torch.equal(both["n"], torch.cat([length, length]))
