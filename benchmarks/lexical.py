"""How good is BM25 on SciFact, does it agree with bm25s, and what does a search cost?

Test queries of SciFact over title + " " + text. Ours reads stems of 256 tokens (the house's tokenizer); bm25s
reads its own default tokens, and those with its stemmer. The arithmetic is compared on the very same tokens.
Times are of single requests on one thread, medians, ours and bm25s by turns; the larger collection is made of
SciFact's own sentences, drawn anew into documents, so its times count and its quality does not.

    python -m benchmarks.lexical [--documents 100000]

The data is ``scifact`` below the folder TWOTOWER_DATA.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bm25s
import numpy as np
import Stemmer
import torch
from torch import Tensor

from benchmarks.machine import machine, write_result
from twotower.baselines.bm25 import BM25
from twotower.data.beir import Beir
from twotower.evaluate.task import Task
from twotower.metrics.significance import bootstrap_mean
from twotower.pipeline.prepared import Prepared
from twotower.pipeline.recipe import Recipe
from twotower.types import NO_ITEM, PAD, UNKNOWN

MEASURES = ("nDCG@10", "R@100")
OURS = {
    "stems, k1 1.2, b 0.75 (default)": ("stems", 256, {}),
    "stems, k1 0.9, b 0.4 (Anserini's)": ("stems", 256, {"k1": 0.9, "b": 0.4}),
    "stems, k1 1.5 (bm25s's)": ("stems", 256, {"k1": 1.5}),
    "stems, robertson": ("stems", 256, {"variant": "robertson"}),
    "stems, atire": ("stems", 256, {"variant": "atire"}),
    "stems, 1024 tokens": ("stems", 1024, {}),
    "words": ("words", 256, {}),
}


def prepared(path: Path, tokenizer: str, length: int) -> Prepared:
    text = {"tokenizer": tokenizer, "max_length": length}
    source = {"name": "bm25", "k": 100, "lexical": {}}
    recipe = {
        "name": "lexical",
        "data": Beir().plain(),
        "split": {"kind": "predefined"},
        "history": None,
        "fields": {"query_text": text, "text": text},
        "cascade": [{"stage": "retrieve", "k": 100, "sources": [source]}],
    }
    return Prepared.make(Recipe.parse(recipe), path, "raise")


def quality(keys: Tensor, task: Task) -> dict[str, Any]:
    found = task.measure(keys, list(MEASURES))
    interval = bootstrap_mean(found["nDCG@10"])
    means = {name: round(float(values.mean()), 4) for name, values in found.items()}
    return {**means, "nDCG@10, 95%": [round(interval.low, 4), round(interval.high, 4)]}


def of_bm25s(data: Prepared, task: Task, stem: bool) -> Tensor:
    """Keys (Q, 100) by its defaults, or with its stemmer."""
    stemmer = Stemmer.Stemmer("english") if stem else None
    texts = data.dataset.items["text"].fill_null("").to_list()
    asked = data.dataset.queries["query_text"].gather(task.query_keys.numpy()).to_list()
    retriever = bm25s.BM25()
    retriever.index(bm25s.tokenize(texts, stemmer=stemmer, show_progress=False), show_progress=False)
    tokens = bm25s.tokenize(asked, stemmer=stemmer, show_progress=False)
    keys, scores = retriever.retrieve(tokens, k=100, show_progress=False)
    return torch.from_numpy(np.where(scores > 0, keys, NO_ITEM).astype(np.int64))


def on_the_same_tokens(documents: Tensor, size: int) -> bm25s.BM25:
    """bm25s over our token indices."""
    rows = [row[row > UNKNOWN].tolist() for row in documents]
    made = bm25s.BM25(k1=1.2, b=0.75)
    vocabulary = {str(token): token for token in range(size)}
    made.index(bm25s.tokenization.Tokenized(rows, vocabulary), show_progress=False)
    return made


def agreement(ours: BM25, theirs: bm25s.BM25, queries: Tensor) -> float:
    """The largest difference of any score of any document, as a share of the query's best."""
    every = torch.arange(ours.n_items)[None]
    worst = 0.0
    for row in queries:
        tokens = row[row > UNKNOWN]
        expected = torch.from_numpy(theirs.get_scores_from_ids(tokens.tolist()).copy())
        found = ours.scores_of(row[None], every)[0]
        worst = max(worst, float((found - expected).abs().max() / expected.max().clamp(min=1e-9)))
    return worst


