"""Every text encoder: order kept, padding on the right, the end cut off, rubbish defined."""

import numpy as np
import polars as pl
import pytest
import torch

from twotower.data.text import encoders as module
from twotower.data.text.encoders import Letters, Words, fit_texts
from twotower.data.vocabulary import Vocabulary
from twotower.schema import Field
from twotower.types import PAD, UNKNOWN

MALFORMED = ["", None, "?!… —", "\x00\x01\x7f", "   \n", "\ufffd", "\u200b"]


def words(longest=4, values=("war", "love", "peace"), tokenizer="words"):
    return Words(longest, Vocabulary(pl.Series(values)), tokenizer)


def field(name, role="item", tokenizer="words", **options):
    return Field(name=name, kind="text", role=role, tokenizer=tokenizer, **options)


def test_words_in_order_padded_on_the_right_and_cut():
    out = words().encode(pl.Series(["Peace, not war", "love " * 9, "war"]))
    assert out.tolist() == [[4, UNKNOWN, 2, PAD], [3] * 4, [2, PAD, PAD, PAD]]
    assert out.dtype == torch.int64


@pytest.mark.parametrize("encoder", [words(), Letters(4, 100)], ids=["words", "letters"])
def test_texts_without_a_word_are_all_padding(encoder):
    out = encoder.encode(pl.Series(MALFORMED, dtype=pl.String))
    assert out.shape == (len(MALFORMED), 4)
    assert (out == PAD).all()


@pytest.mark.parametrize("encoder", [words(), Letters(4, 100)], ids=["words", "letters"])
def test_empty_and_null_columns(encoder):
    assert encoder.encode(pl.Series([], dtype=pl.String)).shape == (0, 4)
    assert encoder.encode(pl.Series([None, None])).tolist() == [[PAD] * 4] * 2


@pytest.mark.parametrize("encoder", [words(5), Letters(9, 1000)], ids=["words", "letters"])
def test_a_row_is_encoded_as_if_it_stood_alone(encoder, monkeypatch):
    texts = pl.Series(["love war", "love", None, "love war", "über 東京", "peace " * 30])
    whole = encoder.encode(texts)
    monkeypatch.setattr(module, "CHUNK", 2)
    assert torch.equal(encoder.encode(texts), whole)
    for row in range(len(texts)):
        assert torch.equal(encoder.encode(texts[row : row + 1])[0], whole[row])


def test_letters_are_trigrams_of_each_word_in_turn():
    encoder = Letters(12, 10**6)
    cat, dog, both = encoder.encode(pl.Series(["Cat!", "dog", "dog  cat"]))
    assert (cat[:3] > UNKNOWN).all()
    assert (cat[3:] == PAD).all()
    assert torch.equal(both[:6], torch.cat([dog[:3], cat[:3]]))
    assert encoder.size == 10**6 + 2


def test_a_vocabulary_is_shared_and_made_of_all_its_texts():
    fields = [field("query", "query"), field("body", max_length=3), field("again", of="body")]
    texts = {
        "query": pl.Series(["war war", None]),
        "body": pl.Series(["love war", "love and war"]),
        "again": pl.Series(["love war", "love and war"]),
    }
    encoders = fit_texts(fields, texts)
    vocabularies = {id(encoder.vocabulary) for encoder in encoders.values()}
    assert len(vocabularies) == 1
    # war: 2 + 2 (a column that is read twice counts once), love: 2, and: 1
    assert encoders["query"].vocabulary.values.to_list() == ["war", "love", "and"]
    assert {name: encoder.width for name, encoder in encoders.items()} == {
        "query": module.LEAST_WIDTH,
        "body": 3,
        "again": module.LEAST_WIDTH,
    }


def test_rare_words_are_unknown_or_share_rows():
    texts = {"body": pl.Series(["war war love", "peace war love"])}
    rare = fit_texts([field("body", min_count=2)], texts)["body"]
    assert rare.encode(pl.Series(["peace love"]))[0, :3].tolist() == [UNKNOWN, 3, PAD]
    hashed = fit_texts([field("body", min_count=2, hash_buckets=5)], texts)["body"]
    row = int(hashed.encode(pl.Series(["peace love"]))[0, 0])
    assert row in range(4, 9)
    assert hashed.size == 9


def test_a_column_is_as_wide_as_its_longest_text():
    long = pl.Series(["word " * 100, "word"])
    assert fit_texts([field("body")], {"body": long})["body"].width == 100
    assert fit_texts([field("body", max_length=80)], {"body": long})["body"].width == 80


def test_stems_leave_no_gap_where_a_stop_word_stood():
    pytest.importorskip("Stemmer", reason="needs the extra text")
    texts = {"body": pl.Series(["The cells of the mice", "cell"])}
    encoder = fit_texts([field("body", tokenizer="stems")], texts)["body"]
    out = encoder.encode(pl.Series(["the mice, and a cell", "the of and"]))
    assert out[:, :3].tolist() == [[3, 2, PAD], [PAD] * 3]
    assert encoder.vocabulary.values.to_list() == ["cell", "mice"]


def test_many_texts_are_encoded_as_a_naive_reader_would():
    draw = np.random.default_rng(0)
    known = [f"w{i}" for i in range(30)]
    lists = [[known[i] for i in draw.integers(0, 30, draw.integers(0, 12))] for _ in range(300)]
    encoder = fit_texts([field("body", max_length=8)], {"body": pl.Series([" ".join(t) for t in lists])})[
        "body"
    ]
    row = {word: i + 2 for i, word in enumerate(encoder.vocabulary.values)}
    expected = [[row[word] for word in text[:8]] + [PAD] * (8 - len(text)) for text in lists]
    assert encoder.encode(pl.Series([" ".join(t) for t in lists])).tolist() == expected
