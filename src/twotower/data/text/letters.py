"""Words into hashed letter trigrams: the word hashing of DSSM (Huang et al., CIKM 2013, section 3.2).

Letters: D words, C characters of all of them with their borders, G trigrams.
"""

from __future__ import annotations

import numpy as np
import polars as pl

BORDER = "#"


def trigrams(words: pl.Series, buckets: int) -> tuple[np.ndarray, np.ndarray]:
    """(D,) words -> (G,) bucket of each trigram, word after word, and (D,) how many each word has.

    A word of n characters has n trigrams: ``cat`` is ``#ca cat at#``. Equal on every machine.

    >>> bucket, counts = trigrams(pl.Series(["cat", "a", "cats"]), buckets=1000)
    >>> counts.tolist(), bool((bucket[:2] == bucket[4:6]).all())
    ([3, 1, 4], True)
    """
    text = "".join(f"{BORDER}{word}{BORDER}" for word in words.to_list())
    codes = np.frombuffer(text.encode("utf-32-le"), dtype="<u4").astype(np.uint64)
    counts = words.str.len_chars().to_numpy().astype(np.int64)
    if len(codes) < 3:
        return np.empty(0, dtype=np.int64), counts
    # a character has 21 bits, so three of them are one number without collisions
    packed = (codes[:-2] << np.uint64(42)) | (codes[1:-1] << np.uint64(21)) | codes[2:]
    ends = np.cumsum(counts + 2)  # behind the right border of each word
    inside = np.ones(len(packed), dtype=bool)
    inside[ends[:-1] - 2] = False  # the two that reach over into the next word
    inside[ends[:-1] - 1] = False
    return (_mixed(packed[inside]) % np.uint64(buckets)).astype(np.int64), counts


def _mixed(values: np.ndarray) -> np.ndarray:
    """splitmix64's finaliser: every bit of the number decides about every bit of its hash."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(values ^ (values >> np.uint64(31)))
