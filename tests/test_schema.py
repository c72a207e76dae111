"""A schema that is wrong says so when it is declared."""

import pytest

from twotower.errors import ConfigError
from twotower.schema import Schema

USER = {"name": "user", "kind": "id", "role": "query"}
MOVIE = {"name": "movie", "kind": "id", "role": "item"}
YEAR = {"name": "year", "kind": "number", "role": "item"}
PAST = {"name": "past", "kind": "sequence", "role": "query", "of": "movie"}
RATING = {"name": "rating", "kind": "number", "role": "label"}
TIME = {"name": "time", "kind": "number", "role": "time"}
WEIGHT = {"name": "weight", "kind": "number", "role": "weight"}
DEVICE = {"name": "device", "kind": "category", "role": "context"}


def schema(*fields, query="user", item="movie"):
    return Schema.parse({"query": query, "item": item, "fields": [USER, MOVIE, *fields]}, where="s.yaml")


def test_columns_of_each_table():
    s = schema(YEAR, PAST, RATING, TIME, WEIGHT, DEVICE)
    assert s.event_columns == ("user", "movie", "rating", "time", "weight", "device")
    assert s.side_columns("query") == ("user",)  # a history is made of events
    assert s.side_columns("item") == ("movie", "year")
    assert (s.time, s.weight, [f.name for f in s.labels]) == ("time", "weight", ["rating"])
    assert [f.name for f in s.having(kind="number", role="item")] == ["year"]
    assert s["device"].role == "context"


def test_what_is_not_declared_is_not_there():
    s = schema()
    assert (s.time, s.weight, s.labels) == (None, None, ())
    with pytest.raises(KeyError):
        s["year"]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ([USER], r"fields declared twice: \['user'\]"),
        ([{**YEAR, "name": "row"}], "kept for bookkeeping, found 'row'"),
        ([{**YEAR, "kind": "vector"}], "vector field 'year' needs dim"),
        ([{**PAST, "of": None}], "sequence field 'past' needs 'of'"),
        ([{**PAST, "role": "item"}], "must have the role query"),
        ([{**PAST, "of": "film"}], "of='film' must name an item field"),
        ([{**PAST, "of": "user"}], "of='user' must name an item field"),
        ([{**RATING, "kind": "category"}], "label field 'rating' must be a number"),
        ([{**TIME, "kind": "text"}], "time field 'time' must be a number"),
        ([TIME, {**TIME, "name": "again"}], "more than one field has the role time"),
        ([WEIGHT, {**WEIGHT, "name": "again"}], "more than one field has the role weight"),
        ([{**YEAR, "kind": "nmuber"}], "kind"),
        ([{**YEAR, "mincount": 2}], "unknown key 'mincount'; did you mean 'min_count'"),
        ([{**YEAR, "dropout": 1.0}], "dropout"),
    ],
)
def test_contradictions_are_refused(fields, message):
    with pytest.raises(ConfigError, match=rf"s.yaml: .*{message}"):
        schema(*fields)


@pytest.mark.parametrize(("query", "item"), [("movie", "user"), ("nobody", "movie"), ("user", "user")])
def test_query_and_item_must_be_ids_of_their_side(query, item):
    with pytest.raises(ConfigError, match="must name a field of kind id"):
        schema(query=query, item=item)


def text(name="body", role="item", **options):
    return {"name": name, "kind": "text", "role": role, **options}


def test_a_text_read_of_another_is_no_column_of_a_table():
    s = schema(
        text(tokenizer="words"),
        text("spelling", of="body", tokenizer="letters"),
        text("place", "context"),
        text("there", "context", of="place", tokenizer="words"),
    )
    assert s.side_columns("item") == ("movie", "body")
    assert s.event_columns == ("user", "movie", "place")
    assert [f.source for f in s.having(kind="text")] == ["body", "body", "place", "place"]


def test_defaults_of_texts_with_a_tokenizer():
    s = schema(text(), text("words", tokenizer="words"), text("letters", tokenizer="letters", max_length=9))
    assert [(s[n].max_length, s[n].hash_buckets) for n in ("body", "words", "letters")] == [
        (50, 0),
        (256, 0),
        (9, 32768),
    ]
    assert Schema.parse(s.plain()) == s


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ([{**YEAR, "tokenizer": "words"}], "has a tokenizer, but is no text"),
        ([text(role="label", tokenizer="words")], "has a tokenizer, but is no text"),
        ([text("a"), text("b", of="a")], "reads 'a' and needs a tokenizer"),
        ([text("b", of="a", tokenizer="words")], "'b': of='a' must name a text field of the same role"),
        ([text("a", "query"), text("b", of="a", tokenizer="words")], "of the same role"),
        ([text(tokenizer="words", prefix="query: ")], "has a prefix, and the tokenizer 'words'"),
        ([text(prefix="query: ")], "has a prefix, and the tokenizer None"),
        ([text(tokenizer="letters", hash_buckets=0)], "letters are hashed and need hash_buckets"),
        (
            [text("a", tokenizer="words"), text("b", tokenizer="words", min_count=2)],
            "'a' and 'b' share the vocabulary of 'words'",
        ),
    ],
)
def test_texts_that_make_no_sense(fields, message):
    with pytest.raises(ConfigError, match=message):
        schema(*fields)
