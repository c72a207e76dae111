"""Do 20 million events of 2 million users on 1 million items fit into 6 GiB, from Parquet to a model?

    python -m benchmarks.streaming                              # results/streaming.json
    python -m benchmarks.streaming --queries 20000 --items 10000 --steps 20 --quick

Every phase runs in a process of its own, whose peak of resident memory the system reports when it ends
(memory-mapped pages count). The loss weighs events by their clicks: what was shown and not clicked is only a
negative. Data goes to a temporary directory, or to --dir, where a second run finds what the first generated.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow.parquet as pq
import torch

from benchmarks.machine import machine, write_result
from twotower.data.catalogue import Catalogue
from twotower.data.dataset import Dataset
from twotower.data.features import Features
from twotower.data.prepare import prepare, stream_catalogue
from twotower.data.store import EventStore, ParquetBatches
from twotower.data.synthetic import SCHEMA
from twotower.memory import keep_heap
from twotower.models.two_tower import TwoTower, TwoTowerConfig
from twotower.schema import Field, Schema
from twotower.train.events import Event, Step
from twotower.train.fit import fit
from twotower.train.settings import TrainSettings
from twotower.train.softmax import InBatch, InBatchConfig
from twotower.types import Batch

LIMIT_GIB = 6.0
CHUNK_ROWS = 1 << 18
WEIGHT = Field(name="weight", kind="number", role="weight")
LARGE = Schema(
    query=SCHEMA.query,
    item=SCHEMA.item,
    fields=(
        *(f for f in SCHEMA.fields if f.role in ("query", "item", "time") and f.kind != "text"),
        WEIGHT,
    ),
)


def generate(directory: Path, args: argparse.Namespace) -> dict[str, Any]:
    """The raw shards, by `benchmarks.make_large`; those of an earlier run of the same sizes are taken."""
    asked = {"queries": args.queries, "items": args.items, "seed": args.seed}
    note = directory / "raw" / "made.json"
    if note.exists():
        made: dict[str, Any] = json.loads(note.read_text(encoding="utf-8"))
        if asked.items() <= made.items():
            return {**made, "reused": True}
    command = [sys.executable, "-m", "benchmarks.make_large", "--out", str(directory / "raw")]
    command += ["--queries", str(args.queries), "--items", str(args.items), "--seed", str(args.seed)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    note.write_text(done.stdout, encoding="utf-8")
    return dict(json.loads(done.stdout))


def catalogues(directory: Path, args: argparse.Namespace) -> dict[str, Any]:
    """All ids of both sides, streamed."""
    found = {
        name: stream_catalogue([directory / "raw" / f"{name}.parquet"], column, _progress(name))
        for name, column in (("queries", LARGE.query), ("items", LARGE.item))
    }
    for name, catalogue in found.items():
        catalogue.all_ids().to_frame().write_parquet(directory / "work" / f"{name}.parquet")
    return {name: len(catalogue) for name, catalogue in found.items()}


def features(directory: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Vocabularies and statistics of the first 80% of time; of an event only its two ids are read."""
    events = pl.scan_parquet(directory / "raw" / "events-*.parquet")
    time_column = str(LARGE.time)
    cut = events.select(pl.col(time_column).quantile(0.8, "lower")).collect(engine="streaming").item()
    train = events.filter(pl.col(time_column) <= cut).select(LARGE.query, LARGE.item)
    pairs = train.collect(engine="streaming")
    queries, items = (pl.read_parquet(directory / "raw" / f"{n}.parquet") for n in ("queries", "items"))
    fitted = Features.fit(Dataset("large", LARGE, pairs, queries, items), pairs)
    fitted.save(directory / "work" / "features")
    (directory / "work" / "cut.json").write_text(json.dumps(cut), encoding="utf-8")
    rows = {column.name: column.size for column in fitted.spec.columns if column.size}
    return {"training_events": len(pairs), "embedding_rows": sum(rows.values())}


def events(directory: Path, args: argparse.Namespace) -> dict[str, Any]:
    """The store: keys instead of ids, shard by shard."""
    cut = json.loads((directory / "work" / "cut.json").read_text(encoding="utf-8"))
    ids = (
        Catalogue(pl.read_parquet(directory / "work" / f"{n}.parquet").to_series())
        for n in ("queries", "items")
    )
    store = prepare(
        directory / "work" / "store",
        sorted((directory / "raw").glob("events-*.parquet")),
        LARGE,
        *ids,
        columns={WEIGHT.name: "click"},
        keep=pl.col(str(LARGE.time)) <= cut,
        progress=_progress("events"),
    )
    size = sum(file.stat().st_size for file in (directory / "work" / "store").glob("part-*.parquet"))
    return {"events": len(store), "notes": store.notes, "store_mb": round(size / 1e6)}


