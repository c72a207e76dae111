"""Records between marks, as TREC writes documents (``<DOC>``) and topics (``<top>``)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import polars as pl

from twotower.data.files import read_bytes
from twotower.data.rows import Broken, Raw
from twotower.errors import DataError
from twotower.schema import ROW

_ENTITIES = {"&lt;": "<", "&gt;": ">", "&quot;": '"', "&apos;": "'", "&amp;": "&"}


def read_marked(file: Path, mark: str, patterns: Mapping[str, str], broken: Broken) -> Raw:
    """What each pattern finds in every record ``<mark> ... </mark>``, as strings; null where nothing is.

    Of a pattern that is found several times the pieces are joined. Marks inside a piece are left out, the
    five entities of XML resolved, and blanks made one. A file that is not UTF-8 is read as latin-1.

    Raises
    ------
    DataError
        An unreadable or empty file, one without a record; or, when ``broken`` raises, a record that is not
        closed before the next one begins.
    """
    data = read_bytes(file)
    try:
        text = data.decode()
    except UnicodeDecodeError:
        text = data.decode("latin-1")
    opening = rf"(?i)<{mark}(?:\s[^>]*)?>"
    pieces = pl.DataFrame({"text": [text]}).select(
        pl.col("text").str.replace_all(opening, "\x1e").str.split("\x1e").explode()
    )
    newlines = pieces["text"].str.count_matches("\n").cast(pl.Int64)
    lines = newlines.cum_sum().shift(1, fill_value=0) + 1
    records, line_of = pieces[1:].with_row_index(ROW), lines[1:]
    if records.is_empty():
        raise DataError(f"no record <{mark}>", file=file, line=1, remedy="name another file, or repair it")
    closed = records["text"].str.count_matches(rf"(?i)</{mark}\s*>") == 1
    if not closed.all():
        at = (~closed).arg_max() or 0
        broken.add(int((~closed).sum()), line_of[at], f"the record <{mark}> is not closed, or closed twice")
    found = records.filter(closed).select(
        ROW, *(_found(pattern).alias(name) for name, pattern in patterns.items())
    )
    return Raw(file, found, len(records), lambda row: int(line_of[row]))


def _found(pattern: str) -> pl.Expr:
    piece = pl.element().str.extract(pattern).str.replace_all(r"<[^>]*>", " ")
    whole = pl.col("text").str.extract_all(pattern).list.eval(piece).list.join(" ")
    plain = whole.str.replace_many(list(_ENTITIES), list(_ENTITIES.values()))
    plain = plain.str.replace_all(r"\s+", " ").str.strip_chars()
    return pl.when(plain != "").then(plain)
