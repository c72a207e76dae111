"""A vocabulary: the rows of an embedding table, and which value owns which row.

Row 0 is PAD, row 1 UNKNOWN (missing, or never seen), rows 2.. the values by falling count, and the last
``hash_buckets`` rows are shared by unseen values. Rare values (below ``min_count``) count as unseen, so
with ``min_count > 1`` the shared rows are trained; without it only UNKNOWN, by id dropout, ever is.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import polars as pl

from twotower.data.hashing import stable_hash
from twotower.errors import DataError, StorageError
from twotower.types import PAD, UNKNOWN

FIRST = 2
"""Row of the first value."""


class Vocabulary:
    """Values of one column in row order; integers or strings.

    >>> words = Vocabulary.fit(pl.Series(["sci-fi", "war", "war", None]))
    >>> words.size, words.encode(pl.Series(["war", "sci-fi", "opera", None])).tolist()
    (4, [2, 3, 1, 1])
    """

    def __init__(self, values: pl.Series, hash_buckets: int = 0) -> None:
        if values.dtype not in (pl.Int64, pl.String):
            raise DataError(f"a vocabulary holds Int64 or String, found {values.dtype}", column=values.name)
        if values.null_count() or values.n_unique() != len(values):
            raise DataError("values of a vocabulary must be present and unique", column=values.name)
        self.values = values
        self.hash_buckets = hash_buckets
        # A binary search beats polars' join for one value (a join hashes the whole table again) and for
        # a million values alike, so that serving and training look up in the same way.
        order = values.arg_sort()
        self._sorted = values.gather(order).set_sorted()
        self._row_of_sorted = order.to_numpy().astype(np.int64) + FIRST

    @classmethod
    def fit(
        cls,
        values: pl.Series,
        min_count: int = 1,
        hash_buckets: int = 0,
        counts: pl.Series | None = None,
    ) -> Vocabulary:
        """Values that occur ``min_count`` times, by falling count, ties by value; nulls are left out.

        ``counts`` says how often each entry of ``values`` is to be counted (default once).
        """
        return cls(_ranked(_plain(values), counts, min_count), hash_buckets)

    @property
    def size(self) -> int:
        """Rows of the embedding table, the special ones included."""
        return FIRST + len(self.values) + self.hash_buckets

    def encode(self, series: pl.Series) -> np.ndarray:
        """Row of each value, (n,) int64; null and NaN -> UNKNOWN, unseen -> its hash row, else UNKNOWN."""
        plain = _plain_as(series, self.values.dtype)
        rows = np.full(len(plain), UNKNOWN, dtype=np.int64)
        present = plain.is_not_null().to_numpy()
        if len(self.values) and present.any():
            wanted = plain.drop_nulls()
            place = np.minimum(self._sorted.search_sorted(wanted).to_numpy(), len(self.values) - 1)
            found = (self._sorted.gather(place) == wanted).to_numpy()
            rows[present] = np.where(found, self._row_of_sorted[place], UNKNOWN)
        if self.hash_buckets:
            texts = _texts(series)
            unseen = np.flatnonzero((rows == UNKNOWN) & texts.is_not_null().to_numpy())
            rows[unseen] = self._hash_rows(texts.gather(unseen))
        return rows

    def decode(self, rows: np.ndarray) -> pl.Series:
        """Value of each row; null for PAD, UNKNOWN and hash rows."""
        place = pl.Series(np.asarray(rows, dtype=np.int64) - FIRST)
        return self.values.gather(place.set(~place.is_between(0, len(self.values) - 1), None))

    def grow(self, values: pl.Series, min_count: int = 1, counts: pl.Series | None = None) -> Vocabulary:
        """This vocabulary with new values behind the old ones, which keep their rows (hash rows move)."""
        ranked = _ranked(_plain_as(values, self.values.dtype), counts, min_count)
        new = ranked.filter(~ranked.is_in(self.values.implode()))
        return Vocabulary(pl.concat([self.values, new]), self.hash_buckets)

    def rows_in(self, older: Vocabulary) -> np.ndarray:
        """For each row, the row of an older vocabulary to start its embedding from, (size,) int64.

        A value the older one did not know starts where it was looked up until now: its hash row, or
        UNKNOWN. So, with the same ``hash_buckets``, a warm start begins with exactly the older scores.
        """
        if older.hash_buckets == self.hash_buckets:
            shared = np.arange(older.size - older.hash_buckets, older.size)
        else:
            shared = np.full(self.hash_buckets, UNKNOWN)
        return np.concatenate([[PAD, UNKNOWN], older.encode(self.values), shared]).astype(np.int64)

    def digest(self) -> str:
        """Hex hash of the content; equal vocabularies have equal digests on every machine."""
        content = hashlib.sha256(f"{self.values.dtype} {len(self.values)} {self.hash_buckets}\n".encode())
        if self.values.dtype == pl.Int64:
            content.update(self.values.to_numpy().astype("<i8").tobytes())
        else:
            content.update(self.values.str.len_bytes().to_numpy().astype("<u4").tobytes())
            content.update("".join(self.values.to_list()).encode())
        return content.hexdigest()

    def save(self, directory: str | Path) -> None:
        """Write ``values.parquet`` and ``vocabulary.json``."""
        directory = Path(directory)
        try:
            directory.mkdir(parents=True, exist_ok=True)
            self.values.rename("value").to_frame().write_parquet(directory / "values.parquet")
            about = {"name": self.values.name, "hash_buckets": self.hash_buckets, "digest": self.digest()}
            (directory / "vocabulary.json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
        except (OSError, pl.exceptions.PolarsError) as error:
            raise StorageError(f"{directory}: vocabulary not written: {error}") from error

    @classmethod
    def load(cls, directory: str | Path) -> Vocabulary:
        """Read what `save` wrote; a missing, cut or altered file is a `StorageError`."""
        directory = Path(directory)
        try:
            about = json.loads((directory / "vocabulary.json").read_text(encoding="utf-8"))
            values = pl.read_parquet(directory / "values.parquet", glob=False)["value"].rename(about["name"])
            vocabulary = cls(values, about["hash_buckets"])
        except (OSError, ValueError, KeyError, TypeError, pl.exceptions.PolarsError) as error:
            raise StorageError(f"{directory}: no readable vocabulary: {error}") from error
        if vocabulary.digest() != about.get("digest"):
            raise StorageError(
                f"{directory}: the vocabulary is not the one that was written (digest differs)"
            )
        return vocabulary

    def _hash_rows(self, texts: pl.Series) -> np.ndarray:
        bucket = stable_hash(texts) % np.uint64(self.hash_buckets)
        return bucket.astype(np.int64) + (self.size - self.hash_buckets)


def _ranked(values: pl.Series, counts: pl.Series | None, min_count: int) -> pl.Series:
    """Distinct values with at least ``min_count``, most frequent first, ties by rising value."""
    weight = pl.lit(1, pl.Int64) if counts is None else counts.cast(pl.Int64)
    table = pl.DataFrame({"value": values}).with_columns(count=weight).drop_nulls("value")
    table = table.group_by("value").agg(pl.col("count").sum()).filter(pl.col("count") >= min_count)
    table = table.sort(["count", "value"], descending=[True, False])
    return table["value"].rename(values.name)


def _plain(series: pl.Series) -> pl.Series:
    """Int64 where every value is a whole number (1.0 and True are), else String; text stays text."""
    if series.dtype.is_numeric() or series.dtype == pl.Boolean:
        integers = _integers(series)
        if integers.null_count() == _texts(series).null_count():
            return integers
    return _texts(series)


def _plain_as(series: pl.Series, dtype: pl.DataType) -> pl.Series:
    """The series as the vocabulary holds it; what cannot be such a value becomes null."""
    return _integers(series) if dtype == pl.Int64 else _texts(series)


def _integers(series: pl.Series) -> pl.Series:
    _check_plain(series)
    if series.dtype.is_float():  # a column of whole numbers with gaps often arrives as floats
        return series.set(series != series.floor(), None).cast(pl.Int64, strict=False)
    return series.cast(pl.Int64, strict=False)


def _texts(series: pl.Series) -> pl.Series:
    """The string form that is hashed: 7, 7.0 and "7" have the same."""
    _check_plain(series)
    if series.dtype == pl.Boolean:
        series = series.cast(pl.Int64)
    if series.dtype.is_float():
        series = series.fill_nan(None)
        return (
            _integers(series)
            .cast(pl.String)
            .zip_with((series == series.floor()).fill_null(True), series.cast(pl.String))
        )
    return series.cast(pl.String)


def _check_plain(series: pl.Series) -> None:
    if series.dtype.is_nested() or series.dtype == pl.Object:
        raise DataError(f"expected one plain value per row, found {series.dtype}", column=series.name)