def medians(calls: dict[str, Callable[[Tensor], object]], queries: Tensor) -> dict[str, float]:
    """Milliseconds of one request each, by turns."""
    took: dict[str, list[float]] = {name: [] for name in calls}
    for row in queries:
        for name, call in calls.items():
            start = time.perf_counter()
            call(row)
            took[name].append((time.perf_counter() - start) * 1e3)
    return {name: round(statistics.median(values), 3) for name, values in took.items()}


def times(documents: Tensor, queries: Tensor, size: int) -> dict[str, Any]:
    start = time.perf_counter()
    ours = BM25().fit(documents, size)
    fitted = time.perf_counter() - start
    theirs = on_the_same_tokens(documents, size)
    k = 100
    given = torch.randint(len(documents), (1, 500), generator=torch.Generator().manual_seed(0))

    def search_theirs(row: Tensor) -> object:
        scores = theirs.get_scores_from_ids(row[row > UNKNOWN].tolist())
        best = np.argpartition(scores, -k)[-k:]
        return best[np.argsort(-scores[best])]

    calls: dict[str, Callable[[Tensor], object]] = {
        "search, ours": lambda row: ours.search(row[None], k),
        "search, bm25s (numpy)": search_theirs,
        "500 given documents, ours": lambda row: ours.scores_of(row[None], given),
    }
    medians(calls, queries[:20])
    return {
        "documents": len(documents),
        "fit_s": round(fitted, 2),
        "bytes_per_item": round(ours.bytes_per_item),
        "ms_per_request": medians(calls, queries),
        "largest_difference_of_scores": agreement(ours, theirs, queries[:20]),
    }


def recombined(documents: Tensor, n: int, span: int = 16) -> Tensor:
    """n documents of as many tokens as the real ones, made of pieces of ``span`` tokens of theirs."""
    draw = torch.Generator().manual_seed(0)
    pieces = documents.unfold(1, span, span).reshape(-1, span)
    pieces = pieces[(pieces != PAD).all(1)]
    width = documents.shape[1] // span
    made = pieces[torch.randint(len(pieces), (n, width), generator=draw)].flatten(1)
    lengths = (documents != PAD).sum(1)[torch.randint(len(documents), (n,), generator=draw)]
    return made * (torch.arange(made.shape[1]) < lengths[:, None])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("TWOTOWER_DATA", ".")) / "scifact")
    parser.add_argument("--documents", type=int, default=100_000, help="of the enlarged collection")
    options = parser.parse_args()
    torch.set_num_threads(1)
    about, systems = machine(), dict[str, Any]()
    texts = {key: prepared(options.data, *key) for key in dict.fromkeys(v[:2] for v in OURS.values())}
    for name, (tokenizer, length, settings) in OURS.items():
        data = texts[tokenizer, length]
        task, size = data.task("test"), data.features.spec["text"].size
        bm25 = BM25(**settings).fit(data.items["text"], size)
        systems[name] = quality(bm25.search(task.query["query_text"], 100).keys, task)
        print(name, systems[name])
    data = texts["stems", 256]
    task, documents = data.task("test"), data.items["text"]
    for name, stem in (("bm25s, its defaults", False), ("bm25s, with its stemmer", True)):
        systems[name] = quality(of_bm25s(data, task, stem), task)
        print(name, systems[name])
    size, queries = data.features.spec["text"].size, task.query["query_text"]
    measured = [times(documents, queries, size)]
    print(measured[0])
    measured.append(times(recombined(documents, options.documents), queries, size))
    print(measured[1])
    whole = texts["stems", 1024].items["text"]
    content = {
        "queries": len(task),
        "documents": len(documents),
        "share_cut_at_256_tokens": round(float(((whole != PAD).sum(1) > 256).float().mean()), 4),
        "systems": systems,
        "times": measured,
        "bm25s": bm25s.__version__,
        "machine": about,
    }
    write_result("lexical", content)


if __name__ == "__main__":
    main()
