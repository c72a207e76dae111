"""Vectors of a whole collection, encoded once per weights and kept below ``runs/``; and what they find."""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks.text.cells import CACHE
from twotower.baselines.bm25 import BM25
from twotower.errors import MismatchError, StorageError
from twotower.evaluate.task import Task
from twotower.index.exact import ExactIndex
from twotower.index.item_table import ItemTable
from twotower.models.base import Model
from twotower.pipeline.prepared import Prepared
from twotower.types import Candidates

MEASURES = ("nDCG@10", "R@100", "RR@10")
DEPTH = 1000
"""Documents that a source hands on."""


def kept_vectors(model: Model, prepared: Prepared) -> Tensor:
    """(N, D) of all documents; read where the same weights have encoded the same texts before."""
    mark = f"{model.item_digest()}-{prepared.features.digest()[:16]}"
    directory = CACHE / "vectors" / mark
    try:
        table = ItemTable.load(directory, expect=mark)
    except (StorageError, MismatchError):
        with torch.inference_mode():
            table = ItemTable.build(
                lambda keys: model.encode_item(prepared.items.take(keys)),
                prepared.n_items,
                model.item_specs(),
                mark,
                directory=directory,
            )
    return table.slice(0, table.rows)["vector"]


@torch.inference_mode()
def search(model: Model, vectors: Tensor, task: Task, k: int = DEPTH) -> Candidates:
    """The k best documents of each query, exactly."""
    return ExactIndex.build(vectors).search(model.encode_query(task.query)["vector"], k)


def lexical(prepared: Prepared) -> BM25:
    """BM25 over the stems of title and text, k1 1.2 and b 0.75 as in Lucene."""
    return BM25().fit(prepared.items["stems"], prepared.features.spec["stems"].size)


def search_words(bm25: BM25, task: Task, k: int = DEPTH) -> Candidates:
    return bm25.search(task.query["query_stems"], k)


def measured(found: Candidates, task: Task) -> dict[str, list[float]]:
    """Every measure of every query."""
    values = task.measure(found.keys, MEASURES)
    return {name: [round(value, 6) for value in each.tolist()] for name, each in values.items()}
