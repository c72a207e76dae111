import gzip
import json
import os
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from twotower.data.tabular import Tabular
from twotower.errors import ConfigError, DataError


def field(name: str, kind: str, role: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "kind": kind, "role": role, **more}


FIELDS = [
    field("user", "id", "query"),
    field("country", "category", "query"),
    field("ad", "id", "item"),
    field("tags", "bag", "item"),
    field("price", "number", "item"),
    field("look", "vector", "item", dim=2),
    field("device", "category", "context"),
    field("click", "number", "label"),
    field("time", "number", "time"),
]
EVENTS = [(1, 10, "web", 0, 100), (1, 20, "app", 1, 101), (2, 10, None, 0, 102)]
QUERIES = [(1, "NL"), (2, None)]
ITEMS = [(10, ["red", "wool"], 9.5, [0.5, 1.0]), (20, [], None, [1.0, 2.0])]


def config(ending: str, fields=FIELDS, **more: Any) -> Tabular:
    values = {
        "schema": {"query": "user", "item": "ad", "fields": fields},
        "interactions": {"file": f"log.{ending}", "columns": {"ad": "ad_id", "click": "clk"}},
        "queries": {"file": f"users.{ending}"},
        "items": {"file": f"ads.{ending}", "columns": {"ad": "id"}},
    }
    return Tabular.parse(values | more, where="recipe.yaml")


def frames() -> dict[str, pl.DataFrame]:
    return {
        "log": pl.DataFrame(EVENTS, schema=["user", "ad_id", "device", "clk", "time"], orient="row"),
        "users": pl.DataFrame(QUERIES, schema=["user", "country"], orient="row"),
        "ads": pl.DataFrame(ITEMS, schema=["id", "tags", "price", "look"], orient="row"),
    }


def write(folder: Path, ending: str) -> Path:
    for name, frame in frames().items():
        path = folder / f"{name}.{ending}"
        if ending == "parquet":
            frame.write_parquet(path)
        elif ending == "jsonl":
            path.write_text("\n".join(json.dumps(row) for row in frame.rows(named=True)))
        else:
            lists = [name for name in frame.columns if frame[name].dtype == pl.List]
            text = frame.with_columns(pl.col(lists).cast(pl.List(pl.String)).list.join("|"))
            csv = text.write_csv(separator="\t" if "tsv" in ending else ",").encode()
            path.write_bytes(gzip.compress(csv) if ending.endswith("gz") else csv)
    return folder


@pytest.mark.parametrize("ending", ["parquet", "csv", "csv.gz", "tsv", "jsonl"])
def test_every_format_gives_the_same_data(tmp_path, ending):
    data = config(ending).read(write(tmp_path, ending))
    assert data.events.rows() == [
        (1, 10, "web", 0.0, 100, 0),
        (1, 20, "app", 1.0, 101, 1),
        (2, 10, None, 0.0, 102, 2),
    ]
    assert data.queries.rows() == QUERIES
    assert [(i, tags or [], *rest) for i, tags, *rest in data.items.rows()] == ITEMS
    assert data.items["look"].dtype == pl.Array(pl.Float32, 2)
    assert data.notes == ()


def minimal(*, extra=(), **more: Any) -> Tabular:
    fields = [FIELDS[0], FIELDS[2], FIELDS[7], FIELDS[8], *extra]
    values = {
        "schema": {"query": "user", "item": "ad", "fields": fields},
        "interactions": {"file": "log.csv"},
    }
    return Tabular.parse(values | more)


HEADER = "user,ad,click,time\n"

BAD = {
    "label in words": ("1,1,yes,1", "click", "found 'yes', expected a finite number"),
    "NaN label": ("1,1,nan,1", "click", "found 'nan', expected a finite number"),
    "no label": ("1,1,,1", "click", "no value, expected a finite number"),
    "no user": (",1,1,1", "user", "no value, expected an integer or a string"),
    "no time": ("1,1,1,", "time", "no value, expected a number or an ISO date"),
    "time in words": ("1,1,1,noon", "time", "found 'noon', expected a number or an ISO date"),
    "a field too few": ("1,1,1", None, "found 3 fields, expected 4"),
}


