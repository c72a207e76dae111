"""Amazon product data: reviews with text, and prepared sequences without times.

R. He, J. McAuley. Ups and Downs. WWW 2016 (reviews); K. Zhou et al. S3-Rec. CIKM 2020 (sequences).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

import polars as pl
from pydantic import Field as Option

from twotower.config import Config
from twotower.data.dataset import Dataset
from twotower.data.files import find_file, read_bytes
from twotower.data.jsonlines import read_jsonlines
from twotower.data.rows import Broken, Column, OnError, Raw, checked
from twotower.errors import DataError
from twotower.schema import ROW, Field, Schema


class AmazonReviews(Config):
    """Reviews as JSON lines: ``user, item, rating, time`` (whole days), and the text when asked for."""

    reader: Literal["amazon-reviews"] = "amazon-reviews"
    file: str | None = Option(None, description="name of the file; default: the only *.json or *.json.gz")
    text: bool = Option(False, description="keep summary and review as raw text of the event")

    def read(self, path: Path, on_error: OnError = "raise") -> Dataset:
        """Read the file ``path``, or the one JSON file in the folder ``path``.

        Raises
        ------
        DataError
            No such file, or a broken row (unless ``on_error`` is "skip").
        """
        file = _locate(Path(path), self.file, "*.json")
        texts = [Column("summary", "text", "summary"), Column("review", "text", "reviewText")] * self.text
        columns = (
            Column("user", "word", "reviewerID", required=True),
            Column("item", "word", "asin", required=True),
            Column("rating", "number", "overall", required=True),
            Column("time", "time", "unixReviewTime", required=True),
            *texts,
        )
        broken = Broken(file, on_error)
        raw = read_jsonlines(file, [column.source for column in columns], broken)
        schema = Schema(
            query="user",
            item="item",
            fields=(
                Field(name="user", kind="id", role="query"),
                Field(name="item", kind="id", role="item"),
                Field(name="rating", kind="number", role="label"),
                Field(name="time", kind="number", role="time"),
                *(Field(name=column.name, kind="text", role="context") for column in texts),
            ),
        )
        events = checked(raw, columns, broken)
        return Dataset.build("amazon-reviews", schema, events, notes=broken.notes())


class AmazonSequences(Config):
    """One user a line, ``user item item ...`` in order of time, with a JSON of item attributes beside it.

    There are no timestamps: ``time`` is the position within the user's line (0, 1, ...), which orders the
    events of one user and says nothing across users. Ids are integers.
    """

    reader: Literal["sequences"] = "sequences"
    file: str | None = Option(None, description="the sequences; default: the only *.txt or *.txt.gz")
    attributes: str | None = Option(
        None, description="item -> list of attributes, JSON; default: the only *.json or *.json.gz"
    )

    def read(self, path: Path, on_error: OnError = "raise") -> Dataset:
        """Read the folder ``path``.

        Raises
        ------
        DataError
            No such file, a line with fewer than two ids or an id that is no integer (unless ``on_error`` is
            "skip"), or attributes that are not a JSON object of lists.
        """
        path = Path(path)
        file = _locate(path, self.file, "*.txt")
        broken = Broken(file, on_error)
        events = _sequences(file, broken)
        items = _attributes(_locate(path, self.attributes, "*.json"))
        schema = Schema(
            query="user",
            item="item",
            fields=(
                Field(name="user", kind="id", role="query"),
                Field(name="item", kind="id", role="item"),
                Field(name="attributes", kind="bag", role="item"),
                Field(name="time", kind="number", role="time"),
            ),
        )
        order = "there are no timestamps: time is the position in the user's line; split by leave-last-out"
        return Dataset.build("sequences", schema, events, items=items, notes=(*broken.notes(), order))


def _locate(path: Path, name: str | None, pattern: str) -> Path:
    """The file itself, the named file of a folder, or the only one of a pattern."""
    if path.is_file():
        return path
    if name is not None or not path.is_dir():
        return find_file(path, name or pattern)
    matches = [*path.glob(pattern), *path.glob(f"{pattern}.gz")]
    found = sorted(match for match in matches if "readme" not in match.name.lower())
    if len(found) == 1:
        return found[0]
    raise DataError(
        f"{len(found)} files match {pattern} or {pattern}.gz{': ' if found else ''}"
        f"{', '.join(p.name for p in found)}",
        file=path,
        remedy="name the file in the recipe" if found else "give the folder that holds it",
    )


def _sequences(file: Path, broken: Broken) -> pl.DataFrame:
    """Events in line order; the lines are checked as a column of users and a column of item lists."""
    text = read_bytes(file).decode("utf-8", "replace")
    lines = pl.DataFrame({"line": text.split("\n")}).with_row_index("number", offset=1)
    words = lines.select("number", pl.col("line").str.strip_chars().str.split(" ")).with_columns(
        pl.col("line").list.eval(pl.element().filter(pl.element() != ""))
    )
    words = words.filter(pl.col("line").list.len() > 0).with_row_index(ROW)
    number = words["number"]
    ids = words.select(
        ROW,
        user=pl.col("line").list.first(),
        whole=pl.col("line").list.slice(1).list.eval(pl.element().cast(pl.Int64, strict=False)),
    )
    fault = ids.select(
        (pl.col("whole").list.len() == 0) | pl.col("whole").list.eval(pl.element().is_null()).list.any()
    ).to_series()
    if fault.any():
        row = fault.arg_max() or 0
        found = " ".join(words["line"][row].to_list()[:8])
        message = f"found {found!r}, expected a user and at least one item, all integers"
        broken.add(int(fault.sum()), number[row], message)
    raw = Raw(file, ids.filter(~fault), len(ids), lambda row: int(number[row]))
    users = checked(raw, (Column("user", "integer", "user", required=True, unique=True),), broken)
    items = ids.select(ROW, item="whole")
    events = users.join(items, on=ROW, how="left", maintain_order="left").explode("item")
    return events.select("user", "item", time=pl.int_range(pl.len(), dtype=pl.Int64).over("user"))


def _attributes(file: Path) -> pl.DataFrame:
    try:
        values = json.loads(read_bytes(file))
        if not isinstance(values, dict):
            raise TypeError(f"found {type(values).__name__}, expected an object: item -> list")
        return pl.DataFrame(
            {
                "item": pl.Series([int(item) for item in values], dtype=pl.Int64),
                "attributes": pl.Series(list(values.values()), dtype=pl.List(pl.Int64), strict=True),
            }
        )
    except json.JSONDecodeError as error:
        raise DataError(f"not valid JSON: {error.msg}", file=file, line=error.lineno) from None
    except (TypeError, ValueError, pl.exceptions.PolarsError) as error:
        message = str(error).partition("\n")[0]
        remedy = "write one object: item id -> list of attribute ids, all integers"
        raise DataError(f"not item attributes: {message}", file=file, remedy=remedy) from None
