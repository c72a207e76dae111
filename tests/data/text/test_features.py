"""Texts among the other features: encoded where they name a tokenizer, saved with it, asked for by name."""

import json
import shutil

import polars as pl
import pytest
import torch

from twotower.data.dataset import Dataset
from twotower.data.features import Features
from twotower.data.golden import GoldenRows
from twotower.errors import ConfigError, DataError, StorageError
from twotower.schema import Field, Schema
from twotower.types import PAD, UNKNOWN

FIELDS = (
    Field(name="query", kind="id", role="query"),
    Field(name="text", kind="text", role="query", tokenizer="words", max_length=4),
    Field(name="doc", kind="id", role="item"),
    Field(name="title", kind="text", role="item"),
    Field(name="body", kind="text", role="item", tokenizer="words", max_length=5),
    Field(name="spelling", kind="text", role="item", of="title", tokenizer="letters", max_length=6),
    Field(name="place", kind="text", role="context", tokenizer="words", max_length=2),
)
EVENTS = pl.DataFrame(
    {"query": ["a", "b", "a"], "doc": ["x", "y", "y"], "place": ["at home", "abroad", None]},
)
QUERIES = pl.DataFrame({"query": ["a", "b", "c"], "text": ["cells grow", None, "never posed in training"]})
ITEMS = pl.DataFrame(
    {
        "doc": ["x", "y", "z"],
        "title": ["One", "Two", None],
        "body": ["Cells grow. Cells!", "", "a body nobody asked for, so long that it ends"],
    }
)


def dataset(*more, fields=FIELDS):
    schema = Schema(query="query", item="doc", fields=(*fields, *more))
    return Dataset.build("tiny", schema, EVENTS, QUERIES, ITEMS)


def fitted(*more, fields=FIELDS):
    data = dataset(*more, fields=fields)
    return data, Features.fit(data, data.events[:2])


def test_only_texts_with_a_tokenizer_are_encoded():
    _, features = fitted()
    kinds = {c.name: (c.kind, c.side, c.tokenizer, c.width) for c in features.spec.columns}
    assert kinds == {
        "query": ("id", "query", None, 1),
        "text": ("text", "query", "words", 4),
        "doc": ("id", "item", None, 1),
        "body": ("text", "item", "words", 5),
        "spelling": ("text", "item", "letters", 6),
        "place": ("text", "context", "words", 2),
    }
    with pytest.raises(ConfigError, match="use: no field 'title' that can be encoded"):
        Features.fit(dataset(), EVENTS, use=["title"])


def test_one_vocabulary_of_training_queries_and_all_documents():
    data, features = fitted()
    known = set(features.vocabulary("text").values)
    assert {"cells", "grow", "nobody", "home"} <= known
    assert not {"never", "training"} & known
    sizes = {features.spec[name].size for name in ("text", "body", "place")}
    assert sizes == {2 + len(known)}
    text = features.encode_queries(data.queries)["text"]
    row = {word: 2 + i for i, word in enumerate(features.vocabulary("body").values)}
    assert text.tolist() == [
        [row["cells"], row["grow"], PAD, PAD],
        [PAD] * 4,
        [UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN],
    ]
    body = features.encode_items(data.items)["body"]
    assert body[0].tolist() == [row["cells"], row["grow"], row["cells"], PAD, PAD]
    assert (body[2] > UNKNOWN).all()


def test_a_request_is_encoded_as_the_table_is():
    data, features = fitted()
    table = features.encode_queries(data.queries)
    request = features.encode_request({"query": "a", "text": "cells grow", "place": "home"})
    assert torch.equal(request["text"], table["text"][:1])
    assert request["place"].shape == (1, 2)
    assert (features.encode_request({})["text"] == PAD).all()


def test_malformed_requests():
    _, features = fitted()
    row = {word: 2 + i for i, word in enumerate(features.vocabulary("text").values)}
    for text in ("cells \ud800 grow", "\x00cells\x00grow\x00", "cells\ufffegrow", "cells grow\udfff"):
        out = features.encode_request({"text": text})["text"]
        assert out.tolist() == [[row["cells"], row["grow"], PAD, PAD]], text
    assert features.encode_request({"text": 7})["text"].tolist() == [[UNKNOWN, PAD, PAD, PAD]]
    with pytest.raises(DataError, match=r"column text: expected a text per row, found List"):
        features.encode_request({"text": ["cells", "grow"]})


def test_a_text_read_of_another_comes_under_the_others_name():
    more = Field(name="letters", kind="text", role="query", of="text", tokenizer="letters", max_length=6)
    _, features = fitted(more)
    both = features.encode_request({"text": "cells"})
    assert (both["letters"][0, :5] > UNKNOWN).all()
    with pytest.raises(ConfigError, match="unknown field 'letters'"):
        features.encode_request({"letters": "cells"})


def test_saved_and_loaded_features_encode_the_same(tmp_path):
    data, features = fitted()
    features.save(tmp_path)
    loaded = Features.load(tmp_path)
    assert (loaded.digest(), loaded.spec) == (features.digest(), features.spec)
    for name, tensor in loaded.encode_items(data.items).items():
        assert torch.equal(tensor, features.encode_items(data.items)[name])


def test_golden_rows_replay_texts(tmp_path):
    more = Field(name="letters", kind="text", role="context", of="place", tokenizer="letters", max_length=6)
    data, features = fitted(more)
    golden = GoldenRows.take(features, data)
    golden.save(tmp_path)
    GoldenRows.load(tmp_path).replay(features)


def test_texts_stay_as_they_are_when_vocabularies_grow():
    data, features = fitted()
    grown = features.grow(data, data.events)
    assert grown.spec["text"] == features.spec["text"]
    assert "text" not in grown.rows_in(features)


def test_what_is_saved_without_texts_has_the_digest_it_had_before_there_were_any():
    _, features = fitted(
        fields=(FIELDS[0], FIELDS[2], FIELDS[3], Field(name="text", kind="text", role="query"))
    )
    assert "tokenizer" not in json.dumps([features.schema.plain(), features.spec.plain()])


def test_a_pretrained_tokenizer_travels_with_the_features(tmp_path):
    library = pytest.importorskip("tokenizers", reason="needs the extra text")
    place = tmp_path / "model"
    place.mkdir()
    words = {"[UNK]": 0, "cells": 1, "grow": 2}
    tokenizer = library.Tokenizer(library.models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = library.pre_tokenizers.Whitespace()
    tokenizer.save(str(place / "tokenizer.json"))
    fields = [
        f.model_copy(update={"tokenizer": str(place)}) if f.name in ("text", "body") else f for f in FIELDS
    ]
    data, features = fitted(fields=tuple(fields))
    assert features.encode_queries(data.queries)["text"][0].tolist() == [3, 4, PAD, PAD]
    features.save(tmp_path / "features")
    shutil.rmtree(place)
    loaded = Features.load(tmp_path / "features")
    assert loaded.digest() == features.digest()
    assert loaded.encode_queries(data.queries)["text"][0].tolist() == [3, 4, PAD, PAD]
    kept = next((tmp_path / "features").glob("*/tokenizer.json"))
    kept.write_text(kept.read_text().replace("grow", "glow"))
    with pytest.raises(StorageError, match="digest differs"):
        Features.load(tmp_path / "features")
