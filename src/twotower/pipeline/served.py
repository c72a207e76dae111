"""What the stages before a model serve, and how a model that still learns would order it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from twotower.cascade.cascade import Cascade
from twotower.cascade.filter import contains
from twotower.cascade.stage import Request, Stage
from twotower.data.hashing import stable_hash
from twotower.evaluate.experiment import joined, request_of
from twotower.evaluate.task import Task
from twotower.metrics.consistency import measure_served
from twotower.metrics.ranking import average
from twotower.models.base import Model
from twotower.pipeline.prepared import Prepared
from twotower.types import NO_ITEM, Batch, Candidates

Validate = Callable[[Model], dict[str, float]]


def serve(cascade: Cascade, task: Task, queries_at_once: int = 256) -> Candidates:
    """The candidates the cascade hands on for every query of a task."""
    request = request_of(task)
    return joined(
        [
            cascade(request.rows(start, start + queries_at_once))[0]
            for start in range(0, len(task), queries_at_once)
        ]
    )


def reorder(stage: Stage, task: Task, served: Candidates, queries_at_once: int = 256) -> Candidates:
    """All served candidates in the order of a trained stage."""
    request, width = request_of(task), served.keys.shape[1]
    parts = []
    for start in range(0, len(task), queries_at_once):
        stop = start + queries_at_once
        part = Candidates(served.keys[start:stop], served.scores[start:stop], served.pair.slice(start, stop))
        parts.append(stage.run(request.rows(start, stop), part, width))
    return joined(parts)


def scores_by(
    stage: Stage, request: Request, keys: Tensor, pair: Batch | None = None, requests_at_once: int = 256
) -> Tensor:
    """(Q, K) a trained stage's scores of given items in their own order; NaN for empty slots.

    ``pair`` is what earlier stages knew of them, each (Q, K, ...): a stage that reads such fields needs it.
    """
    given = Batch({**(pair or {}), "place": torch.arange(keys.shape[1]).expand_as(keys)})
    parts = []
    for start in range(0, len(keys), requests_at_once):
        stop = start + requests_at_once
        mine = keys[start:stop]
        candidates = Candidates(mine, torch.zeros(mine.shape), given.slice(start, stop))
        ranked = stage.run(request.rows(start, stop), candidates, mine.shape[1])
        parts.append(torch.zeros(mine.shape).scatter_(1, ranked.pair["place"], ranked.scores))
    return torch.cat(parts).masked_fill(keys == NO_ITEM, torch.nan)


@torch.inference_mode()
def rescore(
    model: Model, items: Batch, task: Task, served: Candidates, queries_at_once: int = 64
) -> Candidates:
    """The served candidates in the order of a model that is still learning (no table yet)."""
    device = model.device
    scores = []
    for start in range(0, len(task), queries_at_once):
        rows = slice(start, start + queries_at_once)
        query = model.encode_query(task.query.slice(start, start + queries_at_once).to(device))
        item = model.encode_item(items.take(served.keys[rows].clamp(min=0)).to(device))
        pair = served.pair.slice(start, start + queries_at_once).to(device)
        scores.append(model.score(query, item, pair, served.mask[rows].to(device)).float().cpu())
    return Candidates(served.keys, torch.cat(scores)).sorted()


def is_relevant(keys: Tensor, task: Task) -> Tensor:
    """(Q, K) bool: whether each candidate is a relevant item of its query."""
    return contains(task.relevant, keys)


def gains_of(keys: Tensor, task: Task, prepared: Prepared) -> Tensor:
    """(Q, K) what each candidate brought its query in the valid part: 1 for a positive, or its value."""
    if not prepared.recipe.value:
        return is_relevant(keys, task).float()
    events, value = prepared.interactions(prepared.split.valid), prepared.values(prepared.split.valid)
    stride = prepared.n_items
    code, inverse = torch.unique(events.query_keys * stride + events.item_keys, return_inverse=True)
    best = torch.zeros(len(code)).scatter_reduce_(0, inverse, value, "amax")
    wanted = task.query_keys[:, None] * stride + keys
    at = torch.searchsorted(code, wanted).clamp(max=max(len(code) - 1, 0))
    return best[at].masked_fill((code[at] != wanted) | (keys < 0), 0.0)


def dealt(prepared: Prepared, task: Task, share: float, left_out: float = 0.0) -> tuple[Task, Task]:
    """Queries a ranker learns lists from, and those that choose its epoch; by a hash of their ids.

    ``left_out`` goes to neither, and ``share`` is of the rest; see `twotower.pipeline.order.share_left_out`.
    """
    ids = prepared.dataset.query_catalogue.ids(task.query_keys.numpy())
    place = torch.from_numpy((stable_hash(ids.cast(str)) % 1000).astype("int64")) / 1000
    cut = left_out + (1 - left_out) * share
    return (
        task.take(((place >= left_out) & (place < cut)).nonzero()[:, 0]),
        task.take((place >= cut).nonzero()[:, 0]),
    )


class ServedValidation:
    """Judges a pre-ranker by the candidates it would be served: `kept@depth`, and agreement with a teacher.

    ``teacher`` is a trained stage; overlap is measured at its own depth.
    """

    def __init__(
        self, prepared: Prepared, before: Cascade, task: Task, depth: int, teacher: Stage | None = None
    ) -> None:
        self.items, self.task, self.depth = prepared.items, task, depth
        self.served = serve(before, task)
        self.reference = None if teacher is None else reorder(teacher, task, self.served).keys
        self.k = depth if teacher is None else min(teacher.k, depth)

    def per_query(self, model: Model) -> dict[str, Tensor]:
        """Every measure of `measure_served` for every query, for paired intervals."""
        ordered = rescore(model, self.items, self.task, self.served)
        return measure_served(ordered, self.task.relevant, self.reference, depths=[self.depth], k=self.k)

    def __call__(self, model: Model) -> dict[str, float]:
        return {name: average(values).value for name, values in self.per_query(model).items()}
