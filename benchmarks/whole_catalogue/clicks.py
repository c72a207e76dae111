"""Train a model on events against items drawn from the whole catalogue, where that is too large to be ranked
after every epoch.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from twotower.data.batches import EventBatches
from twotower.evaluate.task import Task
from twotower.metrics.ranking import average, evaluate
from twotower.models.base import Model
from twotower.models.catalogue import make_model
from twotower.pipeline.prepared import Prepared
from twotower.scores.catalogue import top_k_of
from twotower.train.events import JsonLines
from twotower.train.fit import fit
from twotower.train.objectives import make_objective
from twotower.types import Ragged, Rep

DRAWN, QUERIES = 20_000, 400
"""Items and validation queries that epochs are compared on."""


class DrawnCatalogue:
    """nDCG@10 of a few queries over what they want and some items drawn once."""

    def __init__(self, prepared: Prepared, task: Task, seed: int = 0) -> None:
        draw = torch.Generator().manual_seed(seed)
        self.task = task.take(torch.randperm(len(task), generator=draw)[:QUERIES])
        others = torch.randperm(prepared.n_items, generator=draw)[:DRAWN]
        self.keys = torch.unique(torch.cat([others, self.task.relevant.values]))
        self.items = prepared.items.take(self.keys)
        wanted = self.task.relevant
        self.relevant = Ragged(torch.searchsorted(self.keys, wanted.values), wanted.offsets)

    @torch.inference_mode()
    def __call__(self, model: Model) -> dict[str, float]:
        item = model.encode_item(self.items)
        found = []
        for start in range(0, len(self.task), 8):
            query = model.encode_query(self.task.query.slice(start, start + 8))

            def score(first: int, last: int, query: Rep = query) -> Tensor:
                pieces = range(first, last, 1024)
                return torch.cat([model.score(query, item.slice(s, min(s + 1024, last))) for s in pieces], 1)

            rows = min(8, len(self.task) - start)
            found.append(top_k_of(score, rows, len(self.keys), 10, fresh=True).keys)
        values = evaluate(torch.cat(found), self.relevant, ["nDCG@10"])["nDCG@10"]
        return {"nDCG@10 of drawn": average(values).value}


def learn_from_clicks(prepared: Prepared, name: str, directory: Path) -> Model:
    """Train ``recipe.models[name]`` by its objective.

    Every item counts one event more than it had, so that those without any are drawn as negatives too: most
    of a large catalogue, and of what a ranking of it must put in its place.
    """
    about, seed = prepared.recipe.models[name], prepared.recipe.seed
    with torch.random.fork_rng():
        torch.manual_seed(seed + 1)
        model = make_model(about.model, prepared.spec(about.features), about.config)
    batches = EventBatches(
        prepared.positives(prepared.split.train),
        prepared.queries,
        batch_size=about.train.batch_size,
        seed=seed,
    )
    objective = make_objective(about.objective, prepared.items, prepared.item_counts + 1, seed)
    settings = about.train.model_copy(update={"seed": seed})
    validate = DrawnCatalogue(prepared, prepared.task("valid"))
    directory.mkdir(parents=True, exist_ok=True)
    log = JsonLines(directory / "train.jsonl")
    fit(model, batches, objective, settings, validate=validate, directory=directory / "training", events=log)
    return model.eval()
