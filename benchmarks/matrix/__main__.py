"""See `benchmarks.matrix`."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import benchmarks.matrix
from benchmarks.machine import RESULTS, machine, write_result
from benchmarks.matrix.lists import DIM, FOLDS, PAIR, QUERIES, Collection, Shown, collection, word_vectors
from twotower.metrics.significance import bootstrap_mean, paired_bootstrap
from twotower.models.base import Model
from twotower.models.catalogue import make_model
from twotower.models.drmm import DRMM
from twotower.models.matrix_ranker import MatrixRanker
from twotower.nn.token_lists import TextTokens
from twotower.train.fit import fit
from twotower.train.lists import Lists, ListsConfig
from twotower.train.settings import TrainSettings
from twotower.types import PAD, Batch, Candidates

FOLDER = RESULTS / "matrix"
MODELS: dict[str, dict[str, Any]] = {
    "drmm": {},
    "knrm": {},
    "match-pyramid": {},
    "conv-knrm": {"ngrams": 2, "filters": 64},
}
RATES = {"knrm": 0.02, "conv-knrm": 0.003, "drmm": 0.01, "match-pyramid": 0.003}
TABLE_RATES = {"random": 0.05, "frozen": 0.01, "slow": 0.005}  # of row-wise Adagrad; frozen: never used
SETTINGS = {name: ("random", "frozen") if name == "drmm" else ("random", "frozen", "slow") for name in MODELS}
STEPS = {"nfcorpus": (60, 4), "cranfield": (40, 3)}  # of an epoch, and epochs
MORE = {"drmm": 4}  # times as many steps in an epoch: what learns little learns it slowly, and costs little
VALID = 100  # dev queries that choose, at most
SEEDS = (0, 1, 2)
MEASURE = "nDCG@10 of BM25's first 100; gains 1 and 2 on NFCorpus, 1 on Cranfield"


@torch.inference_mode()
def reordered(model: Model, data: Collection, keys: Tensor) -> Tensor:
    """(Q, DEPTH) BM25's lists in the order of the model."""
    items = model.encode_item(data.items)
    lists = []
    by_length = (data.queries["query_text"][keys] != PAD).sum(1).argsort(stable=True)
    for rows in keys[by_length].split(8):
        found = Candidates(data.found.keys[rows], data.found.scores[rows])
        own = items.take(found.keys.clamp(min=0))
        pair = Batch({PAIR: found.scores.clamp(min=0)})
        scores = model.score(model.encode_query(data.queries.take(rows)), own, pair, found.mask)
        lists.append(Candidates(found.keys, scores).sorted().keys)
    return torch.cat(lists)[by_length.argsort()]


def trained(
    data: Collection, name: str, setting: str, vectors: Tensor | None, pair: bool, seed: int
) -> tuple[Model, list[dict[str, float]]]:
    """A model with the parameters of its best epoch, and what each epoch brought on the valid queries."""
    torch.manual_seed(seed)
    text = {"kind": "table", "dim": DIM, "sparse": name != "drmm"}
    model = make_model(name, data.spec, {**MODELS[name], "text": text, "pair": [PAIR] if pair else []})
    assert isinstance(model, MatrixRanker)
    assert isinstance(model.lists, TextTokens)
    if vectors is not None:
        with torch.no_grad():
            table = model.lists.encoder.embedder.weight
            known = vectors.any(1)  # words that stand alone keep their random start
            table[known] = vectors[known]
    if setting == "frozen":
        model.lists.requires_grad_(False)
    if isinstance(model, DRMM):
        model.see_items(data.items)
    valid = data.part["valid"][:VALID]
    curve: list[dict[str, float]] = []

    def validate(model: Model) -> dict[str, float]:
        curve.append({"nDCG@10": float(data.ndcg(valid, reordered(model, data, valid)).nanmean())})
        return curve[-1]

    steps, epochs = STEPS[data.name]
    settings = TrainSettings(
        epochs=epochs,
        batch_size=QUERIES,
        learning_rate=RATES[name],
        table_learning_rate=TABLE_RATES[setting],
        metric="nDCG@10",
        seed=seed,
        device="cpu",
    )
    objective = Lists(data.items, ListsConfig(loss="pairwise"))
    fit(model, Shown(data, steps * MORE.get(name, 1), seed), objective, settings, validate=validate)
    return model, curve


def place(data_name: str, name: str, setting: str, pair: bool, seed: int, fold: int) -> Path:
    """The file of a cell."""
    return FOLDER / data_name / f"{name}-{setting}{'-pair' if pair else ''}-{seed}-{fold}.json"


