"""Time per candidate of ranking models, side by side: what a pre-ranker's budget is spent on."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from twotower.evaluate.latency import one_thread
from twotower.index.item_table import ItemTable
from twotower.models.base import Model
from twotower.timing import Stopwatch
from twotower.types import Batch, Rep


@torch.inference_mode()
def time_per_candidate(
    models: Mapping[str, Model],
    queries: Batch,
    items: Batch,
    *,
    candidates: int = 1000,
    requests: int = 50,
    warm_up: int = 5,
    seed: int = 0,
) -> dict[str, float]:
    """Median microseconds per candidate of whole requests: encode the query, take the items, score them.

    ``queries`` (Q, ...) and ``items`` (N, ...) are encoded columns; requests take one query after the other
    and candidates drawn with replacement. Torch's thread count is one while this runs. The models take turns
    within each request, so that whatever else the machine does meets all of them alike.
    """
    tables = {name: _table(model, items) for name, model in models.items()}
    watches = {name: Stopwatch() for name in models}
    draw = torch.Generator().manual_seed(seed)
    with one_thread():
        for number in range(warm_up + requests):
            row = number % queries.rows
            query = queries.slice(row, row + 1)
            keys = torch.randint(items.rows, (1, candidates), generator=draw)
            for name, model in models.items():
                with (watches[name] if number >= warm_up else Stopwatch()).measure():
                    model.score(model.encode_query(query), tables[name].take(keys))
    return {name: watch.percentile(50) * 1e3 / candidates for name, watch in watches.items()}


def _table(model: Model, items: Batch) -> ItemTable:
    def encode(keys: torch.Tensor) -> Rep:
        return model.encode_item(items.take(keys))

    return ItemTable.build(encode, items.rows, model.item_specs(), model.item_digest())
