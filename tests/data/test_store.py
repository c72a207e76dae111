from itertools import pairwise

import polars as pl
import pytest
import torch

from twotower.data import prepare as preparing
from twotower.data.catalogue import Catalogue
from twotower.data.history import HistoryColumn
from twotower.data.prepare import prepare
from twotower.data.store import MANIFEST, EventStore, ParquetBatches
from twotower.errors import ConfigError, DataError, StorageError
from twotower.schema import Field, Schema
from twotower.types import Batch

SCHEMA = Schema(
    query="user",
    item="movie",
    fields=(
        Field(name="user", kind="id", role="query"),
        Field(name="movie", kind="id", role="item"),
        Field(name="click", kind="number", role="label"),
        Field(name="time", kind="number", role="time"),
    ),
)
N, N_USERS, N_MOVIES = 1000, 20, 30


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    directory = tmp_path_factory.mktemp("store")
    i = pl.int_range(N, eager=True)
    raw = pl.DataFrame({"user": i * 7 % N_USERS, "movie": i * 11 % N_MOVIES, "click": i, "time": i // 10})
    files = [directory / f"raw-{number}.parquet" for number in range(3)]
    for number, path in enumerate(files):
        raw[number * 400 : (number + 1) * 400].write_parquet(path)
    users = Catalogue(pl.Series("user", range(N_USERS)))
    movies = Catalogue(pl.Series("movie", range(N_MOVIES)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(preparing, "GROUP_ROWS", 64)
        return prepare(
            directory / "store",
            files,
            SCHEMA,
            users,
            movies,
            label="click",
            context=lambda events: Batch(twice=torch.tensor(events["click"].to_list()) * 2),
        )


QUERIES = Batch(age=torch.arange(N_USERS) + 100)


def source(store, **options):
    return ParquetBatches(store, QUERIES, **{"batch_size": 32, "shuffle_buffer": 200, **options})


def rows(batches):
    return [int(row) for batch in batches for row in batch.labels]


def test_an_epoch_visits_every_event_once_in_a_new_order(store):
    batches = source(store)
    first, second = rows(batches.epoch(0)), rows(batches.epoch(1))
    assert sorted(first) == sorted(second) == list(range(N))
    assert first != second
    assert batches.steps_per_epoch == len(list(batches.epoch(0))) == 32
    # neighbours are far apart, and the first batch is drawn from several row groups
    assert sum(abs(a - b) == 1 for a, b in pairwise(first)) < 60
    assert len({row // 64 for row in first[:32]}) >= 3


def test_batches_belong_to_their_events(store):
    for batch in source(store).epoch(0):
        i = batch.labels.long()
        assert torch.equal(batch.query_keys, i * 7 % N_USERS)
        assert torch.equal(batch.items, i * 11 % N_MOVIES)
        assert torch.equal(batch.query["age"], batch.query_keys + 100)
        assert torch.equal(batch.query["twice"], i * 2)


def test_epochs_repeat_and_resume_anywhere(store):
    whole = [batch.labels.tolist() for batch in source(store).epoch(3)]
    for step in (0, 1, 5, 6, 7, 31, 32):
        assert [batch.labels.tolist() for batch in source(store).epoch(3, step)] == whole[step:]
    with pytest.raises(ConfigError, match="start_step"):
        next(source(store).epoch(0, -1))


@pytest.mark.parametrize("world", [2, 3])
def test_ranks_share_the_epoch(store, world):
    ranks = [list(source(store, rank=r, world=world).epoch(0)) for r in range(world)]
    assert {len(own) for own in ranks} == {source(store, world=world).steps_per_epoch}
    assert sorted(row for own in ranks for row in rows(own)) == list(range(N))


def test_unshuffled_keeps_the_order_and_drop_last_the_size(store):
    assert rows(source(store, shuffle=False).epoch(0)) == list(range(N))
    assert {len(batch) for batch in source(store, drop_last=True).epoch(0)} == {32}


def test_history_comes_along_without_the_future(store):
    past = HistoryColumn("seen", store.history(), torch.arange(N_MOVIES) + 2, max_length=3)
    for batch in source(store, past=past).epoch(0):
        for row, seen in zip(batch.labels.long().tolist(), batch.query["seen"].tolist(), strict=True):
            mine = [i for i in range(row) if i * 7 % N_USERS == row * 7 % N_USERS][-3:]
            assert [x for x in seen if x] == [i * 11 % N_MOVIES + 2 for i in mine]


def test_reading_skips_what_lies_before_the_start(store, monkeypatch):
    read = []
    original = EventStore.read
    monkeypatch.setattr(
        EventStore, "read", lambda self, pieces: read.append(pieces) or original(self, pieces)
    )
    next(source(store).epoch(0, start_step=31))
    assert len(read) == 1
    assert sum(last - first for _, first, last in read[0]) <= 200


def test_only_one_buffer_is_held(store, monkeypatch):
    """No read asks for more than the buffer, whatever the size of the store."""
    asked = []
    original = EventStore.read

    def spy(self, pieces):
        asked.append(sum(last - first for _, first, last in pieces))
        return original(self, pieces)

    monkeypatch.setattr(EventStore, "read", spy)
    assert sum(len(batch) for batch in source(store).epoch(0)) == N
    assert max(asked) <= 200
    assert sum(asked) == N


def test_tables_come_back_memory_mapped(store):
    table = Batch(age=torch.arange(500_000), tags=torch.rand(500_000, 2))
    store.put_table("queries", table)
    back = store.table("queries")
    index = torch.tensor([3, 499_999])
    assert torch.equal(back.take(index)["age"], index)
    assert torch.equal(back["tags"], table["tags"])
    with pytest.raises(StorageError, match=r"nothing.safetensors: cannot be read"):
        store.table("nothing")


def test_a_damaged_store_is_refused(store, tmp_path):
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in store.directory.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    shard = copy / store.files[1]
    whole = shard.read_bytes()
    shard.write_bytes(whole[:100])
    with pytest.raises(StorageError, match=r"part-00001.parquet: cannot be read"):
        EventStore.open(copy)
    shard.write_bytes((copy / store.files[2]).read_bytes())
    with pytest.raises(StorageError, match="not the shard that the manifest names"):
        EventStore.open(copy)
    shard.write_bytes(whole[:4] + b"\0" * 300 + whole[304:])  # a whole footer over broken pages
    with pytest.raises(StorageError, match=r"part-00001.parquet: cannot be read"):
        EventStore.open(copy).read()
    (copy / MANIFEST).write_text("{", encoding="utf-8")
    with pytest.raises(StorageError, match=r"manifest.json: damaged .* run the preparation again"):
        EventStore.open(copy)


def test_mistakes_of_the_caller(store):
    with pytest.raises(ConfigError, match="shuffle_buffer=10 is below"):
        source(store, shuffle_buffer=10)
    with pytest.raises(DataError, match="table of queries has 2 rows"):
        next(ParquetBatches(store, Batch(age=torch.zeros(2)), batch_size=10).epoch(0))
    assert repr(store).endswith("1,000 events in 18 groups)")
