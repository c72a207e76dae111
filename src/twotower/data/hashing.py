"""Hashes of ids that are the same on every machine, in every run and from every version of a library."""

from __future__ import annotations

import numpy as np
import polars as pl
import xxhash


def stable_hash(texts: pl.Series, seed: int = 0) -> np.ndarray:
    """xxh64 of the UTF-8 bytes of each text, (n,) uint64; texts must be strings without nulls.

    About five million texts a second: polars' own hash is faster, but promises no stability.

    >>> stable_hash(pl.Series(["", "1:1193"])).tolist()
    [17241709254077376921, 44837451505641112]
    """
    data = texts.cast(pl.Binary).to_list()
    if seed:
        hashes = (xxhash.xxh64_intdigest(text, seed) for text in data)
        return np.fromiter(hashes, np.uint64, len(data))
    return np.fromiter(map(xxhash.xxh64_intdigest, data), np.uint64, len(data))
