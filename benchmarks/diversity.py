"""What does diversity cost in nDCG, and how much faster is the greedy DPP than a search by determinants?

    python -m benchmarks.diversity            # results/diversity.json, a few minutes
    python -m benchmarks.diversity --quick    # fewer queries and a smaller list, writes nothing

The curve: ``recipes/synthetic.yaml`` is trained once in a temporary directory, its cascade hands on 100
ranked candidates of every test query, and each setting makes 10 of them. Likeness is that of the retriever's
item vectors, without bias and constant, or of the categories; diversity is measured by both, and by the
vectors behind the generated data, which no model saw.

The speed: one list of normal vectors; the naive search is handed the whole kernel and computes, for every
pick, the determinants of all sets with one candidate more, in one batch. The forms take turns.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.machine import machine, write_result
from twotower.cascade.diversify import Diversify, Dpp, Mmr
from twotower.cascade.dpp import dpp
from twotower.cascade.likeness import by_angle
from twotower.cascade.mmr import mmr
from twotower.cascade.stage import Request
from twotower.data.synthetic import Synthetic
from twotower.evaluate.experiment import joined, request_of
from twotower.index.item_table import ItemTable
from twotower.metrics.diversity import distinct_values, intra_list_distance, value_entropy
from twotower.metrics.ranking import evaluate
from twotower.metrics.significance import paired_bootstrap
from twotower.metrics.table import Table
from twotower.models.two_tower import TwoTower
from twotower.pipeline.pipeline import Pipeline
from twotower.pipeline.recipe import Recipe
from twotower.types import Candidates, Rep, RepSpec

RECIPE = Path(__file__).parent.parent / "recipes" / "synthetic.yaml"
WEIGHTS = (1.0, 0.98, 0.95, 0.9, 0.8, 0.65, 0.5, 0.3, 0.0)
LIMIT = 20
"""How many times faster than the naive search the greedy one must be."""
DEPTH, SHOWN, WINDOW = 100, 10, 4
STRENGTH = {"vector": 1.0, "category": 0.9}
"""Of the DPP, by what is compared: with 1, no second item of a category comes before the first of another."""


def curve(seed: int, queries: int | None) -> dict[str, Any]:
    """nDCG against diversity for every way, likeness and weight."""
    recipe = Recipe.load(RECIPE).model_copy(update={"seed": seed, "baselines": ()})
    assert isinstance(recipe.data, Synthetic)
    with tempfile.TemporaryDirectory(prefix="twotower-diversity-") as directory:
        pipeline = Pipeline(recipe, directory, say=_say)
        pipeline.prepare()
        models = pipeline.train()
        cascade = pipeline.cascade()
        assert cascade is not None
        task = pipeline.prepared.task("test")
        task = task if queries is None else task.take(torch.arange(queries))
        request, last = request_of(task), cascade.stages[-1].name
        parts = []
        for start in range(0, len(task), 256):
            part = request.rows(start, start + 256)
            deep = Request(part.query, part.history, part.exclude, {last: DEPTH})
            parts.append(cascade(deep)[0])
        ranked = joined(parts)
        items = pipeline.prepared.items
        retriever = models["retriever"]
        assert isinstance(retriever, TwoTower)
        with torch.inference_mode():
            vectors = retriever.encode_item(items)["vector"][:, : retriever.dim].clone()
    table = ItemTable(
        Rep(vector=vectors, category=items["category"]),
        (RepSpec("vector", (vectors.shape[1],)), RepSpec("category", (), "int64")),
        produced_by="the retriever of the demo",
    )
    truth = torch.from_numpy(recipe.data.world().style)

    def measured(shown: Candidates) -> dict[str, Tensor]:
        return {
            f"nDCG@{SHOWN}": evaluate(shown.keys, task.relevant, [f"nDCG@{SHOWN}"])[f"nDCG@{SHOWN}"],
            "vector_distance": intra_list_distance(shown.keys, vectors, SHOWN),
            "true_distance": intra_list_distance(shown.keys, truth, SHOWN),
            "categories": distinct_values(shown.keys, items["category"], SHOWN),
            "category_bits": value_entropy(shown.keys, items["category"], SHOWN),
        }

    before = measured(ranked.best(SHOWN))
    points = []
    for tensor, strength in STRENGTH.items():
        ways: dict[str, Mmr | Dpp] = {
            "mmr": Mmr(),
            "dpp": Dpp(strength=strength),
            f"dpp, window {WINDOW}": Dpp(strength=strength, window=WINDOW),
        }
        for name, way in ways.items():
            for weight in WEIGHTS:
                how = way.model_copy(update={"relevance": weight})
                stage = Diversify(how, table, k=SHOWN, tensor=tensor)
                found = measured(stage.run(request, ranked, SHOWN))
                lost = paired_bootstrap(found[f"nDCG@{SHOWN}"], before[f"nDCG@{SHOWN}"], relative=True)
                points.append(
                    {
                        "way": name,
                        "likeness": tensor,
                        "relevance": weight,
                        **{measure: round(_mean(values), 4) for measure, values in found.items()},
                        "ndcg_change": [round(v, 4) for v in (lost.mean, lost.low, lost.high)],
                    }
                )
    return {
        "recipe": RECIPE.name,
        "seed": seed,
        "queries": len(task),
        "candidates": DEPTH,
        "shown": SHOWN,
        "strength": STRENGTH,
        "undiversified": {measure: round(_mean(values), 4) for measure, values in before.items()},
        "points": points,
    }


def naive(relevance: Tensor, vectors: Tensor, weight: float) -> Callable[[int], list[int]]:
    """The greedy search for k picks by determinants, with the kernel of one list made beforehand."""
    unit = torch.nn.functional.normalize(vectors.double(), dim=-1)
    q = torch.exp(weight / (2 * (1 - weight)) * relevance.double())
    kernel = q[:, None] * (1 + unit @ unit.mT) / 2 * q

    def search(k: int) -> list[int]:
        chosen: list[int] = []
        left = torch.arange(len(kernel))
        for t in range(k):
            sets = torch.cat([torch.tensor(chosen, dtype=torch.int64).expand(len(left), t), left[:, None]], 1)
            best = torch.linalg.slogdet(kernel[sets[:, :, None], sets[:, None, :]]).logabsdet.argmax()
            chosen.append(int(left[best]))
            left = left[left != left[best]]
        return chosen

    return search


def speed(seed: int, candidates: int, k: int, dims: int, rounds: int) -> dict[str, Any]:
    """Milliseconds for one list, round by round, and the ratio to the naive search within each round."""
    draw = torch.Generator().manual_seed(seed)
    vectors = torch.randn(1, candidates, dims, generator=draw)
    relevance = torch.rand(1, candidates, generator=draw)
    weight = 0.7
    search = naive(relevance[0], vectors[0], weight)
    forms: dict[str, Callable[[], list[int]]] = {
        "naive": lambda: search(k),
        "dpp": lambda: dpp(relevance, by_angle(vectors), k, weight=weight)[0].tolist(),
        "dpp, window 10": lambda: dpp(relevance, by_angle(vectors), k, weight=weight, window=10)[0].tolist(),
        "mmr": lambda: mmr(relevance, by_angle(vectors), k, weight=weight)[0].tolist(),
    }
    took: dict[str, list[float]] = {name: [] for name in forms}
    picks: dict[str, list[int]] = {}
    for number in range(1 + rounds):  # the first is the warm-up
        for name, form in forms.items():
            start = time.perf_counter()
            picks[name] = form()
            if number:
                took[name].append(1e3 * (time.perf_counter() - start))
        _say(f"round {number} of {rounds}")
    ratios = {
        name: [a / b for a, b in zip(took["naive"], took[name], strict=True)]
        for name in forms
        if name != "naive"
    }
    return {
        "seed": seed,
        "candidates": candidates,
        "picks": k,
        "dims": dims,
        "rounds": rounds,
        "threads": torch.get_num_threads(),
        "ms": {name: _spread(values, 2) for name, values in took.items()},
        "naive_over": {name: _spread(values, 1) for name, values in ratios.items()},
        "same_picks": picks["naive"] == picks["dpp"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="write no result file")
    args = parser.parse_args()
    torch.set_num_threads(1)
    about = machine()
    size = {"candidates": 300, "k": 10} if args.quick else {"candidates": 2000, "k": 50}
    result = {"speed": speed(args.seed, **size, dims=64, rounds=1 if args.quick else args.rounds)}
    _say(json.dumps(result["speed"], indent=1))
    result["curve"] = curve(args.seed, queries=400 if args.quick else None)
    points = result["curve"]["points"]
    names = tuple(name for name in points[0] if name != "ndcg_change")
    print(Table(names, tuple(tuple(point[name] for name in names) for point in points)).text())
    if not args.quick:
        _say(f"written: {write_result('diversity', {'machine': about, **result})}")
        ratio = result["speed"]["naive_over"]["dpp"]["median"]
        if ratio < LIMIT or not result["speed"]["same_picks"]:
            raise SystemExit(f"the greedy DPP is {ratio} times as fast, expected {LIMIT} and the same picks")


def _mean(values: Tensor) -> float:
    return float(values.nanmean())


def _spread(values: list[float], digits: int) -> dict[str, float]:
    return {
        "median": round(statistics.median(values), digits),
        "min": round(min(values), digits),
        "max": round(max(values), digits),
    }


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
