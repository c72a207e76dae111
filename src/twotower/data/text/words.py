"""Texts into words, words into terms: whole columns at once, each distinct word looked at once.

Letters: N texts, W words of all of them one after the other, D distinct words.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import polars as pl

from twotower.errors import DataError
from twotower.optional import require

WordTokenizer = Literal["words", "stems"]

_LETTER = r"[\w--[\p{Han}\p{Hiragana}_]]"
_WORD = rf"[\p{{Han}}\p{{Hiragana}}]|{_LETTER}+(?:'{_LETTER}+)*"
"""Letters, digits and marks of any script, apostrophes inside; each Chinese character and each hiragana is a
word of its own, as in the word boundaries of Unicode (UAX 29)."""

STOP_WORDS = frozenset(
    {"a", "an", "and", "are", "as", "at", "be", "but", "by", "for", "if", "in", "into", "is", "it", "no"}
    | {"not", "of", "on", "or", "such", "that", "the", "their", "then", "there", "these", "they", "this"}
    | {"to", "was", "will", "with"}
)
"""English words that ``stems`` drops: those that search engines of the Lucene family leave out."""


def texts_of(column: pl.Series) -> pl.Series:
    """The column as strings; numbers are texts too, lists are not."""
    if column.dtype.is_nested() or column.dtype in (pl.Binary, pl.Object):
        raise DataError(f"expected a text per row, found {column.dtype}", column=column.name)
    return column.cast(pl.String)


def split(texts: pl.Series) -> tuple[pl.Series, np.ndarray]:
    """(N,) strings -> (W,) lower-case words and (N,) how many each text has; missing ones have none.

    Compatible forms of a character are one (NFKC); all that is no letter, digit or mark separates.

    >>> words, counts = split(pl.Series(["Don’t panic: IL-6 (2x)!", None, "?", "東京 tower"]))
    >>> words.to_list(), counts.tolist()
    (["don't", 'panic', 'il', '6', '2x', '東', '京', 'tower'], [5, 0, 0, 3])
    """
    lists = (
        texts.str.normalize("NFKC")
        .str.to_lowercase()
        .str.replace_all("\u2019", "'", literal=True)
        .str.extract_all(_WORD)
    )
    counts = lists.list.len().fill_null(0)
    return lists.filter(counts > 0).explode(), counts.to_numpy().astype(np.int64)


def terms(words: pl.Series, tokenizer: WordTokenizer) -> pl.Series:
    """(D,) words -> (D,) what stands for them in a vocabulary; null for stop words.

    >>> terms(pl.Series(["the", "cells", "cell's", "zellen"]), "stems").to_list()
    [None, 'cell', 'cell', 'zellen']
    """
    if tokenizer == "words":
        return words
    stems = require("Stemmer", "text").Stemmer("english", 0).stemWords(words.to_list())
    return pl.Series(words.name, stems, dtype=pl.String).set(words.is_in(sorted(STOP_WORDS)), None)


def distinct(values: pl.Series) -> tuple[pl.Series, np.ndarray]:
    """The different values in order of appearance, and the place of each value among them.

    >>> different, place = distinct(pl.Series(["b", "a", "b"]))
    >>> different.to_list(), place.tolist()
    (['b', 'a'], [0, 1, 0])
    """
    frame = values.alias("value").to_frame()
    different = frame.unique(maintain_order=True).with_row_index("place")
    place = frame.join(different, on="value", how="left", nulls_equal=True, maintain_order="left")["place"]
    return different["value"], place.to_numpy().astype(np.int64)
