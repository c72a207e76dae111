"""Parts ``untouched`` and ``hybrid``: what is there before anything is learnt.

The weight of MiniLM beside BM25, and the way of fusing, are chosen on the train queries, which taught
neither.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from benchmarks.text.cells import cell, difference, judged, plain
from benchmarks.text.collection import collection, minilm
from benchmarks.text.vectors import kept_vectors, lexical, measured, search, search_words
from twotower.cascade.fusion import Fusion, Merged, NormalisedScore, ReciprocalRank
from twotower.evaluate.task import Task
from twotower.pipeline.prepared import Prepared
from twotower.types import Candidates

WEIGHTS = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0)
WAYS: dict[str, Fusion] = {
    "reciprocal-rank": ReciprocalRank(),
    "min-max": NormalisedScore(scale="min-max"),
    "z": NormalisedScore(scale="z"),
}
REFERENCE = {"nDCG@10": 0.6451, "R@100": 0.925}
"""MiniLM on SciFact test, measured with sentence-transformers and ir_measures."""


def untouched(name: str = "scifact", precision: str = "float32") -> dict[str, Any]:
    """MiniLM as published, through features, dual encoder, exact index and measures."""

    def make() -> dict[str, Any]:
        prepared = collection(name)
        model, task = minilm(prepared, precision), prepared.task("test")
        found = search(model, kept_vectors(model, prepared), task)
        about = {"collection": name, "precision": precision, "documents": prepared.n_items}
        return {
            **about,
            "reference": REFERENCE if name == "scifact" else None,
            **judged(measured(found, task)),
        }

    return cell(f"untouched-{name}-{precision}", make)


def bm25(name: str = "scifact") -> dict[str, Any]:
    def make() -> dict[str, Any]:
        prepared = collection(name)
        task = prepared.task("test")
        return {"collection": name, **judged(measured(search_words(lexical(prepared), task), task))}

    return cell(f"bm25-{name}", make)


def hybrid(name: str = "scifact", precision: str = "float32") -> dict[str, Any]:
    """Both, fused; against each of them alone."""

    def make() -> dict[str, Any]:
        prepared = collection(name)
        model, words = minilm(prepared, precision), lexical(prepared)
        vectors = kept_vectors(model, prepared)

        def both(task: Task) -> list[Candidates]:
            return [search_words(words, task), search(model, vectors, task)]

        learn = train_task(prepared)
        tried = choices(learn, both(learn))
        best = max(tried, key=lambda each: each["nDCG@10"])
        test = prepared.task("test")
        found = fused(both(test), WAYS[best["way"]], best["weight"])
        ours = judged(measured(found, test))
        gains = {
            against: {m: plain(difference([ours], [other], m)) for m in ("nDCG@10", "R@100")}
            for against, other in (("bm25", bm25(name)), ("minilm", untouched(name, precision)))
        }
        return {"collection": name, "chosen": best, "tried": tried, "over": gains, **ours}

    return cell(f"hybrid-{name}-{precision}", make)


def choices(task: Task, found: list[Candidates]) -> list[dict[str, Any]]:
    """Every way and weight of MiniLM (BM25 weighs 1), and what it is worth."""
    tried = []
    for way, by in WAYS.items():
        for weight in WEIGHTS:
            values = task.measure(fused(found, by, weight).keys, ["nDCG@10"])["nDCG@10"]
            tried.append({"way": way, "weight": weight, "nDCG@10": round(float(values.mean()), 5)})
    return tried


def fused(found: list[Candidates], by: Fusion, weight: float) -> Candidates:
    merged = Merged.of(found)
    return Candidates(merged.keys, by.scores(merged, [1.0, weight]).float()).sorted()


def train_task(prepared: Prepared) -> Task:
    """The train and valid queries as a task."""
    parts = prepared.split
    none, all_of_them = parts.train.clear(), parts.train.vstack(parts.valid)
    return replace(prepared, split=replace(parts, train=none, valid=none, test=all_of_them)).task("test")
