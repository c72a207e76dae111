"""Collections as BEIR writes them: JSON lines of documents and queries, judgements by part.

N. Thakur et al. BEIR: A Heterogeneous Benchmark for Zero-shot Evaluation of Information Retrieval Models.
NeurIPS 2021 (data sets and benchmarks).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import polars as pl

from twotower.data.collection import Collection, Part, blank_is_missing
from twotower.data.dataset import Dataset
from twotower.data.files import find_file, first_file
from twotower.data.jsonlines import read_jsonlines
from twotower.data.judgements import Judgements
from twotower.data.rows import Broken, Column, OnError, checked

_PARTS: dict[Part, tuple[str, ...]] = {
    "train": ("train",),
    "valid": ("dev", "valid", "validation"),
    "test": ("test",),
}
_ENDINGS = (".tsv", ".txt")


class Beir(Collection):
    """``corpus.jsonl`` (_id, title, text), ``queries.jsonl`` (_id, text), ``qrels/{train,dev,test}.tsv``.

    Each may be gzipped. Judgements may also be one file ``qrels.tsv`` or ``qrels.txt`` without parts, all of
    it test unless ``folds`` deals the queries; three columns under BEIR's header, or TREC's four.
    """

    reader: Literal["beir"] = "beir"

    def read(self, path: Path, on_error: OnError = "raise") -> Dataset:
        """Read the folder ``path``.

        Raises
        ------
        DataError
            A missing file; or, unless ``on_error`` is "skip", a line that is no JSON object, an id that is
            missing or stands twice, a query without text, a judgement of what does not exist.
        """
        path = Path(path)
        documents, queries = find_file(path, "corpus.jsonl"), find_file(path, "queries.jsonl")
        about_documents, about_queries = Broken(documents, on_error), Broken(queries, on_error)
        judged = _judged(path)
        return self.collect(
            f"beir-{path.name}" if path.name else "beir",
            read_queries(queries, about_queries),
            read_documents(documents, about_documents),
            {part: Judgements.read(file, on_error) for part, file in judged.items()},
            (*about_documents.notes(), *about_queries.notes(), *_left_out(path, judged)),
        )


def read_documents(file: Path, broken: Broken, key: str = "_id", body: str = "text") -> pl.DataFrame:
    """Documents (doc, title, body) of JSON lines; a title may be missing, in one or in all."""
    raw = read_jsonlines(file, [key, "title", body], broken, optional=["title"])
    columns = (
        Column("doc", "word", key, required=True, unique=True),
        Column("title", "text", "title"),
        Column("body", "text", body),
    )
    return checked(blank_is_missing(raw, key), columns, broken)


def read_queries(file: Path, broken: Broken, key: str = "_id", body: str = "text") -> pl.DataFrame:
    """Queries (query, query_text) of JSON lines."""
    raw = read_jsonlines(file, [key, body], broken)
    columns = (
        Column("query", "word", key, required=True, unique=True),
        Column("query_text", "text", body, required=True),
    )
    return checked(blank_is_missing(raw, key, body), columns, broken)


def _judged(path: Path) -> dict[Part, Path]:
    """The judgements of each part; those of no part are test."""
    found: dict[Part, Path] = {}
    for part, names in _PARTS.items():
        file = first_file(path / "qrels", *(name + ending for name in names for ending in _ENDINGS))
        if file is not None:
            found[part] = file
    if found:
        return found
    within = path / "qrels" if (path / "qrels").is_dir() else path
    return {"test": find_file(within, *("qrels" + ending for ending in _ENDINGS))}


def _left_out(path: Path, judged: Mapping[Part, Path]) -> tuple[str, ...]:
    """A note of each file of judgements that is of no known part, or of one that is read from another."""
    there = sorted(file for ending in _ENDINGS for file in (path / "qrels").glob(f"*{ending}*"))
    return tuple(f"qrels/{file.name} is not read" for file in there if file not in judged.values())
