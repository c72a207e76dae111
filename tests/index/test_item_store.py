"""The store of items: one log, and tables and indexes that always stand as it says."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from twotower.cascade.rank import Rank
from twotower.cascade.retrieve import Retrieve
from twotower.cascade.stage import Request
from twotower.data.dataset import Dataset
from twotower.data.features import Features
from twotower.errors import ConfigError, DataError, StorageError
from twotower.index.delta import DeltaIndex
from twotower.index.delta_table import DeltaTable
from twotower.index.exact import ExactIndex
from twotower.index.item_log import Entry, ItemLog
from twotower.index.item_store import ItemStore
from twotower.index.item_table import ItemTable
from twotower.models.two_tower import TwoTower, TwoTowerConfig
from twotower.schema import Field, Schema
from twotower.types import UNKNOWN, Rep

SCHEMA = Schema(
    query="user",
    item="film",
    fields=(
        Field(name="user", kind="id", role="query"),
        Field(name="film", kind="id", role="item"),
        Field(name="genre", kind="category", role="item"),
        Field(name="tags", kind="bag", role="item"),
        Field(name="year", kind="number", role="item"),
        Field(name="title", kind="text", role="item"),
    ),
)
ITEMS = pl.DataFrame(
    {
        "film": [30, 10, 20],
        "genre": ["war", "love", "war"],
        "tags": [["a"], ["a", "b"], []],
        "year": [1990.0, 2000.0, 1980.0],
        "title": ["A", "B", "C"],
    }
)
EVENTS = pl.DataFrame({"user": ["u", "v", "u"], "film": [10, 20, 30]})
DATASET = Dataset.build("films", SCHEMA, EVENTS, items=ITEMS)
FEATURES = Features.fit(DATASET, DATASET.events)
QUERY = torch.randn(4, 5, generator=torch.Generator().manual_seed(1))


def model() -> TwoTower:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return TwoTower(FEATURES.spec, TwoTowerConfig(embedding=4, layers=(3,))).eval()


MODEL = model()


def encode(frame: pl.DataFrame) -> Rep:
    return MODEL.encode_item(FEATURES.encode_items(frame))


class Near:
    """Vectors that are equal up to the last bits, which depend on the batch they were encoded in."""

    def __init__(self, vectors: torch.Tensor) -> None:
        self.vectors = vectors

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Near) and torch.allclose(self.vectors, other.vectors, rtol=1e-4, atol=1e-4)


class World:
    """A store with its table and index, as a serving process opens them."""

    def __init__(self, path: Path) -> None:
        vectors = encode(DATASET.items)["vector"].detach()
        specs, made_by = MODEL.item_specs(), MODEL.item_digest()
        self.table = DeltaTable(ItemTable.build(lambda keys: Rep(vector=vectors[keys]), 3, specs, made_by))
        self.index = DeltaIndex(ExactIndex.build(vectors, produced_by=made_by))
        self.store = ItemStore(
            ItemLog(path, "bundle"),
            DATASET.item_catalogue,
            DATASET.items.schema,
            tables=[(encode, self.table)],
            indexes=[(encode, self.index)],
        )

    def found(self) -> list[list[int]]:
        """Ids found, best first."""
        keys = self.index.search(QUERY, len(self.store)).keys
        return [self.store.ids(row.numpy()).to_list() for row in keys]

    def state(self) -> tuple[Any, ...]:
        n = len(self.store.alive)
        ids = self.store.ids(np.arange(n)).to_list()
        rows = self.table.take(self.store.alive.nonzero()[:, 0])["vector"]
        return self.found(), ids, self.store.alive.tolist(), self.store.items().to_dicts(), Near(rows)


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Callable[[], World]]:
    worlds: list[World] = []

    def make() -> World:
        worlds.append(World(tmp_path / "items.log"))
        return worlds[-1]

    yield make
    for world in worlds:
        world.store.log.close()


NEW = {"film": 77, "genre": "love", "tags": ["b"], "year": 2001.0, "title": "New"}


def test_items_come_change_go_and_return(opened: Callable[[], World]) -> None:
    world = opened()
    store = world.store
    assert (len(store), store.refresh(), store.upsert([]).tolist()) == (3, 0, [])
    assert store.upsert([NEW, {"film": 10, "genre": "war"}]).tolist() == [3, 1]
    assert (len(store), sorted(world.found()[0])) == (4, [10, 20, 30, 77])
    changed = pl.DataFrame({"film": [10], "genre": ["war"]}).with_columns(
        tags=pl.lit(None, pl.List(pl.String)), year=pl.lit(None, pl.Float64)
    )
    # encoded beside another item: a matrix product of another shape rounds otherwise on some machines
    torch.testing.assert_close(
        world.table.take(torch.tensor([1]))["vector"], encode(changed)["vector"].detach()
    )
    assert store.delete([77, 30, 30, 4711]) == 2
    assert store.delete([77]) == 0
    assert store.keys(pl.Series([77, 30, 10, 4711])).tolist() == [-1, -1, 1, -1]
    assert store.alive.tolist() == [False, True, True, False]
    assert sorted(world.found()[0]) == [10, 20]
    assert store.upsert([{"film": 88}, {**NEW, "year": 1999}]).tolist() == [4, 3], "77 gets its key back"
    assert store.ids(np.array([4, 0, 3])).to_list() == [88, 30, 77]
    assert store.items().select("key", "film", "year").rows() == [(1, 10, None), (4, 88, None), (3, 77, 1999)]


def test_a_new_item_goes_through_a_cascade(opened: Callable[[], World]) -> None:
    """The stages that were there before serve it: retrieved by the index, ranked by its row of the table."""
    world = opened()
    cascade = Retrieve(MODEL, world.index, k=10) >> Rank(MODEL, world.table, k=5)
    request = Request(FEATURES.encode_request({"user": "u"}))
    world.store.upsert([NEW])
    world.store.delete([20])
    candidates, _ = cascade(request)
    assert sorted(candidates.keys[0][candidates.mask[0]].tolist()) == [0, 1, 3]
    found = world.index.search(MODEL.encode_query(request.query)["vector"].detach(), 3)
    assert torch.equal(candidates.best(3).keys, found.keys)


def random_change(store: ItemStore, draw: np.random.Generator) -> None:
    ids = draw.choice(12, draw.integers(1, 4), replace=False) * 10
    if draw.random() < 0.4:
        store.delete(ids.tolist())
    else:
        store.upsert(
            {
                "film": int(id),
                "genre": str(draw.choice(["war", "new"])),
                "year": float(draw.uniform(1950, 2020)),
            }
            for id in ids
        )


def test_opening_again_gives_the_same_state(opened: Callable[[], World]) -> None:
    world, draw = opened(), np.random.default_rng(0)
    for step in range(40):
        random_change(world.store, draw)
        if step % 10 == 0:
            world.index.compact()
            world.table.compact()
            assert opened().state() == world.state()
    world.store.log.trim()
    assert opened().state() == world.state()


def test_several_processes_share_a_store(opened: Callable[[], World]) -> None:
    """Each writes without having looked at what the other wrote: no key is given twice, no change lost."""
    one, two, draw = opened(), opened(), np.random.default_rng(1)
    for _ in range(60):
        random_change((one if draw.random() < 0.5 else two).store, draw)
    assert one.store.refresh() + two.store.refresh() > 0
    assert one.state() == two.state() == opened().state()


def test_a_trim_beside_a_reader_leaves_no_gap(
    opened: Callable[[], World], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = opened(), opened()
    two.store.upsert([{"film": 40, "year": 1.0}, {"film": 50, "year": 1.0}])
    changes = ItemLog.changes

    def overtaken(log: ItemLog, after: int) -> list[tuple[int, Entry]]:
        monkeypatch.setattr(ItemLog, "changes", changes)
        two.store.upsert([{"film": 40, "year": 2.0}])  # its first entry is no longer needed
        two.store.log.trim()
        return log.changes(after)

    monkeypatch.setattr(ItemLog, "changes", overtaken)
    one.store.refresh()
    assert one.store.number == two.store.number == 3
    asked = pl.Series([40, 50])
    assert one.store.keys(asked).tolist() == two.store.keys(asked).tolist() == [3, 4]
    assert [entry.id for entry in one.store.changes(after=0)] == [50, 40]
    assert [entry.id for entry in one.store.changes(after=2)] == [40]
    assert one.store.upsert([]).tolist() == []


def test_unknown_values_use_the_trained_unknown_row(opened: Callable[[], World]) -> None:
    world = opened()
    new = {"film": 99, "genre": "never seen", "tags": ["neither"], "year": 1990.0}
    (key,) = world.store.upsert([new]).tolist()
    frame = pl.DataFrame([new]).with_columns(pl.col("film").cast(pl.Int64))
    features = FEATURES.encode_items(frame)
    assert (int(features["film"]), int(features["genre"])) == (UNKNOWN, UNKNOWN)
    assert features["tags"].unique().tolist() in ([UNKNOWN], [0, UNKNOWN])
    assert torch.equal(world.table.take(torch.tensor([key]))["vector"], MODEL.encode_item(features)["vector"])
    (other,) = world.store.upsert([{**new, "film": 98, "genre": "unseen as well"}]).tolist()
    both = world.table.take(torch.tensor([key, other]))["vector"]
    assert torch.equal(both[0], both[1])


@pytest.mark.parametrize(
    ("item", "error", "message"),
    [
        ({"year": 1990.0}, ConfigError, "lacks its id: film is None"),
        ({"film": 5, "yaer": 1990.0}, ConfigError, "unknown feature 'yaer'.*year"),
        ({"film": 5, "year": "old"}, DataError, "column year.*"),
        ({"film": "five"}, DataError, "column film"),
        ({"film": 5, "genre": 7}, DataError, "column genre"),
        ({"film": 5, "year": float("nan")}, DataError, "item 5: Out of range"),
    ],
)
def test_a_broken_item_is_named_and_its_batch_changes_nothing(
    opened: Callable[[], World], item: dict[str, Any], error: type[Exception], message: str
) -> None:
    world = opened()
    before = world.state()
    with pytest.raises(error, match=message):
        world.store.upsert([NEW, item])
    assert world.state() == before == opened().state()
    assert world.store.upsert([NEW]).tolist() == [3]


def test_a_vector_that_is_not_finite_reaches_no_log(tmp_path: Path) -> None:
    index = DeltaIndex(ExactIndex.build(torch.ones(3, 1), produced_by="bundle"))
    log = ItemLog(tmp_path / "items.log", "bundle")

    def roots(frame: pl.DataFrame) -> Rep:
        return Rep(vector=torch.tensor(frame["year"].to_list()).sqrt()[:, None])

    store = ItemStore(log, DATASET.item_catalogue, DATASET.items.schema, indexes=[(roots, index)])
    with pytest.raises(DataError, match="1 of 2 item vectors hold NaN or infinity, first the one of key 4"):
        store.upsert([{"film": 5, "year": 4.0}, {"film": 6, "year": -1.0}])
    assert (log.last, len(index), len(store)) == (0, 3, 3)
    assert store.upsert([{"film": 5, "year": 4.0}]).tolist() == [3]
    assert index.search(torch.ones(1, 1), 1).scores.tolist() == [[2.0]]
    log.close()


def test_what_the_log_refuses_counts_nowhere(
    opened: Callable[[], World], monkeypatch: pytest.MonkeyPatch
) -> None:
    world = opened()
    before = world.state()

    def refuse(*_: object, **__: object) -> None:
        raise StorageError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(world.store.log, "append", refuse)
        for change in (lambda: world.store.upsert([NEW]), lambda: world.store.delete([10])):
            with pytest.raises(StorageError):
                change()
    assert world.state() == before
    assert world.store.upsert([NEW]).tolist() == [3]


def test_an_index_never_names_what_a_table_does_not_hold(
    opened: Callable[[], World], monkeypatch: pytest.MonkeyPatch
) -> None:
    world, order = opened(), []
    for name, target in (("table", world.table), ("index", world.index)):
        put = target.put
        monkeypatch.setattr(target, "put", lambda rows, name=name, put=put: (order.append(name), put(rows)))
    world.store.upsert([NEW])
    assert order == ["table", "index"]


def test_the_columns_must_hold_the_id(tmp_path: Path) -> None:
    log = ItemLog(tmp_path / "items.log", "bundle")
    with pytest.raises(ConfigError, match="lack the items' id, film"):
        ItemStore(log, DATASET.item_catalogue, {"year": pl.Float64})
    log.close()


def test_acknowledged_changes_survive_kill_nine(tmp_path: Path) -> None:
    """``benchmarks/item_faults.py`` does the same 200 times."""
    program = Path(__file__).parent / "killed_store.py"
    command = [sys.executable, str(program), str(tmp_path), "5", "0"]
    said = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert said.returncode == 0, said.stderr
    found = json.loads(said.stdout)
    assert found["kills"] == 5
    assert found["acknowledged"] > 10
