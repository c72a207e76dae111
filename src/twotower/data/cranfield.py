"""The Cranfield collection in its own format (C. Cleverdon, 1967).

Its traps, and how they are met: judgements count queries by their *place* in ``cran.qry``, not by the number
that stands there; code 1 is the *best* and 4 the least relevant, 5 and -1 are not relevant; most bodies begin
with the title once more, which is taken off; and in three documents a mark stands a second time inside the
text, which is left out there as a mark.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import polars as pl
from pydantic import Field as Option

from twotower.data.collection import Collection
from twotower.data.dataset import Dataset
from twotower.data.files import find_file, read_bytes
from twotower.data.judgements import Judgements
from twotower.data.rows import Broken, Column, OnError, Raw, checked
from twotower.errors import DataError
from twotower.schema import ROW

_NUMBER = r"^\s*(\d+)\s*(?:\n|$)"


class Cranfield(Collection):
    """``cran.all.1400``, ``cran.qry`` and ``cranqrel``, each plain or gzipped.

    There is no split, so queries are dealt into five folds: cross-validate by reading it with each ``fold``.
    Ids are numbers as words: "1" is the first query of the file and the document ".I 1". Authors and sources
    of documents are not read.
    """

    reader: Literal["cranfield"] = "cranfield"
    folds: int = Option(5, ge=3, description="deal the queries into so many folds")
    relevance: Literal["binary", "graded"] = Option(
        "binary", description="grade of the codes 1 to 4: 1 for each (binary), or 5 - code (graded)"
    )

    def read(self, path: Path, on_error: OnError = "raise") -> Dataset:
        """Read the folder ``path``.

        Raises
        ------
        DataError
            A missing file; or, unless ``on_error`` is "skip", a record without its marks or number, a
            document that stands twice, a query without text, a code that is none, an unknown judged id.
        """
        path = Path(path)
        documents, queries = find_file(path, "cran.all.1400"), find_file(path, "cran.qry")
        about_documents, about_queries = Broken(documents, on_error), Broken(queries, on_error)
        judged = Judgements.read(find_file(path, "cranqrel"), on_error)
        judged = judged.without(
            ~pl.col("grade").is_in([-1, 1, 2, 3, 4, 5]), "grade", "is no code: 1 to 5, or -1"
        )
        return self.collect(
            "cranfield",
            _queries(queries, about_queries),
            _documents(documents, about_documents),
            {"test": judged.graded(self._grade(pl.col("grade")))},
            (*about_documents.notes(), *about_queries.notes(), *self._notes()),
        )

    def _grade(self, code: pl.Expr) -> pl.Expr:
        relevant = code.is_between(1, 4)
        return (
            relevant.cast(pl.Int64)
            if self.relevance == "binary"
            else pl.when(relevant).then(5 - code).otherwise(0)
        )

    def _notes(self) -> tuple[str, ...]:
        grade = "1" if self.relevance == "binary" else "5 - code"
        return (f"grades: {grade} for the codes 1 (best) to 4, 0 for 5 and -1 (relevance: {self.relevance})",)


def _documents(file: Path, broken: Broken) -> pl.DataFrame:
    """doc, title, body."""
    sections = r"(?s)\n\.T[ \t]*\n(.*?)\.A[ \t]*\n.*?\.B[ \t]*\n.*?\.W[ \t]*(?:\n|$)(.*)$"
    raw = _records(file, sections, ("title", "body"), "the marks .T, .A, .B and .W in this order", broken)
    columns = (
        Column("doc", "word", "number", required=True, unique=True),
        Column("title", "text", "title"),
        Column("body", "text", "body"),
    )
    frame = checked(raw, columns, broken)
    again = pl.col("body").str.starts_with(pl.col("title"))
    rest = pl.col("body").str.slice(pl.col("title").str.len_chars())
    return frame.with_columns(body=pl.when(again).then(rest).otherwise("body").str.strip_chars())


def _queries(file: Path, broken: Broken) -> pl.DataFrame:
    """query (its place in the file, from 1), query_text."""
    raw = _records(file, r"(?s)\n\.W[ \t]*(?:\n|$)(.*)$", ("query_text",), "the mark .W", broken)
    blank = pl.col("query_text") == ""
    frame = raw.frame.with_columns(
        pl.when(~blank).then("query_text").alias("query_text"),
        (pl.col(ROW) + 1).cast(pl.String).alias("query"),
    )
    columns = (
        Column("query", "word", "query", required=True),
        Column("query_text", "text", "query_text", required=True),
    )
    return checked(Raw(file, frame, raw.total, raw.line_of), columns, broken)


def _records(file: Path, sections: str, names: tuple[str, ...], marks: str, broken: Broken) -> Raw:
    """Records that begin with ``.I number``: the number and the named sections, their blanks made one."""
    text = "\n" + read_bytes(file).decode("utf-8", "replace").replace("\r\n", "\n")
    before, *records = text.split("\n.I")
    if before.strip() or not records:
        raise DataError(
            f"found {before.strip()[:40]!r}, expected a record that begins with .I and its number",
            file=file,
            line=1,
            remedy="give the file as it was published",
        )
    frame = pl.DataFrame({"text": records}).with_row_index(ROW)
    lines = (frame["text"].str.count_matches("\n").cast(pl.Int64) + 1).cum_sum().shift(1, fill_value=0) + 1
    groups = pl.col("text").str.extract_groups(sections).struct.rename_fields(list(names)).struct.unnest()
    frame = frame.select(ROW, pl.col("text").str.extract(_NUMBER).alias("number"), groups)
    wrong = frame.select(pl.any_horizontal(pl.all().is_null())).to_series()
    if wrong.any():
        at = wrong.arg_max() or 0
        broken.add(int(wrong.sum()), lines[at], f"the record has no number, or not {marks}")
    mark = r"(?m)^\.[TABW][ \t]*$"
    one_blank = pl.col(*names).str.replace_all(mark, " ").str.replace_all(r"\s+", " ").str.strip_chars()
    number = pl.col("number").cast(pl.Int64).cast(pl.String)
    sound = frame.filter(~wrong).with_columns(one_blank, number)
    return Raw(file, sound, len(frame), lambda row: int(lines[row]))
