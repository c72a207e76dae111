"""Write a large generated data set: 20 million events of 2 million users on 1 million items.

    python -m benchmarks.make_large --out runs/large

The rows come shard by shard; what was written, the seconds and the peak memory are printed as one JSON line.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from pathlib import Path

from twotower.data.synthetic import Synthetic


def main() -> None:
    parser = argparse.ArgumentParser(description="Generate a large synthetic data set as Parquet shards.")
    parser.add_argument("--out", type=Path, required=True, help="directory for the Parquet files")
    parser.add_argument("--queries", type=int, default=2_000_000)
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument(
        "--requests", type=float, default=1.28, help="mean requests per user, of 8 events each"
    )
    parser.add_argument("--shards", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    start = time.perf_counter()
    data = Synthetic(
        seed=args.seed,
        n_queries=args.queries,
        n_items=args.items,
        requests_per_query=args.requests,
        retrieved=32,  # a short funnel: the candidates that are not shown cost most of the time
        preranked=24,
        ranked=16,
    )
    events = data.write_parquet(args.out, args.shards)
    size = sum(file.stat().st_size for file in args.out.glob("*.parquet"))
    peak_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(
        json.dumps(
            {
                "events": events,
                "queries": args.queries,
                "items": args.items,
                "size_mb": round(size / 1e6),
                "seconds": round(time.perf_counter() - start, 1),
                "peak_memory_mb": round(peak_kib / 1024),
                "seed": args.seed,
            }
        )
    )


if __name__ == "__main__":
    main()
