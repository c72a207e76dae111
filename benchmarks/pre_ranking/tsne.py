"""A picture of users, liked and disliked items, and what a straight line makes of their vectors.

For each model, seed 1 is trained on the data set that ``--data`` names (MovieLens 1M, hash split, unless said
otherwise); of users drawn at random, at most `USERS`, one liked and one disliked item of the test part each.
A picture proves little; the probe beside it is a number: the accuracy of a logistic regression that is to
tell liked from disliked pairs, from the item's vector alone (are some films liked by all?) and from the
product of both vectors, entry by entry (does the space hold who likes what?).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.machine import machine
from benchmarks.pre_ranking.cells import SEEDS
from benchmarks.pre_ranking.data import DATA, prepared_for
from benchmarks.pre_ranking.files import RESULTS, write_arrays, write_json
from benchmarks.pre_ranking.models import MODELS
from benchmarks.pre_ranking.search import SEARCH_DATA, best
from twotower.models.base import Model
from twotower.pipeline.learning import train_model
from twotower.pipeline.prepared import Prepared
from twotower.types import Rep

USERS, FOLDS = 700, 5
PARTS = ("users", "liked items", "disliked items")


def draw(models: Sequence[str], data: str = SEARCH_DATA) -> None:
    """Train, project and probe; writes the places of the vectors and the probe's accuracy."""
    places: dict[str, np.ndarray] = {}
    probes: dict[str, Any] = {}
    for name in models:
        params = best(name)["params"]
        prepared = prepared_for(data, MODELS[name].recipe(params, DATA[data]), SEEDS[0])
        model, _ = train_model(prepared, "model")
        users, items = pairs(prepared)
        query, item = vectors(model, prepared, users, items)
        found = projected([query, item[:, 0], item[:, 1]])
        places |= {f"{name}/{part}": where for part, where in zip(PARTS, found, strict=True)}
        probes[name] = probe(query.numpy(), item.numpy())
        print(f"tsne {name}: {probes[name]}", flush=True)
    folder = RESULTS / "tsne"
    write_arrays(folder / "places.npz", **places)
    about = (
        f"The vectors of {len(users)} users of the test part of `{data}`, and of one film each liked and "
        "disliked (t-SNE of all together; weights of seed 1)."
    )
    content = {"about": about, "parts": PARTS, "models": probes, "seed": SEEDS[0], "machine": machine()}
    write_json(folder / "probe.json", content)


def pairs(prepared: Prepared, seed: int = 0) -> tuple[Tensor, Tensor]:
    """(U,) users who liked and disliked something in the test part, and (U, 2) such items of each."""
    test = prepared.interactions(prepared.split.test)
    assert test.labels is not None
    order = torch.from_numpy(np.random.default_rng(seed).permutation(len(test)))
    chosen = []
    for label in (1.0, 0.0):
        rows = order[test.labels[order] == label]
        names, place = np.unique(test.query_keys[rows].numpy(), return_index=True)  # the first in this order
        chosen.append(dict(zip(names.tolist(), test.item_keys[rows][place].tolist(), strict=True)))
    both = sorted(chosen[0].keys() & chosen[1].keys())
    some = np.random.default_rng(seed).permutation(both)[:USERS].tolist()
    return torch.tensor(some), torch.tensor([[part[user] for part in chosen] for user in some])


@torch.inference_mode()
def vectors(model: Model, prepared: Prepared, users: Tensor, items: Tensor) -> tuple[Tensor, Tensor]:
    """(U, D) and (U, 2, D): what meets in the score, without biases; of heads those of the last layer."""
    queries = prepared.request_columns(users, prepared.split.history("test"))
    query, item = model.encode_query(queries), model.encode_item(prepared.items.take(items))
    if "heads" in item:
        heads = item["heads"].shape[-2]
        return query["heads"][:, -heads:].flatten(1), item["heads"].flatten(2)
    return _without_bias(model, query), _without_bias(model, item)


def _without_bias(model: Model, rep: Rep) -> Tensor:
    """A vector without the two entries that carry the biases."""
    return rep["vector"][..., :-2] if getattr(model.config, "bias", False) else rep["vector"]


def projected(clouds: Sequence[Tensor]) -> list[np.ndarray]:
    """Places in the plane, all clouds together; (n, D) -> (n, 2) each."""
    from sklearn.manifold import TSNE

    together = np.concatenate([cloud.numpy() for cloud in clouds])
    found = TSNE(perplexity=30, init="pca", random_state=0).fit_transform(together)
    parts = np.split(found.astype(np.float32), np.cumsum([len(cloud) for cloud in clouds])[:-1])
    return list(parts)


def probe(query: np.ndarray, item: np.ndarray) -> dict[str, float]:
    """Accuracy in telling (U, 2, D) liked from disliked, of users that the probe was not fitted on."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GroupKFold, cross_val_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    label = np.tile([1, 0], len(query))
    user = np.repeat(np.arange(len(query)), 2)
    product = query[:, None] * item
    inputs = {"item": item.reshape(len(label), -1), "product": product.reshape(len(label), -1)}
    accuracy = {
        name: float(
            cross_val_score(
                make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=1000)),
                x,
                label,
                groups=user,
                cv=GroupKFold(FOLDS),
            ).mean()
        )
        for name, x in inputs.items()
    }
    return {**accuracy, "pairs": len(label)}
