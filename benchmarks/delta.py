"""What do new, changed and deleted items cost a search, over an exact index and over a graph?

    python -m benchmarks.delta                      # results/delta.json
    python -m benchmarks.delta --items 5000 --queries 20

For 0, 1,000 and 10,000 items beside the base, and as many of the base that hold no longer: single queries on
one thread, asked of the plain index and of the delta over it in turn; the ratio is that of the medians. Times
are those the thread computed, so that a busy neighbour does not count. Half of those that hold no longer were
changed (they stand beside the base), half deleted; as many others are new.
Vectors have a decaying spectrum and log-normal norms, queries are means of four items and noise.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

import torch
from torch import Tensor

from benchmarks.machine import machine, write_result
from twotower.index.base import Index
from twotower.index.build import BuiltIndex, IndexConfig, build_index
from twotower.index.delta import DeltaIndex
from twotower.index.exact import ExactIndex
from twotower.index.recall import recall

DIM, K = 64, 100
CHANGES = (0, 1_000, 10_000)
INDEXES = {"exact": IndexConfig(), "HNSW32": IndexConfig(kind="faiss", ef_construction=100)}


def world(items: int, queries: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    spectrum = 0.85 ** torch.arange(DIM)
    vectors = torch.randn(items, DIM, generator=generator) * spectrum
    vectors *= torch.randn(items, 1, generator=generator).mul(0.3).exp()
    centres = vectors[torch.randint(items, (queries, 4), generator=generator)].mean(1)
    return vectors, centres + 0.3 * torch.randn(queries, DIM, generator=generator) * spectrum


def changed(base: BuiltIndex, n: int, generator: torch.Generator) -> tuple[DeltaIndex, float]:
    """n vectors beside the base and n of it gone; and the microseconds that one more update then takes."""
    index = DeltaIndex(base)
    gone = torch.randperm(len(base), generator=generator)[:n]
    fresh = torch.cat([gone[: n // 2], len(base) + torch.arange(n - n // 2)])
    values = base.vectors.values[torch.randint(len(base), (n + 20,), generator=generator)]
    index.upsert(fresh, values[:n])
    index.delete(gone[n // 2 :])
    assert (index.n_fresh, index.n_gone) == (n, n)
    times = []
    for row in range(20):
        start = time.thread_time()
        index.upsert(torch.tensor([len(base)]), values[n + row : n + row + 1])
        times.append(time.thread_time() - start)
    if not n:
        index = DeltaIndex(base)
    return index, statistics.median(times) * 1e6


def interleaved(one: Index, two: Index, query: Tensor) -> tuple[float, float]:
    """Median microseconds of single queries of both, asked in turn, and never the same query in a row."""
    times: tuple[list[float], list[float]] = ([], [])
    for row in range(-5, len(query)):
        for place, (index, taken) in enumerate(zip((one, two), times, strict=True)):
            asked = (row + place * len(query) // 2) % len(query)
            start = time.thread_time()
            index.search(query[asked][None], K)
            if row >= 0:
                taken.append(time.thread_time() - start)
    return statistics.median(times[0]) * 1e6, statistics.median(times[1]) * 1e6


def measure(base: BuiltIndex, n: int, query: Tensor, generator: torch.Generator) -> dict[str, Any]:
    index, update = changed(base, n, generator)
    plain, delta = interleaved(base, index, query)
    alive = index.alive()
    afresh = ExactIndex.build(alive.rep["vector"], alive.keys)
    return {
        "changes": n,
        "plain_us": round(plain, 1),
        "delta_us": round(delta, 1),
        "ratio": round(delta / plain, 3),
        "update_us": round(update, 1),
        "recall_plain": round(recall(base, ExactIndex(base.vectors), query, K), 4),
        "recall_delta": round(recall(index, afresh, query, K), 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--items", type=int, default=50_000)
    parser.add_argument("--queries", type=int, default=300)
    args = parser.parse_args()
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    vectors, query = world(args.items, args.queries, generator)
    about, rows = machine(), []
    for name, config in INDEXES.items():
        base = build_index(config, vectors)
        for n in (n for n in CHANGES if n < args.items):
            rows.append({"index": name, **measure(base, n, query, generator)})
            print(rows[-1], flush=True)
    setting = {"items": args.items, "dim": DIM, "k": K, "queries": args.queries, "threads": 1}
    print(write_result("delta", {"setting": setting, "rows": rows, "machine": about}))


if __name__ == "__main__":
    main()
