"""What does one changed item cost the stages that know items by their attributes or their likeness?

    POLARS_MAX_THREADS=1 python -m benchmarks.live_stages                # results/live_stages.json
    POLARS_MAX_THREADS=1 python -m benchmarks.live_stages --items 5000

Taking one change in, against building anew: a table of attributes of which a mask, the codes of a category
and of a list of tags, and a number are known; and a source of likeness with an exact index. In turn, on one
thread, times of the process; medians, and the ratio of both.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import polars as pl
import torch
from torch.nn import functional as F

from benchmarks.machine import machine, write_result
from twotower.cascade.attributes import Attributes
from twotower.cascade.predicates import Predicate
from twotower.cascade.sources import RetrieveSimilar
from twotower.index.build import IndexConfig, build_index
from twotower.index.delta import DeltaIndex

DIM, ROUNDS = 64, 15
CHEAP = Predicate.parse({"field": "price", "at_most": 10})


def catalogue(items: int, draw: np.random.Generator) -> pl.DataFrame:
    tags = draw.integers(0, 500, (items, 3))
    return pl.DataFrame(
        {
            "item": np.arange(items),
            "category": draw.integers(0, 40, items),
            "tags": pl.Series(tags.tolist(), dtype=pl.List(pl.Int64)),
            "price": draw.lognormal(2, 1, items),
        }
    )


def known(attributes: Attributes) -> Attributes:
    """With all asked for that stages ask for."""
    attributes.mask(CHEAP)
    attributes.codes("category")
    attributes.codes("tags")
    attributes.numbers("price")
    return attributes


def interleaved(patch: Callable[[], object], anew: Callable[[], object]) -> dict[str, float]:
    took: tuple[list[float], list[float]] = ([], [])
    for number in range(-2, ROUNDS):
        for work, times in zip((patch, anew), took, strict=True):
            start = time.process_time()
            work()
            if number >= 0:
                times.append((time.process_time() - start) * 1e3)
    one, other = (statistics.median(times) for times in took)
    return {"patched_ms": round(one, 3), "anew_ms": round(other, 3), "ratio": round(one / other, 4)}


def measure(items: int) -> list[dict[str, Any]]:
    draw, generator = np.random.default_rng(0), torch.Generator().manual_seed(0)
    frame = catalogue(items, draw)
    attributes, changed = known(Attributes(frame, item="item")), frame[:1]
    rows = [
        interleaved(
            lambda: known(attributes.updated(torch.tensor([0]), changed)),
            lambda: known(Attributes(frame, item="item")),
        )
    ]
    vectors = torch.randn(items, DIM, generator=generator)
    index = DeltaIndex(build_index(IndexConfig(), F.normalize(vectors, dim=-1)))
    rows.append(
        interleaved(
            lambda: index.upsert(torch.tensor([0]), F.normalize(vectors[1:2], dim=-1)),
            lambda: RetrieveSimilar(vectors),
        )
    )
    return [
        {"of": name, "items": items, **row} for name, row in zip(("attributes", "like"), rows, strict=True)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--items", type=int, default=100_000)
    args = parser.parse_args()
    torch.set_num_threads(1)
    about, rows = machine(), measure(args.items)
    for row in rows:
        print(row, flush=True)
    print(
        write_result(
            "live_stages", {"setting": {"dim": DIM, "rounds": ROUNDS}, "rows": rows, "machine": about}
        )
    )


if __name__ == "__main__":
    main()
