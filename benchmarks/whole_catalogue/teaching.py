"""A pre-ranker that learns its ranker's order of what is retrieved; it may read the retriever's score.

`twotower.train.lists.FullStageConfig` distils too, but from lists with exposed and random candidates, of
which no earlier stage has said anything. These lists are served ones, and no label is looked at. In a recipe
`objective: {kind: lists, teacher: ranker, liked: 0}` does the same; the cells here were made before it could,
and choose their epoch by other queries.
"""

from __future__ import annotations

from pathlib import Path

import torch

from twotower.cascade.cascade import Cascade
from twotower.cascade.stage import Stage
from twotower.data.batches import ListBatches
from twotower.evaluate.task import Task
from twotower.metrics.consistency import ranking_consistency
from twotower.models.base import Model
from twotower.models.catalogue import make_model
from twotower.pipeline.prepared import Prepared
from twotower.pipeline.served import reorder, rescore, serve
from twotower.train.events import JsonLines
from twotower.train.fit import fit
from twotower.train.lists import Lists, ListsConfig
from twotower.types import Batch

KEPT = 50
"""Epochs are compared by how many of the ranker's first ten are among so many of the pre-ranker's."""


def taught(
    prepared: Prepared, name: str, before: Cascade, ranker: Stage, task: Task, directory: Path
) -> Model:
    """Train ``recipe.models[name]`` on nine tenths of the task's queries; the others choose the epoch."""
    about, seed = prepared.recipe.models[name], prepared.recipe.seed
    with torch.random.fork_rng():
        torch.manual_seed(seed + 1)
        model = make_model(about.model, prepared.spec(about.features), about.config)
    order = torch.randperm(len(task), generator=torch.Generator().manual_seed(seed))
    held = task.take(order[: max(1, len(task) // 10)])
    learn = task.take(order[len(held) :])
    lists = reorder(ranker, learn, serve(before, learn))
    batches = ListBatches(
        torch.arange(len(learn)),
        lists.keys,
        learn.query,
        batch_size=about.train.batch_size,
        labels=lists.scores.softmax(
            1
        ),  # listnet's target: the KL from the ranker's softmax, but for a constant
        pair=Batch((field, lists.pair[field]) for field in model.pair_fields),
        seed=seed,
    )
    shown = serve(before, held)
    wanted = reorder(ranker, held, shown).keys

    def by_survival(model: Model) -> dict[str, float]:
        own = rescore(model, prepared.items, held, shown).keys
        return {f"kept@{KEPT}": float(ranking_consistency(own, wanted, 10, KEPT).mean())}

    directory.mkdir(parents=True, exist_ok=True)
    fit(
        model,
        batches,
        Lists(prepared.items, ListsConfig()),
        about.train.model_copy(update={"seed": seed}),
        validate=by_survival,
        directory=directory / "training",
        events=JsonLines(directory / "train.jsonl"),
    )
    return model.eval()