def cell(data_name: str, name: str, setting: str, pair: bool, seed: int, fold: int = 0) -> dict[str, Any]:
    """One model trained and tested; read where it was already."""
    path = place(data_name, name, setting, pair, seed, fold)
    if path.exists():
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return found
    data = collection(data_name, fold)
    vectors = None if setting == "random" else word_vectors(data_name, fold)
    start = time.process_time()
    model, curve = trained(data, name, setting, vectors, pair, seed)
    keys = data.part["test"]
    values = data.ndcg(keys, reordered(model, data, keys))
    result = {
        "data": data_name,
        "model": name,
        "setting": setting,
        "pair": pair,
        "seed": seed,
        "fold": fold,
        "valid": [epoch["nDCG@10"] for epoch in curve],
        "test": {
            str(key): round(value, 6) for key, value in zip(keys.tolist(), values.tolist(), strict=True)
        },
        "mean": float(values.nanmean()),
        "cpu_s": round(time.process_time() - start, 1),
        "machine": machine(),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    part.replace(path)
    best, mean = max(result["valid"]), result["mean"]
    print(f"{data_name} {path.stem}: valid {best:.4f}, test {mean:.4f}, {result['cpu_s']} s", flush=True)
    return result


def chosen(name: str) -> str | None:
    """The setting that was best on NFCorpus' dev queries, of the model alone; None: not all ran."""
    files = {setting: place("nfcorpus", name, setting, False, 0, 0) for setting in SETTINGS[name]}
    if not all(file.exists() for file in files.values()):
        return None
    best = {s: max(json.loads(file.read_text(encoding="utf-8"))["valid"]) for s, file in files.items()}
    return max(best, key=lambda setting: best[setting])


def run() -> None:
    """All cells, one seed after the other."""
    for seed in SEEDS:
        for name in MODELS:
            for setting in SETTINGS[name]:
                cell("nfcorpus", name, setting, pair=False, seed=0)
            setting = str(chosen(name))
            for data_name, folds in (("nfcorpus", 1), ("cranfield", FOLDS)):
                for pair in (False, True):
                    for fold in range(folds):
                        cell(data_name, name, setting, pair, seed, fold)


def summary() -> dict[str, Any]:
    """Every model against BM25's own order, per query over the mean of the seeds that are there."""
    about: dict[str, Any] = {"machine": machine(), "measure": MEASURE}
    for data_name, folds in (("nfcorpus", 1), ("cranfield", FOLDS)):
        tests = [(fold, collection(data_name, fold)) for fold in range(folds)]
        lexical = torch.cat([d.ndcg(d.part["test"], d.found.keys[d.part["test"]]) for _, d in tests])
        best = torch.cat([d.ndcg(d.part["test"], ideal(d)[d.part["test"]]) for _, d in tests])
        rows: dict[str, Any] = {
            "bm25": {"mean": str(bootstrap_mean(lexical)), "best order there is": float(best.mean())},
            "queries": len(lexical),
        }
        for name in MODELS:
            setting = chosen(name)
            if setting is None:
                continue
            for pair in (False, True):
                seeds = []
                for seed in SEEDS:
                    files = [place(data_name, name, setting, pair, seed, fold) for fold, _ in tests]
                    if all(file.exists() for file in files):
                        cells = [json.loads(file.read_text(encoding="utf-8"))["test"] for file in files]
                        seeds.append(
                            torch.tensor([value for each in cells for value in each.values()]).double()
                        )
                if not seeds:
                    continue
                mean = torch.stack(seeds).mean(0)
                gain = paired_bootstrap(mean, lexical)
                rows[f"{name}{' + bm25' if pair else ''}"] = {
                    "setting": setting,
                    "mean": round(float(mean.mean()), 4),
                    "of seeds": [round(float(s.mean()), 4) for s in seeds],
                    "minus bm25": str(gain),
                    "p": gain.p,
                }
        about[data_name] = rows
    return about


def ideal(data: Collection) -> Tensor:
    """BM25's lists in the best order there is: what no re-ranking of them can pass."""
    return Candidates(data.found.keys, data.gains).sorted().keys


def main() -> None:
    parser = argparse.ArgumentParser(
        description=benchmarks.matrix.__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--summary", action="store_true", help="compare the cells that are there")
    args = parser.parse_args()
    if not args.summary:
        run()
    result = summary()
    print(json.dumps(result, indent=1))
    write_result("matrix/summary", result)


if __name__ == "__main__":
    main()
