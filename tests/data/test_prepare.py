import json
import resource

import polars as pl
import pytest
import torch

from twotower.data.catalogue import Catalogue
from twotower.data.prepare import prepare, stream_catalogue
from twotower.data.store import MANIFEST, EventStore
from twotower.errors import ConfigError, DataError, MismatchError, StorageError
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
        Field(name="w", kind="number", role="weight"),
        Field(name="device", kind="category", role="context"),
    ),
)
USERS = Catalogue(pl.Series("user", [f"u{i}" for i in range(9)]))
MOVIES = Catalogue(pl.Series("movie", [10 * i for i in range(7)]))


def raw(n: int, start: int = 0) -> pl.DataFrame:
    i = pl.int_range(start, start + n, eager=True)
    return pl.DataFrame(
        {
            "user": "u" + (i % 9).cast(pl.String),
            "movie": i % 7 * 10,
            "click": i % 2,
            "time": 1000 - i,
            "w": i / 4,
            "device": i % 3,
        }
    )


@pytest.fixture
def files(tmp_path):
    paths = [tmp_path / f"raw-{number}.parquet" for number in range(3)]
    for number, path in enumerate(paths):
        raw(20, start=20 * number).write_parquet(path, row_group_size=8)
    return paths


def device(events: pl.DataFrame) -> Batch:
    values = torch.tensor(events["device"].to_list())
    return Batch(device=values + 2, pair=torch.stack([values, -values], 1).float())


def run(directory, files, **options):
    return prepare(directory, files, SCHEMA, USERS, MOVIES, **{"label": "click", **options})


def test_the_store_holds_the_events_in_order(tmp_path, files):
    told = []
    store = run(tmp_path / "store", files, context=device, progress=lambda *numbers: told.append(numbers))
    events = store.read()
    i = torch.arange(60)
    assert torch.equal(events.query_keys, i % 9)
    assert torch.equal(events.item_keys, i % 7)
    assert torch.equal(events.times, 1000 - i)
    assert torch.equal(events.rows, i)
    assert torch.equal(events.labels, (i % 2).float())
    assert torch.equal(events.weights, i / 4)
    assert torch.equal(events.context["device"], i % 3 + 2)
    assert torch.equal(events.context["pair"], torch.stack([i % 3, -(i % 3)], 1).float())
    assert told[-1] == (60, 60)
    assert told == sorted(told)
    assert store.notes == ("60 of 60 events are in the store",)
    assert store.queries.all_ids().equals(USERS.all_ids())
    assert store.items.all_ids().equals(MOVIES.all_ids())
    assert not list((tmp_path / "store").glob(".*"))


def test_keep_and_skip_are_counted(tmp_path, files):
    raw(20).with_columns(pl.Series("user", ["?"] * 2 + ["u1"] * 18)).write_parquet(files[0])
    store = run(tmp_path / "store", files, keep=pl.col("time") > 970, on_error="skip")
    assert len(store) == 28
    assert store.notes == (
        "28 of 60 events are in the store",
        "2 broken rows were skipped",
        "30 events were left out by the condition 'keep'",
    )
    assert store.read().rows.tolist() == list(range(2, 30))  # rows stay those of the raw files


def test_columns_may_have_other_names(tmp_path):
    path = tmp_path / "raw.parquet"
    raw(5).rename({"user": "uid", "time": "ts"}).write_parquet(path)
    store = run(tmp_path / "store", [path], columns={"user": "uid", "time": "ts"})
    assert store.read().times.tolist() == [1000, 999, 998, 997, 996]


def test_an_interrupted_run_goes_on_with_the_shard_it_stopped_at(tmp_path, files):
    directory, seen = tmp_path / "store", []

    def stop_in_second(events):
        seen.append(int(events["row"][0]))
        if seen == [0, 20]:
            raise KeyboardInterrupt
        return device(events)

    with pytest.raises(KeyboardInterrupt):
        run(directory, files, context=stop_in_second)
    assert not (directory / MANIFEST).exists()
    with pytest.raises(StorageError, match="not a finished store"):
        EventStore.open(directory)
    store = run(directory, files, context=stop_in_second)
    assert seen == [0, 20, 20, 40]
    whole = run(tmp_path / "other", files, context=device)
    assert torch.equal(store.read().context["device"], whole.read().context["device"])
    assert run(directory, files, context=stop_in_second).groups == store.groups
    assert len(seen) == 4


def test_a_full_disk_is_told_and_the_run_goes_on_later(tmp_path, files):
    raw(5000, start=20).write_parquet(files[1])
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8000, hard))  # no file may grow beyond this
    try:
        with pytest.raises(StorageError, match=r"part-00001.parquet: could not be written"):
            run(tmp_path / "store", files)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    names = {path.name for path in (tmp_path / "store").iterdir()}
    assert names == {"plan.json", "queries.parquet", "items.parquet", "part-00000.parquet"}
    assert len(run(tmp_path / "store", files)) == 5040


