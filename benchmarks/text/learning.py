"""How towers are trained here: in-batch softmax and mined negatives, the epoch chosen on held-out queries."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from benchmarks.text.cells import CACHE
from benchmarks.text.vectors import lexical, search, search_words
from twotower.data.batches import EventBatches
from twotower.data.hard_negatives import HardNegatives, Judged, Mining, mine
from twotower.evaluate.task import Task
from twotower.index.exact import ExactIndex
from twotower.models.base import Model
from twotower.pipeline.prepared import Prepared
from twotower.train.fit import FitResult, fit
from twotower.train.settings import TrainSettings
from twotower.train.softmax import InBatch, InBatchConfig
from twotower.types import Batch, Candidates


def train(
    model: Model,
    prepared: Prepared,
    validate: Callable[[Model], dict[str, float]],
    settings: TrainSettings,
    run: str,
    *,
    hard: HardNegatives | None = None,
    n_hard: int = 1,
) -> FitResult:
    """Train in place; interrupted, it goes on where it was (below ``runs/text_towers/<run>``).

    What is judged relevant to a query is no negative of it, with mined negatives and without.
    """
    plain: dict[str, Any] = {"log_q": "none"}
    if hard is not None:
        plain["hard"] = {"by": ["mined"], "n": n_hard}
    events = prepared.positives(prepared.split.train)
    objective = InBatch(
        prepared.items,
        prepared.item_counts,
        InBatchConfig.parse(plain),
        settings.seed,
        hard,
        Judged.of(events.query_keys, events.item_keys, prepared.n_items),
    )
    batches = EventBatches(
        events,
        prepared.queries,
        batch_size=settings.batch_size,
        seed=settings.seed,
    )
    return fit(model, batches, objective, settings, validate=validate, directory=CACHE / run)


def mined(prepared: Prepared, model: Model, vectors: Tensor, how: Mining, depth: int = 100) -> HardNegatives:
    """Hard negatives of the train positives: the best of ``model`` and BM25 in turn, guarded by the first."""
    events = prepared.positives(prepared.split.train)
    judged = Judged.of(events.query_keys, events.item_keys, prepared.n_items)
    queries, _ = judged.lists()
    columns = prepared.queries.take(queries)
    with torch.inference_mode():
        query = model.encode_query(columns)["vector"]
    words = lexical(prepared).search(columns["query_stems"], depth)
    served = in_turn(ExactIndex.build(vectors).search(query, depth), words)
    scores = (vectors[served.keys.clamp(min=0)] @ query[:, :, None]).squeeze(2)
    owner = torch.searchsorted(queries, judged.query_keys)
    positive = (vectors[judged.item_keys] * query[owner]).sum(1)
    return mine(judged, served, how, scores=scores, positive_scores=positive)


def in_turn(first: Candidates, second: Candidates) -> Candidates:
    """Both lists, one place of each after the other; an item that stands twice keeps its first place."""
    keys = torch.stack([first.keys, second.keys], 2).flatten(1)
    again = (keys[:, :, None] == keys[:, None, :]).tril(-1).any(2)
    scores = -torch.arange(float(keys.shape[1])).expand(keys.shape)
    return Candidates(keys.masked_fill(again, -1), scores).sorted()


class Pool:
    """Validation on fewer documents: the relevant ones, and the best of two sources for each query.

    To encode a collection after every epoch would take longer than the epoch.
    """

    def __init__(self, prepared: Prepared, model: Model, vectors: Tensor, depth: int = 10) -> None:
        self.task: Task = prepared.task("valid")
        found = [
            search(model, vectors, self.task, depth),
            search_words(lexical(prepared), self.task, depth),
        ]
        keys = torch.cat([*(each.keys[each.mask] for each in found), self.task.relevant.values])
        self.keys = torch.unique(keys)
        self.items: Batch = prepared.items.take(self.keys)

    @torch.inference_mode()
    def __call__(self, model: Model) -> dict[str, float]:
        query = model.encode_query(self.task.query)["vector"]
        index = ExactIndex.build(model.encode_item(self.items)["vector"], self.keys)
        values = self.task.measure(index.search(query, 10).keys, ["nDCG@10"])["nDCG@10"]
        return {"nDCG@10": float(values.mean())}