@pytest.mark.parametrize(("line", "column", "message"), BAD.values(), ids=BAD)
def test_bad_rows_are_named_or_dropped_and_counted(tmp_path, line, column, message):
    (tmp_path / "log.csv").write_text(f"{HEADER}1,1,1,1\n{line}\n2,2,0,2\n")
    with pytest.raises(DataError, match=message) as caught:
        minimal().read(tmp_path)
    assert (caught.value.file, caught.value.line, caught.value.column) == (tmp_path / "log.csv", 3, column)
    assert "remedy" in str(caught.value)
    data = minimal().read(tmp_path, on_error="skip")
    assert data.events.rows() == [(1, 1, 1.0, 1, 0), (2, 2, 0.0, 2, 2)]
    assert data.notes[0].startswith("log.csv: 1 broken row dropped, first in line 3")


def test_a_bad_value_in_parquet_is_named_by_its_row(tmp_path):
    frame = pl.DataFrame({"user": [1, 2], "ad": [1, 2], "click": [0.0, float("nan")], "time": [1, 2]})
    frame.write_parquet(tmp_path / "log.parquet")
    reader = minimal(interactions={"file": "log.parquet"})
    with pytest.raises(DataError, match="found nan, expected a finite number") as caught:
        reader.read(tmp_path)
    assert (caught.value.line, caught.value.column) == (2, "click")
    assert len(reader.read(tmp_path, on_error="skip").events) == 1


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        ({"user": [1], "ad": [1], "click": ["yes"]}, "no such column; did you mean|no such column"),
        (
            {"user": [1], "ad": [1], "click": [[1]], "time": [1]},
            r"the column has the type List\(Int64\), expected a",
        ),
        ({"user": [[1]], "ad": [1], "click": [1], "time": [1]}, "expected an integer or a string"),
    ],
)
def test_wrong_parquet_columns_are_errors_of_the_column(tmp_path, frame, message):
    pl.DataFrame(frame).write_parquet(tmp_path / "log.parquet")
    with pytest.raises(DataError, match=message):
        minimal(interactions={"file": "log.parquet"}).read(tmp_path, on_error="skip")


