"""From a column of texts to a tensor of token indices: an encoder for each kind of tokenizer.

Letters: N texts, W tokens of the longest text kept. Order is kept, PAD stands on the right, a longer text
loses its end, each distinct text is tokenized once.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import polars as pl
import torch
from torch import Tensor

from twotower.data.encoders import Encoder
from twotower.data.text.letters import trigrams
from twotower.data.text.tokenizer import Tokenizer
from twotower.data.text.words import WordTokenizer, distinct, split, terms, texts_of
from twotower.data.vocabulary import FIRST, Vocabulary
from twotower.schema import Field
from twotower.types import Ragged

CHUNK = 16384
"""Texts that are tokenized at once: bounds what their words hold beside the tensor."""
LEAST_WIDTH = 64
"""Tokens that a text in words may have, even if none that was fitted on is that long."""


@dataclass(frozen=True)
class TextEncoder(Encoder):
    """Texts as (N, W) int64 token indices."""

    longest: int

    @property
    def width(self) -> int:
        return self.longest

    @abstractmethod
    def tokens(self, texts: pl.Series) -> Ragged:
        """The tokens of each text; a missing text is null."""

    def encode(self, column: pl.Series) -> Tensor:
        texts, place = distinct(texts_of(column))
        out = torch.zeros(len(texts), self.longest, dtype=torch.int64)
        for start in range(0, len(texts), CHUNK):
            out[start : start + CHUNK] = self.tokens(texts[start : start + CHUNK]).padded(width=self.longest)
        return out if len(texts) == len(column) else out[torch.from_numpy(place)]


@dataclass(frozen=True)
class Words(TextEncoder):
    """words, stems: rows of the vocabulary; missing, empty or without a word -> all PAD.

    >>> words = Words(3, Vocabulary(pl.Series(["war", "love"])), "words")
    >>> words.encode(pl.Series(["Love & war", None, "A war of words, love"])).tolist()
    [[3, 2, 0], [0, 0, 0], [1, 2, 1]]
    """

    vocabulary: Vocabulary
    tokenizer: WordTokenizer

    @property
    def size(self) -> int:
        return self.vocabulary.size

    def tokens(self, texts: pl.Series) -> Ragged:
        words, counts = split(texts)
        different, place = distinct(words)
        known = terms(different, self.tokenizer)
        rows, kept = self.vocabulary.encode(known)[place], known.is_not_null().to_numpy()[place]
        row_of_word = np.repeat(np.arange(len(counts)), counts)
        return _ragged(rows[kept], np.bincount(row_of_word[kept], minlength=len(counts)))


@dataclass(frozen=True)
class Letters(TextEncoder):
    """letters: hashed trigrams, word after word; missing, empty or without a word -> all PAD."""

    buckets: int

    @property
    def size(self) -> int:
        return FIRST + self.buckets

    def tokens(self, texts: pl.Series) -> Ragged:
        words, counts = split(texts)
        different, place = distinct(words)
        of_words = _ragged(*trigrams(different, self.buckets))
        chosen = of_words.take(torch.from_numpy(place))
        ends = np.concatenate([[0], counts.cumsum()])
        return Ragged(chosen.values + FIRST, chosen.offsets[torch.from_numpy(ends)])


@dataclass(frozen=True)
class Pieces(TextEncoder):
    """The tokens of a pretrained tokenizer, its special ones around them, each + 2.

    A missing text is an empty one: the special tokens alone, and the prefix. A cut text keeps its closing
    token.
    """

    tokenizer: Tokenizer
    prefix: str = ""

    @property
    def size(self) -> int:
        return self.tokenizer.size

    def tokens(self, texts: pl.Series) -> Ragged:
        whole = [self.prefix + text for text in texts.fill_null("").to_list()]
        return _ragged(*self.tokenizer.encode(whole, self.longest))

    def plain(self) -> dict[str, Any]:
        """Without an empty prefix, so that the digest is that of before there were any."""
        return {name: value for name, value in super().plain().items() if (name, value) != ("prefix", "")}


TEXT_ENCODERS: dict[str, type[Encoder]] = {c.__name__: c for c in (Words, Letters, Pieces)}


def fit_texts(fields: Iterable[Field], texts: Mapping[str, pl.Series]) -> dict[str, Encoder]:
    """The encoders of all text fields of one tokenizer, which share its vocabulary.

    ``texts`` are the texts of each field that may be looked at. Vocabularies count words in all of them, a
    column that two fields read once. A column of words or stems is no wider than the longest of its texts
    (and `LEAST_WIDTH`) asks for, the others are as wide as their fields allow.
    """
    fields = tuple(fields)
    name = str(fields[0].tokenizer)
    if name == "letters":
        return {f.name: Letters(f.max_length, f.hash_buckets) for f in fields}
    if name not in ("words", "stems"):
        tokenizer = Tokenizer.find(name)
        return {f.name: Pieces(f.max_length, tokenizer, f.prefix) for f in fields}
    tokenizer_of_words = cast(WordTokenizer, name)
    sources = {(f.role, f.source): _counted(texts[f.name]) for f in fields}
    words = pl.concat([counts for counts, _ in sources.values()])
    known = terms(words["word"], tokenizer_of_words)
    vocabulary = Vocabulary.fit(known, fields[0].min_count, fields[0].hash_buckets, words["count"])
    widths = {source: max(longest, LEAST_WIDTH) for source, (_, longest) in sources.items()}
    return {
        f.name: Words(min(f.max_length, widths[f.role, f.source]), vocabulary, tokenizer_of_words)
        for f in fields
    }


def _counted(column: pl.Series) -> tuple[pl.DataFrame, int]:
    """Each word of the texts and how often it occurs, and how many words the longest text has."""
    texts = texts_of(column)
    parts, longest = [], 0
    for start in range(0, max(len(texts), 1), CHUNK):
        words, counts = split(texts[start : start + CHUNK])
        parts.append(words.alias("word").value_counts(name="count").cast({"count": pl.Int64}))
        longest = max(longest, int(counts.max(initial=0)))
    return pl.concat(parts).group_by("word").agg(pl.col("count").sum()), longest


def _ragged(values: np.ndarray, counts: np.ndarray) -> Ragged:
    offsets = np.concatenate([[0], counts.cumsum()])
    return Ragged(torch.from_numpy(values), torch.from_numpy(offsets))
