"""The forms of one training loop that `training_throughput` compares; a process runs one of them.

    python -m benchmarks.training_forms ours --data workload.safetensors --threads 2

A form paces itself by its standard input: each line asks for a lap of steps, whose seconds it prints. So one
process per form (allocator settings hold for a process) can still take turns with the others, lap by lap.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.tastes import ITEM, QUERY, Tastes, load
from twotower.data.batches import EventBatches, Examples
from twotower.data.history import History
from twotower.data.interactions import Interactions
from twotower.index.exact import ExactIndex
from twotower.losses.logq import log_q_from_counts
from twotower.losses.softmax import sampled_softmax
from twotower.memory import keep_heap
from twotower.models.two_tower import TwoTower, TwoTowerConfig
from twotower.train.fit import fit
from twotower.train.settings import TrainSettings
from twotower.train.softmax import InBatch, InBatchConfig
from twotower.types import Batch

T = TypeVar("T")
Pace = Callable[[Iterator[T]], Iterator[T]]
"""Lets the batches of all epochs through one by one, and sees the time between."""


@dataclass(frozen=True)
class Options:
    batch: int
    seed: int
    rate: float  # of Adam: all parameters, or those outside the sparse table
    table_rate: float | None = None
    table_optimizer: str = "rowwise_adagrad"


class Laps:
    """Waits for a line on standard input before every lap, and prints its seconds."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def __call__(self, batches: Iterator[T]) -> Iterator[T]:
        for _ in sys.stdin:
            start = time.perf_counter()
            yield from itertools.islice(batches, self.steps)
            print(time.perf_counter() - start, flush=True)  # asked for the next one: the last step is done


class Curve:
    """Measures the model every so many steps; the clock stands still meanwhile."""

    def __init__(self, model: TwoTower, data: Tastes, part: Interactions, steps: int, every: int) -> None:
        self.model, self.data, self.part = model, data, part
        self.steps, self.every = steps, every
        self.points: list[dict[str, float]] = []

    def __call__(self, batches: Iterator[T]) -> Iterator[T]:
        seconds, start = 0.0, time.perf_counter()
        for step in range(1, self.steps + 1):
            yield next(batches)
            if step % self.every == 0 or step == self.steps:
                seconds += time.perf_counter() - start
                quality = measure(self.model, self.data, self.part)
                self.points.append({"step": step, "seconds": round(seconds, 2), **quality})
                start = time.perf_counter()


def dataloader(model: TwoTower, data: Tastes, options: Options, pace: Pace[Any]) -> None:
    """What tutorials do: DataLoader(TensorDataset), the matrix of logits, Adam over all parameters."""
    columns = data.columns
    log_q = log_q_from_counts(data.counts)
    loader = DataLoader(TensorDataset(*columns.values()), batch_size=options.batch, shuffle=True)
    optimizer = torch.optim.Adam(model.parameters(), lr=options.rate)
    for tensors in pace(itertools.chain.from_iterable(itertools.repeat(loader))):
        batch = dict(zip(columns, tensors, strict=True))
        optimizer.zero_grad()
        loss = eager_loss(model, batch, log_q)
        loss.backward()
        optimizer.step()


def tuned(model: TwoTower, data: Tastes, options: Options, pace: Pace[Any]) -> None:
    """The best eager form without sparse updates: shuffled columns cut in slices, bfloat16, fused Adam."""
    columns = data.columns
    log_q = log_q_from_counts(data.counts)
    optimizer = torch.optim.Adam(model.parameters(), lr=options.rate, fused=True)

    def slices() -> Iterator[dict[str, Tensor]]:
        while True:
            order = torch.randperm(len(data.train))
            shuffled = {name: column[order] for name, column in columns.items()}
            for start in range(0, len(order), options.batch):
                yield {name: column[start : start + options.batch] for name, column in shuffled.items()}

    for batch in pace(slices()):
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = eager_loss(model, batch, log_q)
        loss.backward()
        optimizer.step()


def ours(model: TwoTower, data: Tastes, options: Options, pace: Pace[Any]) -> None:
    """The library: `EventBatches`, `InBatch`, `fit`, with a sparse table and bfloat16."""
    source = EventBatches(data.train, data.queries, batch_size=options.batch, seed=options.seed)
    settings = TrainSettings.parse(
        {
            "epochs": 1,
            "batch_size": options.batch,
            "learning_rate": options.rate,
            "table_optimizer": options.table_optimizer,
            "table_learning_rate": options.table_rate,
            "precision": "bf16",
            "device": "cpu",
            "seed": options.seed,
        }
    )
    objective = InBatch(data.items, data.counts, InBatchConfig(), options.seed)
    fit(model, Paced(source, pace), objective, settings)


