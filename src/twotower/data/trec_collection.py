"""Collections as TREC's tracks hand them out: documents, topics and qrels, each in one of its usual forms."""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Literal
from xml.etree import ElementTree

import polars as pl
from pydantic import Field as Option

from twotower.config import nearest
from twotower.data.beir import read_documents, read_queries
from twotower.data.collection import Collection, Part, blank_is_missing
from twotower.data.dataset import Dataset
from twotower.data.delimited import Form, read_delimited
from twotower.data.files import find_file, read_bytes
from twotower.data.judgements import Judgements
from twotower.data.marked import read_marked
from twotower.data.rows import Broken, Column, OnError, Raw, checked
from twotower.errors import DataError
from twotower.schema import ROW

_IDS = ("_id", "id", "docno", "docid", "doc_id", "qid", "query_id", "topic")
_TEXTS = ("text", "contents", "body", "query")

_ID = r"(?is)<DOCNO>\s*(\S+?)\s*</DOCNO>"
_TITLE = r"(?is)<(?:TITLE|HEADLINE|HL|TI)>(.*?)</(?:TITLE|HEADLINE|HL|TI)>"
_BODY = r"(?is)<TEXT>(.*?)</TEXT>"
_TOPIC = r"(?is)<num>\s*(?:Number:)?\s*([^\s<]+)"
_END = r"(?:</?(?:num|title|desc|narr|top|head|dom|smry|con|fac|def)\b|\z)"  # a title may hold a < b
_ASKED = {
    "title": rf"(?is)<title>\s*(?:Topic:)?(.*?){_END}",
    "desc": rf"(?is)<desc>\s*(?:Description:)?(.*?){_END}",
    "narr": rf"(?is)<narr>\s*(?:Narrative:)?(.*?){_END}",
}
_XML = re.compile(r"<topic\s(?:(?!<topic\s).)*", re.DOTALL)
_NUMBERS = ("number", "num", "id")
_ASKED_XML = {
    "title": ("query", "title"),
    "desc": ("description", "desc", "question"),
    "narr": ("narrative", "narr"),
}
_LOOKED_AT = 1000
"""Lines that are looked at for the names of their keys: the first ones may be broken, or lack one."""


class Trec(Collection):
    """Documents as ``<DOC>`` records, topics as ``<top>`` records, or both as JSON lines or TSV; qrels.

    The form is told from the first character of a file, or the ending ``.jsonl``. TSV has no header: id,
    (title,) text. JSON lines hold an id (``_id``, ``id``, ``docno``, ...), a ``title`` or none, and ``text``
    or ``contents``. Of a ``<DOC>`` record DOCNO, TITLE or HEADLINE, and every TEXT are read. Topics may also
    be XML, ``<topic number="1"> <query> ...``.
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
        if _is_json(file, start):
            return read_queries(file, broken, *_keys(file))
        columns = (
            Column("query", "word", "query", required=True, unique=True),
            Column("query_text", "text", "query_text", required=True),
        )
        if start.startswith("<"):
            asked = {"query": _TOPIC, "query_text": _ASKED[self.topic_field]}
            xml = _read_xml(file, _ASKED_XML[self.topic_field], broken)
            raw = read_marked(file, "top", asked, broken) if xml is None else xml
        else:
            raw = read_delimited(file, _tsv("query", "query_text"), ["query", "query_text"], broken)
        return checked(blank_is_missing(raw, "query", "query_text"), columns, broken)


def _documents(file: Path, broken: Broken) -> pl.DataFrame:
    """doc, title, body."""
    start = _start(file)
    if _is_json(file, start):
        return read_documents(file, broken, *_keys(file))
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


def _read_xml(file: Path, fields: tuple[str, ...], broken: Broken) -> Raw | None:
    """Topics whose number is an attribute of ``<topic>``; None where there is no such record."""
    data = read_bytes(file)
    try:
        text = data.decode()
    except UnicodeDecodeError:
        text = data.decode("latin-1")
    rows, lines = [], []
    for place, found in enumerate(_XML.finditer(text)):
        lines.append(text.count("\n", 0, found.start()) + 1)
        try:
            record, closing, _ = found[0].partition("</topic>")
            topic = ElementTree.fromstring(record + closing)
        except ElementTree.ParseError as error:
            broken.add(
                1, lines[-1], f"the record <topic> is not closed, or not XML: {error.msg.partition(':')[0]}"
            )
            continue
        number = next((topic.attrib[name] for name in _NUMBERS if name in topic.attrib), None)
        asked = next((each for name in fields if (each := topic.find(name)) is not None), None)
        words = None if asked is None else " ".join("".join(asked.itertext()).split())
        rows.append((place, None if number is None else number.strip(), words))
    if not lines:
        return None
    types = {ROW: pl.UInt32, "query": pl.String, "query_text": pl.String}
    return Raw(file, pl.DataFrame(rows, types, orient="row"), len(lines), lines.__getitem__)


def _start(file: Path) -> str:
    """The first line of a file that is not blank."""
    first = next((line for _, line in _lines(file)), b"")
    return first.decode("utf-8", "replace").lstrip("\ufeff").strip(" \r\n")


def _lines(file: Path) -> Iterator[tuple[int, bytes]]:
    """Number and bytes of the lines that are not blank; a damaged file is left to who reads it whole."""
    with open(file, "rb") as plain:
        packed = plain.read(2) == b"\x1f\x8b"
    try:
        with gzip.open(file) if packed else open(file, "rb") as lines:
            yield from ((number, line) for number, line in enumerate(lines, 1) if line.strip())
    except (EOFError, OSError, zlib.error):
        return


def _is_json(file: Path, start: str) -> bool:
    return start.startswith("{") or (".jsonl" in file.suffixes and bool(start))


def _keys(file: Path) -> tuple[str, str]:
    """The names of id and text in JSON lines: those of the first object that has both."""
    faults = []
    for line, text in islice(_lines(file), _LOOKED_AT):
        try:
            known = json.loads(text.decode("utf-8-sig"))
        except ValueError as error:
            faults.append((1, line, f"not valid JSON: {error}", "repair the row"))
            continue
        if not isinstance(known, dict):
            continue
        key, body = (next((name for name in names if name in known), None) for names in (_IDS, _TEXTS))
        if key is not None and body is not None:
            return key, body
        names = _IDS if key is None else _TEXTS
        message = f"no key {' or '.join(names)}{nearest(names[0], known)}"
        faults.append((0, line, message, "rename the keys of the id and of the text"))
    _, line, message, remedy = min(faults, default=(1, 1, "no JSON object", "repair the row"))
    raise DataError(message, file=file, line=line, remedy=remedy)