def test_a_damaged_parquet_file_is_an_error(tmp_path):
    pl.DataFrame({"user": [1]}).write_parquet(tmp_path / "log.parquet")
    data = (tmp_path / "log.parquet").read_bytes()
    (tmp_path / "log.parquet").write_bytes(data[: len(data) // 2])
    with pytest.raises(DataError, match="not a sound Parquet file"):
        minimal(interactions={"file": "log.parquet"}).read(tmp_path)


def test_ids_are_integers_only_when_all_are(tmp_path):
    (tmp_path / "log.csv").write_text(f"{HEADER}007,1,1,1\n8,2,1,2\n")
    (tmp_path / "ads.csv").write_text("ad\n1\n2\nx3\n")
    data = minimal(items={"file": "ads.csv"}).read(tmp_path)
    assert data.events["user"].to_list() == ["007", "8"]
    assert data.events["ad"].to_list() == ["1", "2"]
    assert data.items["ad"].to_list() == ["1", "2", "x3"]


def test_predefined_splits_become_a_column_and_rows_are_counted_through(tmp_path):
    for part, n in (("tr", 2), ("te", 1)):
        (tmp_path / f"{part}.csv").write_text(HEADER + "".join(f"{part},{i},1,{i}\n" for i in range(n)))
    data = minimal(interactions={}, splits={"train": "tr.csv", "test": "te.csv"}).read(tmp_path)
    assert data.events.select("user", "part", "row").rows() == [
        ("tr", "train", 0),
        ("tr", "train", 1),
        ("te", "test", 2),
    ]


def test_a_pattern_reads_all_files_in_order_of_name(tmp_path):
    for shard in (2, 1):
        (tmp_path / f"log-{shard}.csv").write_text(f"{HEADER}{shard},{shard},1,{shard}.5\n")
    data = minimal(interactions={"file": "log-*.csv"}).read(tmp_path)
    assert data.events.rows() == [(1, 1, 1.0, 1.5, 0), (2, 2, 1.0, 2.5, 1)]
    with pytest.raises(DataError, match="no file matches"):
        minimal(interactions={"file": "none-*.csv"}).read(tmp_path)


def test_names_of_folders_become_columns(tmp_path):
    """Two shops number their ads alike; only the folder tells them apart."""
    for shop in ("a", "b"):
        (tmp_path / shop).mkdir()
        (tmp_path / shop / "log.csv").write_text(f"{HEADER}1,7,1,1\n")
        (tmp_path / shop / "ads.csv").write_text("ad,price\n7,3\n")
    both = {"folders": ["shop"], "columns": {"ad": ["shop", "ad"]}}
    data = minimal(
        extra=[field("price", "number", "item"), field("shop", "category", "item")],
        interactions={"file": "*/log.csv", **both},
        items={"file": "*/ads.csv", **both},
    ).read(tmp_path)
    assert data.events["ad"].to_list() == ["a|7", "b|7"]
    assert data.items.select("ad", "price", "shop").rows() == [("a|7", 3.0, "a"), ("b|7", 3.0, "b")]


@pytest.mark.parametrize("folders", [["shop"], ["country", "city", "shop"]])
def test_folders_must_name_the_whole_path(tmp_path, folders):
    (tmp_path / "x" / "y").mkdir(parents=True)
    (tmp_path / "x" / "y" / "log.csv").write_text(f"{HEADER}1,7,1,1\n")
    with pytest.raises(DataError, match=rf"lies in 2 folders, expected {len(folders)}"):
        minimal(interactions={"file": "*/*/log.csv", "folders": folders}).read(tmp_path)


def test_an_id_in_two_files_of_a_side_is_an_error(tmp_path):
    (tmp_path / "log.csv").write_text(f"{HEADER}1,1,1,1\n")
    for shard in (1, 2):
        (tmp_path / f"ads-{shard}.csv").write_text("ad\n1\n")
    with pytest.raises(DataError, match="1 stands in more than one file"):
        minimal(items={"file": "ads-*.csv"}).read(tmp_path)


def test_values_made_of_several_columns(tmp_path):
    (tmp_path / "log.csv").write_text("u,v,ad,click,time,x,y\na,b,1,1,1,0.5,2\na,c,2,0,2,1,1\n")
    extra = [field("near", "vector", "context", dim=2)]
    table = {"file": "log.csv", "columns": {"user": ["u", "v"], "near": ["x", "y"]}}
    data = minimal(extra=extra, interactions=table).read(tmp_path)
    assert data.events["user"].to_list() == ["a|b", "a|c"]
    assert data.events["near"].to_list() == [[0.5, 2.0], [1.0, 1.0]]


def test_text_options(tmp_path):
    (tmp_path / "log.txt").write_bytes("1;1;1;1000\n2;2;NA;2000\n".encode("latin-1"))
    table = {
        "file": "log.txt",
        "format": "csv",
        "delimiter": ";",
        "names": ["user", "ad", "click", "time"],
        "missing": ["", "NA"],
    }
    reader = minimal(interactions=table, time_unit="ms")
    with pytest.raises(DataError, match="no value"):
        reader.read(tmp_path)
    assert reader.read(tmp_path, on_error="skip").events["time"].to_list() == [1]


def test_the_config_survives_yaml_and_names_mistakes():
    reader = config("csv")
    assert Tabular.parse(reader.plain()) == reader
    assert "schema" in reader.plain()
    with pytest.raises(ConfigError, match="did you mean 'schema'"):
        Tabular.parse({"shcema": {}})
    with pytest.raises(ConfigError, match="schema: unknown key 'fieldz'; did you mean 'fields'"):
        Tabular.parse({"schema": {"query": "u", "item": "i", "fields": [], "fieldz": []}})
    with pytest.raises(ConfigError, match=r"either interactions\.file or splits"):
        minimal(interactions={})
    with pytest.raises(ConfigError, match="maps 'clik', which is no field of that table"):
        minimal(interactions={"file": "a", "columns": {"clik": "x"}})


def test_an_unknown_ending_asks_for_the_format(tmp_path):
    (tmp_path / "log.dat").touch()
    with pytest.raises(DataError, match=r"unknown kind of file \.dat"):
        minimal(interactions={"file": "log.dat"}).read(tmp_path)


@pytest.mark.data
def test_published_counts():
    if "TWOTOWER_DATA" not in os.environ:
        pytest.skip("TWOTOWER_DATA is not set")
    root = Path(os.environ["TWOTOWER_DATA"])
    columns = {"ad": "adgroup_id", "click": "clk", "time": "time_stamp"}
    taobao = minimal(interactions={"file": "raw_sample_10k.csv", "columns": columns}).read(
        root / "taobao-ad-sample"
    )
    assert (len(taobao.events), len(taobao.queries), len(taobao.items)) == (9_999, 8_328, 897)
    assert taobao.events["click"].sum() == 435
    assert (taobao.events["time"].min(), taobao.events["time"].max()) == (1494000271, 1494690886)
    counts = {
        ("bts", "men"): (69, 34),
        ("bts", "women"): (46, 46),
        ("random", "men"): (46, 34),
        ("random", "women"): (46, 46),
    }
    for (policy, campaign), (clicks, items) in counts.items():
        extra = [
            field("item_feature_0", "number", "item"),
            field("near", "vector", "context", dim=items),
            field("propensity_score", "number", "weight"),
        ]
        table = {
            "file": f"{campaign}.csv",
            "columns": {
                "user": [f"user_feature_{n}" for n in range(4)],
                "ad": "item_id",
                "time": "timestamp",
                "near": [f"user-item_affinity_{n}" for n in range(items)],
            },
        }
        side = {"file": "item_context.csv", "columns": {"ad": "item_id"}}
        data = minimal(extra=extra, interactions=table, items=side).read(
            root / "open-bandit-small" / policy / campaign
        )
        assert (len(data.events), data.events["click"].sum(), len(data.items)) == (10_000, clicks, items)
        assert data.events["time"].min() >= 1574553600  # 2019-11-24


def test_an_empty_id_is_a_missing_one_in_every_format(tmp_path):
    rows = {"user": ["", "a"], "ad": ["x", "y"], "click": [0, 1], "time": [1, 2]}
    pl.DataFrame(rows).write_parquet(tmp_path / "log.parquet")
    pl.DataFrame(rows).write_ndjson(tmp_path / "log.jsonl")
    pl.DataFrame(rows).write_csv(tmp_path / "log.csv", quote_style="always")
    for ending in ("parquet", "jsonl", "csv"):
        reader = minimal(interactions={"file": f"log.{ending}"})
        with pytest.raises(DataError, match="expected an integer or a string") as caught:
            reader.read(tmp_path)
        assert (caught.value.line, caught.value.column) == (2 if ending == "csv" else 1, "user")
        assert reader.read(tmp_path, on_error="skip").events["user"].to_list() == ["a"]


def test_a_shard_in_which_nobody_has_a_value_fits_the_others(tmp_path):
    optional = [
        field("device", "category", "context"),
        field("size", "number", "context"),
        field("tags", "bag", "context"),
        field("look", "vector", "context", dim=2),
        field("words", "text", "context"),
    ]
    full = pl.DataFrame(
        {"user": [1], "ad": [1], "click": [1], "time": [1]}
        | {"device": [5], "size": [0.5], "tags": [[1, 2]], "look": [[1.0, 2.0]], "words": ["x"]}
    )
    full.write_parquet(tmp_path / "log-0.parquet")
    empty = full.with_columns(pl.lit(None).alias(column["name"]) for column in optional)
    empty.write_parquet(tmp_path / "log-1.parquet")
    kept = minimal(extra=optional, interactions={"file": "log-*.parquet"}).read(tmp_path).events
    for column in optional:
        assert kept[column["name"]].to_list()[1] is None
    assert kept["device"].to_list() == [5, None]
    assert kept["tags"].to_list() == [[1, 2], None]
