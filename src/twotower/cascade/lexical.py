"""Retrieval by the query's words: a source beside a model's, or alone."""

from __future__ import annotations

from torch import Tensor

from twotower.baselines.bm25 import BM25
from twotower.cascade.stage import Request, Stage, no_candidates, rank_pair
from twotower.config import nearest
from twotower.errors import ConfigError
from twotower.types import Candidates


class RetrieveLexical(Stage):
    """The documents that BM25 finds by one of the query's columns of token indices, (Q, L).

    A document that shares no token with the query is no candidate, so a query of unknown words gets nothing.
    It also scores documents that it did not find: as a source of `twotower.cascade.fuse.Fuse` it says
    ``<name>_score`` of every candidate, whoever brought it.
    """

    def __init__(self, bm25: BM25, column: str, k: int = 500, name: str = "lexical") -> None:
        super().__init__(name, k)
        self.bm25, self.column = bm25, column

    def run(self, request: Request, candidates: Candidates | None, k: int) -> Candidates:
        tokens = self._tokens(request)
        if not k or not len(request):
            return rank_pair(self.name, no_candidates(len(request)))
        return rank_pair(self.name, self.bm25.search(tokens, k, request.exclude, request.allow))

    def scores_of(self, request: Request, keys: Tensor) -> Tensor:
        """BM25 (Q, K) of any items, keys (Q, K); 0 in empty slots and for items it was not fitted on."""
        return self.bm25.scores_of(self._tokens(request), keys)

    def _tokens(self, request: Request) -> Tensor:
        if self.column not in request.query:
            raise ConfigError(
                f"stage {self.name!r} reads the words of the query column {self.column!r}"
                f"{nearest(self.column, request.query)}"
            )
        tokens = request.query[self.column]
        if tokens.dim() != 2 or tokens.is_floating_point():
            raise ConfigError(
                f"stage {self.name!r}: query column {self.column!r} is {tokens.dtype} "
                f"{tuple(tokens.shape)}, expected token indices (Q, L)"
            )
        return tokens

    @property
    def bytes_per_item(self) -> float:
        return self.bm25.bytes_per_item