def test_another_plan_is_refused_and_named(tmp_path, files):
    run(tmp_path / "store", files)
    with pytest.raises(MismatchError, match="other keep; use another directory"):
        run(tmp_path / "store", files, keep=pl.col("time") > 0)
    with pytest.raises(MismatchError, match="other files, items"):
        prepare(
            tmp_path / "store", files[:2], SCHEMA, USERS, Catalogue(pl.Series("movie", [0])), label="click"
        )


def test_conditions_differ_that_look_alike_when_printed(tmp_path, files):
    users = [f"u{i}" for i in range(9)]
    run(tmp_path / "store", files, keep=pl.col("user").is_in(pl.Series(users[:4])))
    with pytest.raises(MismatchError, match="other keep"):
        run(tmp_path / "store", files, keep=pl.col("user").is_in(pl.Series(users[4:])))
    run(tmp_path / "store", files, keep=pl.col("user").is_in(pl.Series(users[:4])))


def test_a_raw_file_of_the_same_size_is_another_one_by_its_content(tmp_path, files):
    raw(20).write_parquet(files[1], compression="uncompressed")
    store, size = run(tmp_path / "store", files), files[1].stat().st_size
    files[1].touch()
    assert run(tmp_path / "store", files).groups == store.groups
    raw(20).reverse().write_parquet(files[1], compression="uncompressed")
    assert files[1].stat().st_size == size
    with pytest.raises(MismatchError, match="other files"):
        run(tmp_path / "store", files)


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        ("user", ["u1", "who", "u2"], r"raw-1.parquet:2 \[column user\]: 'who' is not in the catalogue"),
        ("movie", [10, 20, None], r"raw-1.parquet:3 \[column movie\]: None is not in the catalogue"),
        ("click", [1.0, 0.0, float("nan")], r"raw-1.parquet:3 \[column click\]: nan is not a finite number"),
        ("time", ["now", "then", "1"], r"raw-1.parquet: .*column time.*expected numbers, found String"),
        ("w", [None, 1.0, 2.0], r"raw-1.parquet:1 \[column w\]"),
    ],
)
def test_broken_rows_name_file_line_and_column(tmp_path, files, column, values, message):
    raw(3).with_columns(pl.Series(column, values)).write_parquet(files[1])
    with pytest.raises(DataError, match=message):
        run(tmp_path / "store", files)


def test_a_broken_file_is_named(tmp_path, files):
    whole = files[1].read_bytes()
    files[1].write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"raw-1.parquet: not a readable Parquet file"):
        run(tmp_path / "store", files)
    files[1].write_bytes(whole[:30] + b"\0" * 900 + whole[930:])  # the footer is whole, the pages are not
    with pytest.raises(DataError, match=r"raw-1.parquet: not a readable Parquet file"):
        run(tmp_path / "store", files)
    files[1].unlink()
    with pytest.raises(DataError, match=r"raw-1.parquet"):
        run(tmp_path / "store", files)


def test_a_missing_column_names_the_nearest(tmp_path, files):
    raw(3).rename({"movie": "movies"}).write_parquet(files[2])
    with pytest.raises(DataError, match=r"raw-2.parquet.*column movie.*did you mean 'movies'"):
        run(tmp_path / "store", files)


def test_mistakes_of_the_caller(tmp_path, files):
    with pytest.raises(ConfigError, match="no files"):
        run(tmp_path / "store", [])
    with pytest.raises(ConfigError, match="did you mean 'click'"):
        run(tmp_path / "store", files, label="clik")
    with pytest.raises(DataError, match="no event left of 60"):
        run(tmp_path / "store", files, keep=pl.col("time") < 0)


def test_a_file_without_kept_events_is_an_empty_shard(tmp_path, files):
    store = run(tmp_path / "store", files, keep=pl.col("time") <= 960)
    assert store.read().rows.tolist() == list(range(40, 60))
    shards = json.loads((tmp_path / "store" / MANIFEST).read_text())["shards"]
    assert [shard["groups"] for shard in shards] == [[], [], [20]]


def test_streamed_catalogues_hold_each_id_once(files):
    told = []
    users = stream_catalogue(files, "user", lambda *numbers: told.append(numbers))
    assert users.all_ids().to_list() == [f"u{i}" for i in range(9)]
    assert users.name == "user"
    assert stream_catalogue(files, "movie").all_ids().to_list() == list(range(0, 70, 10))
    assert told[-1] == (60, 60)
    raw(3).with_columns(pl.Series("user", ["u1", None, "u2"])).write_parquet(files[1])
    with pytest.raises(DataError, match=r"raw-1.parquet:2 \[column user\]: an id is missing"):
        stream_catalogue(files, "user")
    with pytest.raises(DataError, match="no ids at all"):
        stream_catalogue([], "user")