def tables(directory: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Both entity tables, encoded chunk by chunk and written to be memory-mapped."""
    fitted, store = (
        Features.load(directory / "work" / "features"),
        EventStore.open(directory / "work" / "store"),
    )
    sizes = {}
    sides = (
        ("queries", fitted.encode_queries, store.queries),
        ("items", fitted.encode_items, store.items),
    )
    for name, encode, catalogue in sides:
        parts: list[Batch] = []
        with pq.ParquetFile(directory / "raw" / f"{name}.parquet") as file:
            for raw in file.iter_batches(CHUNK_ROWS):
                chunk = pl.DataFrame(raw)
                first = sum(part.rows for part in parts)
                keys = catalogue.keys(chunk[catalogue.name])
                assert keys[0] == first, "the raw tables are in key order"
                assert keys[-1] == first + len(chunk) - 1
                parts.append(encode(chunk))
        table = Batch((n, torch.cat([part[n] for part in parts])) for n in parts[0])
        store.put_table(name, table)
        sizes[f"{name}_mb"] = round(
            (directory / "work" / "store" / f"{name}.safetensors").stat().st_size / 1e6
        )
    return sizes


def train(directory: Path, args: argparse.Namespace) -> dict[str, Any]:
    """A slice of an epoch: in-batch softmax, one sparse table, bfloat16."""
    keep_heap()
    store, spec = (
        EventStore.open(directory / "work" / "store"),
        Features.load(directory / "work" / "features").spec,
    )
    items = store.table("items")
    counts = torch.zeros(items.rows, dtype=torch.int64)
    for group, (_, _, rows) in enumerate(store.groups):
        counts += torch.bincount(store.read([(group, 0, rows)]).item_keys, minlength=len(counts))
    torch.manual_seed(args.seed)
    model = TwoTower(spec, TwoTowerConfig(embedding=32, layers=(128, 64), sparse=True))
    batches = ParquetBatches(store, store.table("queries"), batch_size=args.batch, seed=args.seed)
    losses: list[float] = []

    def listen(event: Event) -> None:
        if isinstance(event, Step):
            losses.append(sum(event.losses.values()))
            if event.step % 50 == 0:
                _say(f"  step {event.step}: loss {losses[-1]:.3f}")

    settings = TrainSettings(
        epochs=1,
        max_steps=args.steps,
        batch_size=args.batch,
        precision="bf16",
        device="cpu",
        seed=args.seed,
        report_every_s=0.0,
    )
    result = fit(model, batches, InBatch(items, counts, InBatchConfig(), args.seed), settings, events=listen)
    tenth = max(1, len(losses) // 10)
    return {
        "steps": result.steps,
        "steps_per_epoch": batches.steps_per_epoch,
        "examples_per_s": round(result.examples_per_second),
        "parameters": sum(p.numel() for p in model.parameters()),
        "loss_of_first_tenth": round(sum(losses[:tenth]) / tenth, 3),
        "loss_of_last_tenth": round(sum(losses[-tenth:]) / tenth, 3),
    }


PHASES: dict[str, Callable[[Path, argparse.Namespace], dict[str, Any]]] = {
    phase.__name__: phase for phase in (generate, catalogues, features, events, tables, train)
}


def measured(name: str, directory: Path, arguments: list[str]) -> dict[str, Any]:
    """Run a phase in a child; what it returned, its seconds and its peak of resident memory."""
    _say(f"{name} ...")
    start = time.perf_counter()
    command = [sys.executable, "-m", "benchmarks.streaming", "--phase", name, "--dir", str(directory)]
    environment = {**os.environ, "THP_MEM_ALLOC_ENABLE": "1"} if name == "train" else None
    child = subprocess.Popen(command + arguments, stdout=subprocess.PIPE, text=True, env=environment)
    assert child.stdout is not None
    with child.stdout as out:
        text = out.read()
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise SystemExit(f"phase {name!r} ended with code {child.returncode}")
    reported = json.loads(text)
    peak_kib = max(usage.ru_maxrss, reported.pop("children_kib"))
    phase = {"seconds": round(time.perf_counter() - start, 1), "peak_gib": round(peak_kib / 2**20, 2)}
    _say(f"{name}: {phase} {reported}")
    return {**reported, **phase}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--queries", type=int, default=2_000_000)
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--batch", type=int, default=8192)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dir", type=Path, help="default: a temporary directory")
    parser.add_argument("--keep", action="store_true", help="leave the generated data in --dir")
    parser.add_argument("--quick", action="store_true", help="write no result file")
    parser.add_argument("--phase", choices=PHASES, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.phase:
        returned = PHASES[args.phase](args.dir, args)
        returned["children_kib"] = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
        print(json.dumps(returned))
        return

    about, directory = machine(), args.dir or Path(tempfile.mkdtemp(prefix="twotower-streaming-"))
    sizes = {name: getattr(args, name) for name in ("queries", "items", "steps", "batch", "seed")}
    arguments = [word for name, value in sizes.items() for word in (f"--{name}", str(value))]
    shutil.rmtree(directory / "work", ignore_errors=True)
    (directory / "work").mkdir(parents=True)
    try:
        phases = {name: measured(name, directory, arguments) for name in PHASES}
    finally:
        if not (args.dir and args.keep):
            shutil.rmtree(directory if not args.dir else directory / "raw", ignore_errors=True)
        shutil.rmtree(directory / "work", ignore_errors=True)
    peak = max(phase["peak_gib"] for phase in phases.values())
    own_gib = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2)
    result = {
        "limit_gib": LIMIT_GIB,
        "peak_gib": peak,
        "within_limit": peak < LIMIT_GIB,
        "waiting_parent_gib": own_gib,
        "phases": phases,
    }
    print(json.dumps(result, indent=1))
    if not args.quick:
        _say(f"written: {write_result('streaming', {'machine': about, **sizes, **result})}")
    if peak >= LIMIT_GIB:
        raise SystemExit(f"the peak of {peak} GiB is over the limit of {LIMIT_GIB}")


def _progress(name: str) -> Callable[[int, int], None]:
    said = [0.0]

    def tell(done: int, total: int) -> None:
        if time.perf_counter() - said[0] > 5 or done == total:
            said[0] = time.perf_counter()
            _say(f"  {name}: {done:,} of {total:,} rows")

    return tell


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
