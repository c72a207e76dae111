"""Microseconds per candidate, one query at a time on one thread, at every storage depth.

Weights do not matter here: the models are fresh ones, with the features of MovieLens 1M. The candidates of a
request are a query's own, taken from an item table of 10,000 keys (the catalogue, repeated); what is timed is
taking and scoring them, and the query tower by itself. All models, depths and sizes take turns, round by
round, so that whatever else the machine does meets all of them alike; the result is the median of rounds. A
call before, which does not count, brings a model's memory back into the caches that the others have emptied:
in service it would be the only one.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import torch

from benchmarks.machine import machine
from benchmarks.pre_ranking.cells import at_stores
from benchmarks.pre_ranking.data import DATA, prepared_for
from benchmarks.pre_ranking.files import RESULTS, write_json
from benchmarks.pre_ranking.groups import groups_path, recipe_on
from benchmarks.pre_ranking.models import MODELS
from benchmarks.pre_ranking.search import FIRST, SEARCH_DATA
from twotower.evaluate.latency import one_thread
from twotower.index.item_table import ItemTable
from twotower.models.base import Model
from twotower.models.catalogue import make_model
from twotower.types import Batch, Rep

CATALOGUE, SIZES = 10_000, (1_000, 10_000)
ROUNDS, WARM_UP = 25, 2
FOLDER = RESULTS / "cost"


@dataclass
class Timed:
    """A model at one storage depth, and what was measured: seconds by name."""

    name: str
    store: str
    model: Model
    table: ItemTable
    seconds: dict[str, list[float]] = field(default_factory=dict)

    def round(self, query: Batch, keys: dict[int, torch.Tensor], counts: bool) -> None:
        """One request of each size."""
        for chosen in keys.values():
            self.model.score(self.model.encode_query(query), self.table.take(chosen))
        started = time.perf_counter()
        rep = self.model.encode_query(query)
        self._note("query", started, counts)
        for size, chosen in keys.items():
            started = time.perf_counter()
            self.model.score(rep, self.table.take(chosen))
            self._note(str(size), started, counts)

    def _note(self, what: str, started: float, counts: bool) -> None:
        if counts:
            self.seconds.setdefault(what, []).append(time.perf_counter() - started)


@torch.inference_mode()
def measure_costs(names: Sequence[str], again: bool = False, data: str = SEARCH_DATA) -> None:
    """Measure models without a result (or all, ``again``) side by side, and write a file for each."""
    missing = [
        n for n in names if MODELS[n].fits(DATA[data]) and (again or not (FOLDER / f"{n}.json").exists())
    ]
    for name in [n for n in missing if MODELS[n].chosen and not groups_path(data).exists()]:
        print(f"cost: {name} is left out, its groups are not chosen on {data} yet", flush=True)
        missing.remove(name)
    if not missing:
        return
    about, made = machine(), [_made(name, data) for name in missing]
    prepared = made[0][1]
    items = prepared.items.take(torch.arange(CATALOGUE) % prepared.n_items)
    some = torch.arange(len(prepared.dataset.queries))[:: len(prepared.dataset.queries) // 50]
    queries = prepared.request_columns(some, prepared.split.train)
    timed = [
        Timed(name, store, model, _table(model, items))
        for name, (whole, _) in zip(missing, made, strict=True)
        for store, model in at_stores(whole).items()
    ]
    draw = torch.Generator().manual_seed(0)
    with one_thread():
        for number in range(-WARM_UP, ROUNDS):
            query = queries.slice(number % queries.rows, number % queries.rows + 1)
            keys = {size: torch.randint(CATALOGUE, (1, size), generator=draw) for size in SIZES}
            for one in timed:
                one.round(query, keys, counts=number >= 0)
            print(f"cost: round {number + 1} of {ROUNDS}", flush=True)
    for name in missing:
        write_json(
            FOLDER / f"{name}.json", {**_result([t for t in timed if t.name == name]), "machine": about}
        )


def _made(name: str, data: str) -> tuple[Model, Any]:
    prepared = prepared_for(data, recipe_on(data, name, FIRST), seed=0)
    about = prepared.recipe.models["model"]
    return make_model(about.model, prepared.spec(about.features), about.config).eval(), prepared


def _table(model: Model, items: Batch) -> ItemTable:
    def encode(keys: torch.Tensor) -> Rep:
        return model.encode_item(items.take(keys))

    return ItemTable.build(encode, items.rows, model.item_specs(), model.item_digest())


def _result(timed: list[Timed]) -> dict[str, Any]:
    """Medians of one model: microseconds of the query tower, and per candidate by depth and size."""
    stores: dict[str, Any] = {}
    for one in timed:
        stores[one.store] = {
            "bytes_per_item": one.model.bytes_per_item,
            "flops_per_pair": one.model.flops_per_pair,
            "us_per_candidate": {
                str(size): round(median(one.seconds[str(size)]) * 1e6 / size, 5) for size in SIZES
            },
            "us_per_query": round(median(one.seconds["query"]) * 1e6, 1),
        }
    return {"model": timed[0].name, "rounds": ROUNDS, "catalogue": CATALOGUE, "stores": stores}
