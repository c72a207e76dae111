import gzip
import json

import polars as pl
import pytest
import yaml

from twotower.data import infer
from twotower.data.infer import explain, infer_schema, propose
from twotower.errors import ConfigError, DataError
from twotower.schema import Field, Schema

N = 200
LOG = pl.DataFrame(
    {
        "": range(N),
        "user_id": [n % 20 for n in range(N)],
        "movieId": [n % 50 for n in range(N)],
        "rating": [n % 5 for n in range(N)],
        "not_rating": [4 - n % 5 for n in range(N)],
        "timestamp": range(N),
        "device": [("web", "app", "tv")[n % 3] for n in range(N)],
        "price": [n / 7 for n in range(N)],
        "position": [n % 10 for n in range(N)],
        "views": [n * 31 for n in range(N)],
        "constant": ["same"] * N,
        "nothing": pl.Series([None] * N, dtype=pl.String),
        "logged_in": [n % 2 == 0 for n in range(N)],
        "row": range(N),
    }
)
MOVIES = pl.DataFrame(
    {
        "movieId": range(50),
        "title": [f"The film number {n}" for n in range(50)],
        "genres": [("war|love", "love", "war", "fun|war", "fun|love")[n % 5] for n in range(50)],
        "cast": [[n, n + 1] for n in range(50)],
        "image": [[n / 2, n / 3, n / 5] for n in range(50)],
        "views": range(50),
    }
)


def test_kinds_and_roles():
    schema = infer_schema(LOG, items=MOVIES)
    assert {f.name: (f.kind, f.role) for f in schema.fields} == {
        "user_id": ("id", "query"),
        "movieId": ("id", "item"),
        "title": ("text", "item"),
        "genres": ("bag", "item"),
        "cast": ("bag", "item"),
        "image": ("vector", "item"),
        "views": ("category", "item"),
        "rating": ("number", "label"),
        "timestamp": ("number", "time"),
        "device": ("category", "context"),
        "price": ("number", "context"),
        "position": ("category", "context"),
        "logged_in": ("category", "context"),
    }
    assert schema["image"].dim == 3


def test_what_is_left_out_is_said_and_why():
    left_out = propose(LOG).left_out
    assert left_out["not_rating"] == "tells the label rating"
    assert left_out["constant"] == "always 'same'"
    assert left_out["nothing"] == "no values"
    assert "(nameless)" in left_out
    assert "row" not in left_out


def test_the_proposal_is_yaml_of_the_same_schema():
    proposal = propose(LOG, items=MOVIES)
    assert Schema.parse(yaml.safe_load(str(proposal))["schema"]) == proposal.schema
    assert "- {name: genres, kind: bag, role: item}  # values joined by '|', 3 different" in str(proposal)


def test_a_line_break_in_a_name_does_not_end_the_comment():
    proposal = propose(LOG.rename({"constant": "con\nstant"}))
    assert proposal.left_out["con\nstant"] == "always 'same'"
    assert Schema.parse(yaml.safe_load(str(proposal))["schema"]) == proposal.schema


def test_a_label_is_guessed_or_named():
    assert propose(LOG).reasons["rating"] == "usual name of a label"
    assert propose(LOG, labels=["views"]).reasons["views"] == "named as a label"


def test_a_schema_without_reasons_can_be_explained_too():
    fields = (
        Field(name="on", kind="id", role="query"),
        Field(name="i: #", kind="id", role="item", min_count=3),
    )
    schema = Schema(query="on", item="i: #", fields=fields)
    assert Schema.parse(yaml.safe_load(explain(schema))["schema"]) == schema


@pytest.mark.parametrize("ending", ["csv", "tsv", "parquet", "jsonl", "json"])
def test_files(tmp_path, ending):
    frame = LOG.select("user_id", "movieId", "rating", "device")
    if ending == "parquet":
        frame.write_parquet(tmp_path / "log.parquet")
    elif ending in ("jsonl", "json"):
        frame.write_ndjson(tmp_path / f"log.{ending}")
    else:
        frame.write_csv(tmp_path / f"log.{ending}", separator="\t" if ending == "tsv" else ",")
    assert infer_schema(tmp_path / f"log.{ending}") == infer_schema(frame)


def test_json_lines_keep_their_lists_and_may_be_packed(tmp_path):
    lines = [{"user_id": 1, "item_id": n, "click": n % 2, "tags": ["a"] * n} for n in range(4)]
    packed = gzip.compress("\n".join(json.dumps(line) for line in lines).encode())
    (tmp_path / "log.jsonl.gz").write_bytes(packed)
    schema = infer_schema(tmp_path / "log.jsonl")
    assert [(f.name, f.kind, f.role) for f in schema.fields[2:]] == [
        ("click", "number", "label"),
        ("tags", "bag", "context"),
    ]


def test_only_so_many_lines_of_a_file_are_looked_at(tmp_path, monkeypatch):
    monkeypatch.setattr(infer, "SAMPLE_ROWS", 3)
    frame = pl.DataFrame({"user_id": range(5), "item_id": range(5), "late": [1, 1, 1, 2, 2]})
    for name, write in (
        ("l.csv", frame.write_csv),
        ("l.parquet", frame.write_parquet),
        ("l.jsonl", frame.write_ndjson),
    ):
        write(tmp_path / name)
        assert propose(tmp_path / name).left_out == {"late": "always 1"}, name


def test_names_win_over_guesses():
    schema = infer_schema(LOG, query="device", item="position", time="views", labels=["logged_in"])
    assert (schema.query, schema.item, schema.time, schema.labels[0].name) == (
        "device",
        "position",
        "views",
        "logged_in",
    )


def test_what_cannot_be_guessed_is_asked_for(tmp_path):
    with pytest.raises(ConfigError, match="which column names the query"):
        infer_schema(LOG.drop("user_id"))
    with pytest.raises(ConfigError, match="no column 'movie'; did you mean 'movieId'"):
        infer_schema(LOG, item="movie")
    with pytest.raises(DataError, match="side table has no column 'movieId'"):
        infer_schema(LOG, items=MOVIES.drop("movieId"))
    (tmp_path / "bad.parquet").write_text("x")
    with pytest.raises(DataError, match="cannot be read as a table"):
        infer_schema(tmp_path / "bad.parquet")
    (tmp_path / "bad.json").write_text('[{"user_id": 1}]')
    with pytest.raises(DataError, match=r"bad\.json: cannot be read as a table"):
        infer_schema(tmp_path / "bad.json")
