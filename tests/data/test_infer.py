import polars as pl
import pytest
import yaml

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


def test_a_schema_without_reasons_can_be_explained_too():
    fields = (
        Field(name="on", kind="id", role="query"),
        Field(name="i: #", kind="id", role="item", min_count=3),
    )
    schema = Schema(query="on", item="i: #", fields=fields)
    assert Schema.parse(yaml.safe_load(explain(schema))["schema"]) == schema


@pytest.mark.parametrize("ending", ["csv", "tsv", "parquet"])
def test_files(tmp_path, ending):
    frame = LOG.select("user_id", "movieId", "rating", "device")
    if ending == "parquet":
        frame.write_parquet(tmp_path / "log.parquet")
    else:
        frame.write_csv(tmp_path / f"log.{ending}", separator="\t" if ending == "tsv" else ",")
    assert infer_schema(tmp_path / f"log.{ending}") == infer_schema(frame)


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
