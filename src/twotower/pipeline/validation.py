"""What the epochs of a model are compared by: its ranking of the catalogue, or its scores of events."""

from __future__ import annotations

import polars as pl
import torch
from torch import Tensor

from twotower.data.batches import EventBatches
from twotower.errors import DataError
from twotower.evaluate.task import Task
from twotower.index.item_table import Progress
from twotower.metrics.ranking import average
from twotower.metrics.rating import auc, calibration_error, grouped_auc, log_loss
from twotower.models.base import Model
from twotower.pipeline.encoding import encode_all
from twotower.pipeline.prepared import Prepared
from twotower.scores.catalogue import top_k_of
from twotower.types import Batch, Rep

CATALOGUE_MEASURES = ("nDCG@10", "R@10")


@torch.inference_mode()
def rank_catalogue(
    model: Model, items: Batch, task: Task, progress: Progress | None = None
) -> dict[str, float]:
    """nDCG@10 and R@10 of a dot or late model over the whole catalogue, seen items masked."""
    best = best_of_catalogue(model, items, task, 10, progress=progress)
    values = task.measure(best, CATALOGUE_MEASURES)
    return {name: average(value).value for name, value in values.items()}


@torch.inference_mode()
def best_of_catalogue(
    model: Model,
    items: Batch,
    task: Task,
    k: int,
    queries_at_once: int = 1024,
    progress: Progress | None = None,
) -> Tensor:
    """(Q, k) keys of the items a dot or late model scores highest, seen items masked; no index is built.

    ``progress`` is told how far the encoding of the items is, which for texts is nearly all of the time.
    """
    assert model.kind in ("dot", "late"), model.kind
    device = model.device
    item = encode_all(model, items, progress)
    keys = []
    for start in range(0, len(task), queries_at_once):
        rows = torch.arange(start, min(start + queries_at_once, len(task)))
        query = model.encode_query(task.query.take(rows).to(device))

        def score(first: int, last: int, query: Rep = query) -> Tensor:
            return model.score(query, item.slice(first, last)).float().cpu()

        found = top_k_of(score, len(rows), items.rows, k, exclude=task.seen.take(rows), fresh=True)
        keys.append(found.keys)
    return torch.cat(keys)


class LabelledEvents:
    """Labelled events, each with its query as it was before the event: for AUC, log loss, calibration."""

    MEASURES = ("AUC", "log loss", "GAUC", "ECE")

    def __init__(
        self, prepared: Prepared, events: pl.DataFrame, before: pl.DataFrame, rows: int = 8192
    ) -> None:
        self.prepared = prepared
        labelled = prepared.interactions(events)
        if labelled.labels is None or len(set(labelled.labels.tolist())) < 2:
            raise DataError("labelled events must hold both positives and negatives; check the positive rule")
        self.labels: Tensor = labelled.labels
        self.groups, self.items = labelled.query_keys, labelled.item_keys
        self.batches = EventBatches(
            labelled,
            prepared.queries,
            batch_size=rows,
            past=prepared.past(before),
            strict_time=prepared.strict_time,
            shuffle=False,
        )

    @torch.inference_mode()
    def scores(self, model: Model) -> Tensor:
        """(n,) logits in the order of the events."""
        device = model.device
        parts = []
        for examples in self.batches.epoch(0):
            item = model.encode_item(self.prepared.items.take(examples.items[:, None]).to(device))
            query = model.encode_query(examples.query.to(device))
            parts.append(model.score(query, item)[:, 0].float().cpu())
        return torch.cat(parts)

    def measure(self, model: Model) -> dict[str, float]:
        """AUC, log loss, AUC within queries, and calibration error of the scores as logits."""
        scores = self.scores(model)
        values = (
            auc(scores, self.labels),
            log_loss(scores, self.labels),
            grouped_auc(scores, self.labels, self.groups).by_impressions,
            calibration_error(scores.sigmoid(), self.labels),
        )
        return dict(zip(self.MEASURES, values, strict=True))
