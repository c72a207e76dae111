"""Lists that hold more than what is retrieved: they teach a ranker about the whole catalogue.

Letters: Q queries, N items.
"""

from __future__ import annotations

import torch

from twotower.cascade.retrieve import Retrieve
from twotower.cascade.stage import Request
from twotower.types import Batch, Candidates


class RetrieveAndDraw(Retrieve):
    """A retriever's first ``top`` items, and ``drawn`` of all that stand behind them, at random.

    Scores and ranks are the retriever's own in the whole catalogue. ``drawn`` = 0 is the retriever.
    """

    def __init__(self, retrieve: Retrieve, top: int, drawn: int, generator: torch.Generator) -> None:
        super().__init__(retrieve.model, retrieve.index, top + drawn, retrieve.name)
        self.top, self.drawn, self.generator = top, drawn, generator

    def run(self, request: Request, candidates: Candidates | None, k: int) -> Candidates:
        everything = super().run(request, None, len(self.index))
        luck = torch.rand(everything.keys.shape, generator=self.generator).masked_fill(~everything.mask, -1)
        luck[:, : self.top] += 2
        chosen = luck.topk(min(k, luck.shape[1])).indices.sort(1).values
        return Candidates(
            everything.keys.gather(1, chosen),
            everything.scores.gather(1, chosen),
            Batch((name, values.gather(1, chosen)) for name, values in everything.pair.items()),
        )
