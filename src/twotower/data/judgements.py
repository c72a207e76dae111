"""Relevance judgements (qrels): which document is how relevant to which query.

Three forms, told apart by the first line: BEIR's ``query-id corpus-id score`` with this header, TREC's
``query 0 document grade``, and ``query document grade``. Fields are parted by tabs or by blanks.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import polars as pl

from twotower.data.files import read_bytes
from twotower.data.rows import Broken, Column, OnError, Raw, checked
from twotower.schema import ROW

_HEADER = ("query-id", "corpus-id", "score")
_LINE = "line"
_COLUMNS = (
    Column("query", "word", "query", required=True),
    Column("doc", "word", "doc", required=True),
    Column("grade", "integer", "grade", required=True),
)


@dataclass(frozen=True)
class Judgements:
    """The sound lines of one file, and what there was to say of the others."""

    file: Path
    frame: pl.DataFrame  # query, doc (strings), grade (int64), line (1-based), in file order
    on_error: OnError
    notes: tuple[str, ...] = ()

    @classmethod
    def read(cls, file: Path, on_error: OnError = "raise") -> Judgements:
        """Read one file; of a pair that is judged twice the first judgement counts.

        Raises
        ------
        DataError
            No such file or an empty one; or, unless ``on_error`` is "skip", a line with a wrong number of
            fields, a grade that is no integer, or a pair that is judged a second time.
        """
        lines = pl.DataFrame({"text": read_bytes(file).decode("utf-8", "replace").split("\n")})
        lines = lines.with_row_index(_LINE, offset=1).with_columns(pl.col("text").str.strip_chars(" \r\n"))
        lines = lines.filter(pl.col("text") != "")
        tabbed = "\t" in lines["text"][0]
        text = pl.col("text")
        # the one extra field that is not wanted tells a line that is too long
        fields = text.str.split("\t") if tabbed else text.str.extract_all(r"\S+")
        rows = lines.select(_LINE, fields.alias("fields"))
        first = rows["fields"][0].to_list()
        if tuple(word.strip().lower().replace("_", "-") for word in first) == _HEADER:
            rows = rows.slice(1)
        width = 4 if len(first) == 4 else 3
        form = "query 0 document grade" if width == 4 else "query document grade"
        rows = rows.with_row_index(ROW)
        number = rows[_LINE].cast(pl.Int64)
        broken = Broken(file, on_error)
        wrong = rows["fields"].list.len() != width
        if wrong.any():
            at = wrong.arg_max() or 0
            found = len(rows["fields"][at])
            broken.add(int(wrong.sum()), number[at], f"found {found} fields, expected {width}: {form}")
        places = {"query": 0, "doc": width - 2, "grade": width - 1}
        frame = rows.filter(~wrong).select(
            ROW, **{name: pl.col("fields").list.get(at).str.strip_chars() for name, at in places.items()}
        )
        frame = frame.with_columns(pl.col(*places).replace("", None))
        sound = checked(Raw(file, frame, len(rows), lambda row: int(number[row])), _COLUMNS, broken)
        frame = sound.select("query", "doc", "grade", number[sound[ROW]].alias(_LINE))
        once = cls(file, frame, on_error, broken.notes())
        return once.without(~pl.struct("query", "doc").is_first_distinct(), "doc", "is judged a second time")

    def known(self, queries: pl.Series, documents: pl.Series) -> Judgements:
        """Without the judgements of queries and documents that do not exist; errors as in `read`."""
        found = self
        for column, ids in (("query", queries), ("doc", documents)):
            unknown = ~pl.col(column).is_in(ids.implode())
            found = found.without(unknown, column, f"is no {column} of the collection")
        return found

    def graded(self, grade: pl.Expr) -> Judgements:
        """With grades made of those that stand there."""
        return replace(self, frame=self.frame.with_columns(grade.alias("grade")))

    def without(self, fault: pl.Expr, column: str, message: str) -> Judgements:
        """Without the lines at fault, which are broken for the value of ``column``."""
        wrong = self.frame.select(fault.alias("fault"))["fault"]
        if not wrong.any():
            return self
        broken, first = Broken(self.file, self.on_error), self.frame.row(wrong.arg_max() or 0, named=True)
        broken.add(int(wrong.sum()), first[_LINE], f"{first[column]!r} {message}", column)
        return replace(self, frame=self.frame.filter(~wrong), notes=(*self.notes, *broken.notes()))


def notes_of(judgements: Iterable[Judgements]) -> tuple[str, ...]:
    """What was said of each file, in order."""
    return tuple(note for each in judgements for note in each.notes)
