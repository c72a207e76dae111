"""The whole catalogue in a ranker's order, as one stage: what a cascade stands in for.

Letters: Q queries, N items, c items of a piece.
"""

from __future__ import annotations

import torch
from torch import Tensor

from twotower.cascade.rank import Rank
from twotower.cascade.retrieve import Retrieve
from twotower.cascade.stage import Request, Stage, rank_pair
from twotower.index.exact import ExactIndex
from twotower.index.faiss_index import FaissIndex
from twotower.scores.catalogue import top_k_of
from twotower.types import Batch, Candidates


class RankAll(Stage):
    """Every item that may be shown is scored by the ranker, in pieces that stay in the cache.

    It is as fast as we could make it: slices of the item table are read in place, not gathered, and only the
    best k are kept. A ranker that reads the retriever's score gets it for every item, by exact inner
    products; that time counts too. The stage has the ranker's name, so that a re-ranker can stand behind it.
    """

    def __init__(self, rank: Rank, retrieve: Retrieve | None, k: int, pairs_at_once: int = 4096) -> None:
        super().__init__(rank.name, k)
        self.rank, self.pairs_at_once = rank, pairs_at_once
        reads = tuple(rank.model.pair_fields)
        if retrieve is None or not reads:
            assert not reads, f"the ranker reads {reads}"
            self.retriever = None
        else:
            assert reads == (f"{retrieve.name}_score",), f"only a score can be given for all items: {reads}"
            self.retriever, self.field = retrieve.model, reads[0]
            self.vectors = vectors_of(retrieve)

    @torch.inference_mode()
    def run(self, request: Request, candidates: Candidates | None, k: int) -> Candidates:
        model, table = self.rank.model, self.rank.table
        query, width = model.encode_query(request.query), max(1, self.pairs_at_once // len(request))
        asked = None if self.retriever is None else self.retriever.encode_query(request.query)["vector"]

        def score(start: int, stop: int) -> Tensor:
            scores = torch.empty(len(request), stop - start)
            for left in range(start, stop, width):
                right = min(left + width, stop)
                pair = None if asked is None else Batch({self.field: asked @ self.vectors[left:right].T})
                scores[:, left - start : right - start] = model.score(query, table.slice(left, right), pair)
            return scores

        found = top_k_of(score, len(request), table.rows, k, exclude=request.exclude, fresh=True)
        return rank_pair(self.name, found)

    @property
    def bytes_per_item(self) -> float:
        return self.rank.bytes_per_item


def vectors_of(retrieve: Retrieve) -> Tensor:
    """(N, D) the vectors of all items, in the order of their keys."""
    assert isinstance(retrieve.index, ExactIndex | FaissIndex)
    return retrieve.index.vectors.values
