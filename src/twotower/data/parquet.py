"""Parquet files into columns of their own types."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import polars as pl

from twotower.data.rows import Raw, require_columns
from twotower.errors import DataError
from twotower.schema import ROW


def read_parquet(path: Path, wanted: Sequence[str]) -> Raw:
    """The ``wanted`` columns; places and lines both count rows.

    Raises
    ------
    DataError
        No such file, a file that is not Parquet or is damaged, or a missing column.
    """
    try:
        require_columns(path, list(pl.read_parquet_schema(path)), wanted, line=None)
        frame = pl.read_parquet(path, columns=list(dict.fromkeys(wanted)), glob=False)
    except FileNotFoundError:
        raise DataError("no such file", file=path, remedy="check the path and the recipe's mapping") from None
    except (pl.exceptions.PolarsError, OSError) as error:
        reason = str(error).partition("\n")[0]
        raise DataError(f"not a sound Parquet file: {reason}", file=path, remedy="export it again") from None
    return Raw(path, frame.with_row_index(ROW), len(frame), lambda row: row + 1, typed=True)
