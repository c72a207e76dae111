"""Collections as TREC's tracks hand them out: documents, topics and qrels, each in one of its usual forms."""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import polars as pl
from pydantic import Field as Option

from twotower.config import nearest
from twotower.data.beir import read_documents, read_queries
from twotower.data.collection import Collection, Part, blank_is_missing
from twotower.data.dataset import Dataset
from twotower.data.delimited import Form, read_delimited
from twotower.data.files import find_file
from twotower.data.judgements import Judgements
from twotower.data.marked import read_marked
from twotower.data.rows import Broken, Column, OnError, checked
from twotower.errors import DataError

_IDS = ("_id", "id", "docno", "docid", "doc_id", "qid", "query_id", "topic")
_TEXTS = ("text", "contents", "body", "query")

_ID = r"(?is)<DOCNO>\s*(\S+?)\s*</DOCNO>"
_TITLE = r"(?is)<(?:TITLE|HEADLINE|HL|TI)>(.*?)</(?:TITLE|HEADLINE|HL|TI)>"
_BODY = r"(?is)<TEXT>(.*?)</TEXT>"
_TOPIC = r"(?is)<num>\s*(?:Number:)?\s*([^\s<]+)"
_ASKED = {
    "title": r"(?is)<title>\s*(?:Topic:)?([^<]*)",
    "desc": r"(?is)<desc>\s*(?:Description:)?([^<]*)",
    "narr": r"(?is)<narr>\s*(?:Narrative:)?([^<]*)",
}


class Trec(Collection):
    """Documents as ``<DOC>`` records, topics as ``<top>`` records, or both as JSON lines or TSV; qrels.

    The form is told from the first character of a file. TSV has no header: id, (title,) text. JSON lines
    hold an id (``_id``, ``id``, ``docno``, ...), a ``title`` or none, and ``text`` or ``contents``. Of a
    ``<DOC>`` record DOCNO, TITLE or HEADLINE, and every TEXT are read.
    """

    reader: Literal["trec"] = "trec"
    documents: str | None = Option(None, description="file of the documents; default: documents.*")
    topics: str | None = Option(None, description="file of the topics; default: topics.*")
    qrels: str | dict[Part, str] | None = Option(
        None,
        description="file of the qrels, or one for each part; default: qrels.txt or .tsv; one is all test",
    )
    topic_field: Literal["title", "desc", "narr"] = Option("title", description="<top> records: the query")

    def read(self, path: Path, on_error: OnError = "raise") -> Dataset:
        """Read the folder ``path``.

        Raises
        ------
        DataError
            A missing file, or one of no known form; or, unless ``on_error`` is "skip", a broken record, an id
            that is missing or stands twice, a query without text, a judgement of what does not exist.
        """
        path = Path(path)
        endings = (".trec", ".xml", ".txt", ".jsonl", ".tsv")
        documents = find_file(
            path, *([self.documents] if self.documents else [f"documents{e}" for e in endings])
        )
        topics = find_file(path, *([self.topics] if self.topics else [f"topics{e}" for e in endings]))
        qrels: Mapping[Part, str | None] = (
            self.qrels if isinstance(self.qrels, dict) else {"test": self.qrels}
        )
        about_documents, about_topics = Broken(documents, on_error), Broken(topics, on_error)
        return self.collect(
            f"trec-{path.name}" if path.name else "trec",
            self._topics(topics, about_topics),
            _documents(documents, about_documents),
            {
                part: Judgements.read(
                    find_file(path, *([name] if name else ["qrels.txt", "qrels.tsv"])), on_error
                )
                for part, name in qrels.items()
            },
            (*about_documents.notes(), *about_topics.notes()),
        )

    def _topics(self, file: Path, broken: Broken) -> pl.DataFrame:
        start = _start(file)
        if start.startswith("{"):
            return read_queries(file, broken, *_keys(file, start))
        columns = (
            Column("query", "word", "query", required=True, unique=True),
            Column("query_text", "text", "query_text", required=True),
        )
        if start.startswith("<"):
            asked = {"query": _TOPIC, "query_text": _ASKED[self.topic_field]}
            raw = read_marked(file, "top", asked, broken)
        else:
            raw = read_delimited(file, _tsv("query", "query_text"), ["query", "query_text"], broken)
        return checked(blank_is_missing(raw, "query", "query_text"), columns, broken)


def _documents(file: Path, broken: Broken) -> pl.DataFrame:
    """doc, title, body."""
    start = _start(file)
    if start.startswith("{"):
        return read_documents(file, broken, *_keys(file, start))
    columns = (
        Column("doc", "word", "doc", required=True, unique=True),
        Column("title", "text", "title"),
        Column("body", "text", "body"),
    )
    if start.startswith("<"):
        raw = read_marked(file, "DOC", {"doc": _ID, "title": _TITLE, "body": _BODY}, broken)
        return checked(blank_is_missing(raw, "doc"), columns, broken)
    titled = start.count("\t") == 2
    names = ("doc", "title", "body") if titled else ("doc", "body")
    frame = checked(
        blank_is_missing(read_delimited(file, _tsv(*names), names, broken), "doc"),
        [column for column in columns if column.name in names],
        broken,
    )
    return frame if titled else frame.with_columns(pl.lit(None, dtype=pl.String).alias("title"))


def _tsv(*names: str) -> Form:
    return Form("\t", quoted=False, names=names)


def _start(file: Path) -> str:
    """The first line of a file that is not blank; a damaged one is left to who reads it whole."""
    with open(file, "rb") as plain:
        packed = plain.read(2) == b"\x1f\x8b"
    try:
        with gzip.open(file) if packed else open(file, "rb") as lines:
            first = next((line for line in lines if line.strip()), b"")
    except (EOFError, OSError):
        first = b""
    return first.decode("utf-8", "replace").lstrip("\ufeff").strip(" \r\n")


def _keys(file: Path, start: str) -> tuple[str, str]:
    """The names of id and text in the first object of JSON lines."""
    try:
        known: Mapping[str, Any] = json.loads(start)
    except ValueError as error:
        raise DataError(f"not valid JSON: {error}", file=file, line=1, remedy="repair the row") from None
    found = [next((name for name in names if name in known), None) for names in (_IDS, _TEXTS)]
    for name, names in zip(found, (_IDS, _TEXTS), strict=True):
        if name is None:
            raise DataError(
                f"no key {' or '.join(names)}{nearest(names[0], known)}",
                file=file,
                line=1,
                remedy="rename the keys of the id and of the text",
            )
    return str(found[0]), str(found[1])
