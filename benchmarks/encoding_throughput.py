"""Documents encoded per second: ours against `SentenceTransformer.encode` in its best setting.

    python -m benchmarks.encoding_throughput --documents 96 --threads 1 2 --rounds 3

MiniLM on documents of SciFact spread evenly over the collection (title, space, text, at most 256 tokens),
from raw strings to unit vectors, tokenising included. sentence-transformers sorts by length itself; its batch
size is the fastest of several, chosen anew for each precision and number of threads. The forms take turns,
lap by lap, and what is reported is the median over rounds of the ratio of two laps of one round. Vectors are
compared with those of sentence-transformers in float32.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from statistics import median
from typing import Any

import polars as pl
import torch
from torch import Tensor

from benchmarks.machine import machine, write_result
from benchmarks.text.collection import MINILM, collection, minilm
from twotower.data.features import Features
from twotower.data.text.folder import model_folder
from twotower.memory import keep_heap
from twotower.models.base import Model

BATCHES = (4, 8, 16, 32)
PRECISIONS = ("float32", "bfloat16")
Encode = Callable[[], Tensor]


def peer(precision: str) -> Any:
    """MiniLM as sentence-transformers loads it."""
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(
        str(model_folder(MINILM)), device="cpu", model_kwargs={"dtype": getattr(torch, precision)}
    )
    model.max_seq_length = 256
    return model


def by_peer(model: Any, texts: Sequence[str], batch: int) -> Tensor:
    found: Tensor = model.encode(
        list(texts), batch_size=batch, convert_to_tensor=True, show_progress_bar=False
    )
    return found.float()


@torch.inference_mode()
def by_us(model: Model, features: Features, items: pl.DataFrame) -> Tensor:
    return model.encode_item(features.encode_items(items))["vector"]


def fastest(model: Any, texts: Sequence[str]) -> int:
    """The batch size that encodes a third of the texts soonest, each tried twice in turn."""
    some = texts[::3]
    laps = {batch: [seconds(partial(by_peer, model, some, batch)) for _ in range(2)] for batch in BATCHES}
    return min(laps, key=lambda batch: min(laps[batch]))


def seconds(encode: Encode) -> float:
    start = time.perf_counter()
    encode()
    return time.perf_counter() - start


def compare(documents: int, threads: int, rounds: int) -> dict[str, Any]:
    """All forms with so many threads."""
    torch.set_num_threads(threads)
    prepared = collection("scifact")
    dataset = prepared.dataset
    step = max(1, len(dataset.items) // documents)
    items = dataset.items.gather_every(step).head(documents)
    texts = items["text"].to_list()
    # the texts alone: what BM25 reads is no part of this
    kept = [field for field in dataset.schema.fields if field.tokenizer in (None, MINILM)]
    plain = replace(dataset, schema=dataset.schema.model_copy(update={"fields": tuple(kept)}))
    features = Features.fit(plain, prepared.split.train)
    forms: dict[str, Encode] = {}
    batches = {}
    for precision in PRECISIONS:
        other, ours = peer(precision), minilm(prepared, precision)
        batches[precision] = fastest(other, texts)
        forms[f"peer {precision}"] = partial(by_peer, other, texts, batches[precision])
        forms[f"ours {precision}"] = partial(by_us, ours, features, items)
    vectors = {name: encode() for name, encode in forms.items()}  # and every form is warm
    laps: dict[str, list[float]] = {name: [] for name in forms}
    for number in range(rounds):
        order = list(forms) if number % 2 == 0 else list(reversed(forms))
        for name in order:
            laps[name].append(seconds(forms[name]))
    exact = vectors["peer float32"]
    found = {
        "threads": threads,
        "batch_of_peer": batches,
        "documents_per_second": {name: round(documents / median(each), 2) for name, each in laps.items()},
        "ratio": {
            f"{ours} / {theirs}": ratio(laps[f"ours {ours}"], laps[f"peer {theirs}"])
            for ours, theirs in (("float32",) * 2, ("bfloat16",) * 2, ("bfloat16", "float32"))
        },
        "tokenising_share": {
            precision: round(
                seconds(lambda: features.encode_items(items)) / median(laps[f"ours {precision}"]), 3
            )
            for precision in PRECISIONS
        },
        "least_cosine": {name: round(float((v * exact).sum(1).min()), 6) for name, v in vectors.items()},
        "laps": {name: [round(lap, 3) for lap in each] for name, each in laps.items()},
    }
    print(found, flush=True)
    return found


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> dict[str, float]:
    """How many times faster ours is: over the rounds, the median and both ends."""
    each = sorted(b / a for a, b in zip(ours, theirs, strict=True))
    return {"median": round(median(each), 3), "min": round(each[0], 3), "max": round(each[-1], 3)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--documents", type=int, default=96)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    keep_heap()
    about = machine()
    runs = [compare(args.documents, threads, args.rounds) for threads in args.threads]
    versions = {name: version(name) for name in ("sentence-transformers", "transformers")}
    content = {"documents": args.documents, "rounds": args.rounds, "versions": versions, "runs": runs}
    write_result("encoding_throughput", {**content, "machine": about})


if __name__ == "__main__":
    main()
