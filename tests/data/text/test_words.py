"""Texts into words: any script, any rubbish, each distinct word looked at once."""

import unicodedata

import polars as pl
import pytest

from twotower.data.text.words import STOP_WORDS, distinct, split, terms, texts_of
from twotower.errors import DataError


def naive(text):
    """Character by character: what is a letter, a digit or a mark belongs to a word, all else parts words."""
    words = [""]
    text = unicodedata.normalize("NFKC", text).lower().replace("\u2019", "'")
    for i, c in enumerate(text):
        name = unicodedata.name(c, "")
        if name.startswith(("CJK UNIFIED", "HIRAGANA LETTER")):
            words += [c, ""]
        elif is_word(c) or (c == "'" and words[-1] and i + 1 < len(text) and is_word(text[i + 1])):
            words[-1] += c
        else:
            words.append("")
    return [word for word in words if word]


def is_word(c):
    return c != "_" and (c.isalnum() or unicodedata.category(c).startswith("M"))


TEXTS = [
    "Plain words, twice: plain WORDS.",
    "don\u2019t 'quoted' rock 'n' roll's end'",
    "IL-6 (p<0.05) β-catenin 2x½ H₂O",
    "東京タワー と ひらがな",
    "Привет мир; שלום; नमस्ते दुनिया; สวัสดี",
    "na\u0131ve e\u0301 café ﬁne \uff21\uff22\uff11",
    "\x00nul\x07bell\ttab\u200bzero\ufffdbad\U0001f600face",
    "snake_case ___ --- ... ?!",
    "",
    "   \n\r\t ",
]


@pytest.mark.parametrize("text", TEXTS)
def test_words_are_those_a_naive_reader_finds(text):
    words, counts = split(pl.Series([text]))
    assert words.to_list() == naive(text)
    assert counts.tolist() == [len(words)]


def test_texts_one_after_the_other():
    words, counts = split(pl.Series(["b a", None, "", "c"]))
    assert (words.to_list(), counts.tolist()) == (["b", "a", "c"], [2, 0, 0, 1])


@pytest.mark.parametrize("texts", [pl.Series([], dtype=pl.String), pl.Series([None, "?"], dtype=pl.String)])
def test_no_word_at_all(texts):
    words, counts = split(texts)
    assert words.to_list() == []
    assert counts.tolist() == [0] * len(texts)


def test_stems_drop_stop_words_and_endings():
    pytest.importorskip("Stemmer", reason="needs the extra text")
    words = pl.Series(["the", "running", "runs", "not", "relational", "東", "il"])
    assert terms(words, "stems").to_list() == [None, "run", "run", None, "relat", "東", "il"]
    assert terms(words, "words").to_list() == words.to_list()
    assert len(STOP_WORDS) == 33


def test_distinct_values_and_their_places():
    values = pl.Series(["b", None, "a", "b", None])
    different, place = distinct(values)
    assert different.to_list() == ["b", None, "a"]
    assert different.gather(place).to_list() == values.to_list()


def test_numbers_are_texts_and_lists_are_not():
    assert texts_of(pl.Series([2020, None])).to_list() == ["2020", None]
    assert texts_of(pl.Series([None])).to_list() == [None]
    with pytest.raises(DataError, match=r"expected a text per row, found List"):
        texts_of(pl.Series("body", [["a", "b"]]))
