"""Do queries and documents lie apart? What a straight line makes of their vectors (Dong et al. 2022, sharper
than their t-SNE).

A query of the test part and a relevant document of it, each document once; a logistic regression is to tell
the sides apart, on pairs that it was not fitted on. 0.5 is chance: one cloud. 1 is two clouds.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from twotower.evaluate.task import Task
from twotower.models.base import Model
from twotower.types import Batch

PAIRS, FOLDS = 400, 5


def pairs(task: Task, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Rows of the task (n,) and a relevant document of each (n,), drawn at random, no document twice."""
    order = torch.from_numpy(np.random.default_rng(seed).permutation(len(task.relevant.values)))
    rows, documents = task.relevant.row_of_value()[order].numpy(), task.relevant.values[order].numpy()
    for column in (0, 1):
        _, first = np.unique((rows, documents)[column], return_index=True)
        rows, documents = rows[np.sort(first)], documents[np.sort(first)]
    return torch.from_numpy(rows[:PAIRS].copy()), torch.from_numpy(documents[:PAIRS].copy())


@torch.inference_mode()
def clouds(model: Model, task: Task, items: Batch) -> tuple[Tensor, Tensor]:
    """(n, D) unit vectors of both sides."""
    rows, documents = pairs(task)
    query = model.encode_query(task.query.take(rows))["vector"]
    item = model.encode_item(items.take(documents))["vector"]
    return torch.nn.functional.normalize(query, dim=1), torch.nn.functional.normalize(item, dim=1)


def separability(query: Tensor, item: Tensor) -> dict[str, float]:
    """Accuracy in telling (n, D) queries from documents, both of a pair always in the same fold."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GroupKFold, cross_val_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    vectors = torch.cat([query, item]).double().numpy()
    side, pair = np.repeat([0, 1], len(query)), np.tile(np.arange(len(query)), 2)
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=1000))
    found = cross_val_score(probe, vectors, side, groups=pair, cv=GroupKFold(FOLDS))
    return {"accuracy": round(float(found.mean()), 4), "pairs": len(query)}