class Paced:
    """All epochs of a source as one that ends when the pace says so."""

    steps_per_epoch = None

    def __init__(self, source: EventBatches, pace: Pace[Examples]) -> None:
        self.source, self.pace = source, pace

    def epoch(self, number: int, start_step: int = 0) -> Iterator[Examples]:
        assert (number, start_step) == (0, 0)
        return self.pace(itertools.chain.from_iterable(map(self.source.epoch, itertools.count())))


FORMS = {"dataloader": dataloader, "tuned": tuned, "ours": ours}
KEPT_HEAP = ("tuned", "ours")


def eager_loss(model: TwoTower, batch: dict[str, Tensor], log_q: Tensor) -> Tensor:
    """In-batch softmax with logQ, the matrix of logits in memory; no mask of accidental hits."""
    query = model.encode_query(Batch((name, batch[name]) for name in QUERY))
    item = model.encode_item(Batch((name, batch[name]) for name in ITEM))
    logits = query["vector"] @ item["vector"].T - log_q[batch["key"]]
    return functional.cross_entropy(logits, torch.arange(len(logits)))


@torch.no_grad()
def measure(model: TwoTower, data: Tastes, part: Interactions, batch: int = 4096) -> dict[str, float]:
    """Held-out in-batch loss in float32, and recall over the whole catalogue without what the user saw."""
    was_training = model.training
    model.eval()
    log_q = log_q_from_counts(data.counts)
    vectors = model.encode_item(data.items)["vector"]
    query = model.encode_query(data.queries.take(part.query_keys))["vector"]
    losses = []
    for start in range(0, len(part) - batch + 1, batch):
        keys = part.item_keys[start : start + batch]
        scores = query[start : start + batch] @ vectors[keys].T
        losses.append(float(sampled_softmax(scores, log_q=log_q[keys], item_keys=keys)))
    seen = History.of(data.train, data.queries.rows).seen()
    found = ExactIndex.build(vectors)
    hits = {10: 0.0, 100: 0.0}
    rows = new_to_user(part, data.train)[:4096]
    for chosen in rows.split(1024):
        exclude = seen.take(part.query_keys[chosen])
        keys = found.search(query[chosen], 100, exclude).keys
        hit = keys == part.item_keys[chosen, None]
        hits = {k: total + float(hit[:, :k].sum()) for k, total in hits.items()}
    model.train(was_training)
    recalls = {f"R@{k}": round(total / len(rows), 4) for k, total in hits.items()}
    return {"loss": round(sum(losses) / len(losses), 4), **recalls}


def new_to_user(part: Interactions, train: Interactions) -> Tensor:
    """Rows of ``part`` whose item the user has not had in training."""
    stride = int(max(part.item_keys.max(), train.item_keys.max())) + 1
    known = torch.isin(part.query_keys * stride + part.item_keys, train.query_keys * stride + train.item_keys)
    return (~known).nonzero()[:, 0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("form", choices=FORMS)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--lap", type=int, default=20, help="steps per line of standard input")
    parser.add_argument("--curve", type=int, default=0, help="train so many steps and print a curve instead")
    parser.add_argument("--every", type=int, default=100)
    parser.add_argument("--part", choices=("valid", "test"), default="test")
    parser.add_argument("--options", type=json.loads, default={})
    args = parser.parse_args()
    if args.form in KEPT_HEAP:
        keep_heap()
    torch.set_num_threads(args.threads)
    data, options = load(args.data), Options(**args.options)
    torch.manual_seed(options.seed)
    config = TwoTowerConfig(embedding=32, layers=(128, 64), sparse=args.form == "ours")
    model = TwoTower(data.spec, config)
    if args.curve:
        curve = Curve(model, data, getattr(data, args.part), args.curve, args.every)
        FORMS[args.form](model, data, options, curve)
        print(json.dumps(curve.points), flush=True)
    else:
        FORMS[args.form](model, data, options, Laps(args.lap))


if __name__ == "__main__":
    main()
