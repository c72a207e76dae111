"""A later stage: a model scores the candidates it is handed and keeps the best."""

from __future__ import annotations

import torch
from torch import Tensor

from twotower.cascade.stage import Request, Stage, rank_pair
from twotower.errors import ConfigError, MismatchError
from twotower.index.delta_table import DeltaTable
from twotower.index.item_table import ItemTable
from twotower.index.manifest import maker
from twotower.models.base import Model
from twotower.types import Candidates

PIECE = 512
"""Pairs scored between two looks at the clock, where there is a deadline."""
MEMORY_MB = 256
"""Bound on what is held of candidates at once, as the table hands it out: texts padded to the longest there
is. What `score` needs comes on top, and a ``list`` model, which sees lists whole, may take more."""


class Rank(Stage):
    """Encode the query once, take the candidates' item representations from the table, score, sort."""

    def __init__(
        self,
        model: Model,
        table: ItemTable | DeltaTable,
        k: int = 50,
        name: str = "rank",
        pairs_at_once: int = 65_536,
    ) -> None:
        if maker(table.produced_by) != model.item_digest():
            raise MismatchError(
                f"the item table was built by model {table.produced_by}, "
                f"this one is {model.item_digest()}; rebuild the table"
            )
        super().__init__(name, k)
        self.model, self.table, self.pairs_at_once = model.eval(), table, pairs_at_once

    @torch.inference_mode()
    def run(self, request: Request, candidates: Candidates | None, k: int) -> Candidates:
        if candidates is None:
            raise ConfigError(
                f"stage {self.name!r} ranks candidates, but stands first; put a retriever before it"
            )
        Q, K = candidates.keys.shape
        if not Q or not K:
            return rank_pair(self.name, candidates.best(k))
        most = max(1, min(self.pairs_at_once, int(MEMORY_MB * 2**20) // max(1, self.table.taken_bytes)))
        rows = min(Q, max(1, most // K))
        scores = torch.cat([self._scores(request, candidates, s, s + rows, most) for s in range(0, Q, rows)])
        ranked = Candidates(candidates.keys, scores.float(), candidates.pair).sorted().best(k)
        return rank_pair(self.name, ranked)

    def _scores(self, request: Request, candidates: Candidates, start: int, stop: int, most: int) -> Tensor:
        """(q, K) scores of the queries start..stop; in pieces where memory or time is short, unless lists are
        whole."""
        query = self.model.encode_query(request.query.slice(start, stop))
        width = candidates.keys.shape[1]
        pairs = most if request.deadline is None else min(most, PIECE)
        piece = width if self.model.kind == "list" else max(1, pairs // (stop - start))
        scores = []
        for left in range(0, width, piece):
            request.check_time()
            part = candidates.columns(left, left + piece)
            item = self.table.take(part.keys[start:stop])
            scores.append(self.model.score(query, item, part.pair.slice(start, stop), part.mask[start:stop]))
        return torch.cat(scores, 1)

    @property
    def reads(self) -> tuple[str, ...]:
        return tuple(self.model.pair_fields)

    @property
    def bytes_per_item(self) -> float:
        return self.table.bytes_per_item
