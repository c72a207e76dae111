"""Scores of items that are named, by what an index keeps of them: those that its search would give them.

Letters: Q queries of D floats or of L tokens, K items of each.
"""

from __future__ import annotations

from functools import singledispatch
from typing import Any

import torch
from torch import Tensor

from twotower.index.base import Index
from twotower.index.delta import Delta
from twotower.index.exact import ExactIndex
from twotower.index.exact_tokens import ExactTokens, Tokens
from twotower.index.faiss_index import FaissIndex
from twotower.index.keyed_rows import KeyedRows, find
from twotower.index.multivector import MultiVectorIndex
from twotower.index.ragged_rows import packed
from twotower.index.vectors import Vectors
from twotower.scores.dot import dot
from twotower.scores.maxsim import maxsim_packed
from twotower.types import NO_ITEM

FLOATS_AT_ONCE = 1 << 24
"""Of item vectors gathered at once: 64 MB."""


@singledispatch
def score_keys(index: Index, query: Tensor, keys: Tensor) -> Tensor | None:
    """(Q, K) scores of the queries (Q, D), or (Q, L, D), with items of these keys (Q, K).

    0 where no item of that key is in the index; None of an index that keeps no vectors we know how to read.

    >>> index = ExactIndex.build(torch.tensor([[1.0], [4.0]]))
    >>> score_keys(index, torch.tensor([[2.0]]), torch.tensor([[1, 7, NO_ITEM, 0]]))
    tensor([[8., 0., 0., 2.]])
    """
    return None


@score_keys.register
def _by_vectors(index: ExactIndex | FaissIndex, query: Tensor, keys: Tensor) -> Tensor:
    vectors = index.vectors
    query, position = vectors.checked_query(query, 1), vectors.positions(keys)
    if not len(vectors):
        return torch.zeros(keys.shape)
    rows = max(1, FLOATS_AT_ONCE // max(1, keys.shape[1] * index.dim))
    scores = [
        dot(query[some], vectors.values[position[some].clamp(min=0)])
        for some in torch.split(torch.arange(len(query)), rows)
    ]
    return torch.cat(scores).masked_fill(position < 0, 0) if scores else torch.zeros(keys.shape)


@score_keys.register
def _by_tokens(index: ExactTokens | MultiVectorIndex, query: Tensor, keys: Tensor) -> Tensor:
    query, position = index.checked_query(query, 1), index.vectors.positions(keys)
    scores = torch.zeros(keys.shape)
    for row, places in enumerate(position):
        there = places >= 0
        documents = index.vectors.take(places[there])
        scores[row, there] = maxsim_packed(query[row : row + 1], documents, empty=0.0)[0]
    return scores


@score_keys.register(Delta)
def _by_delta(index: Delta[Any, Any], query: Tensor, keys: Tensor) -> Tensor | None:
    parts = index.parts()
    old = score_keys(parts.base, query, keys.masked_fill(find(parts.gone, keys) >= 0, NO_ITEM))
    if old is None or not len(parts.fresh):
        return old
    new = score_keys(_index_of(parts.fresh), query, keys)
    assert new is not None
    return old + new  # what is fresh is gone of the base, so that one of the two is 0


def _index_of(fresh: KeyedRows) -> Any:
    rep = fresh.rep
    if "vector" in rep:
        return ExactIndex(Vectors(rep["vector"], fresh.keys))
    return ExactTokens(Tokens(fresh.keys, packed(rep["tokens"], rep["tokens_length"])))
