"""The hash that splits and hash rows stand on."""

from __future__ import annotations

import polars as pl
import xxhash

from twotower.data.hashing import stable_hash


def test_it_is_xxh64_of_the_utf8_bytes() -> None:
    texts = pl.Series(["", "1:1193", "señor"])
    for seed in (0, 7):
        expected = [xxhash.xxh64(text.encode(), seed=seed).intdigest() for text in texts]
        assert stable_hash(texts, seed).tolist() == expected
    assert stable_hash(texts)[0] == 17241709254077376921  # published test vector of xxHash


def test_nothing_to_hash() -> None:
    assert stable_hash(pl.Series([], dtype=pl.String)).shape == (0,)
