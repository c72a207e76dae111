"""A learnable workload of exact size: 1M events, 7 id fields, drawn from latent tastes.

Letters: U users, N items, E events, G categories, D latent dimensions.

`twotower.data.synthetic` is the honest world; this one has the sizes of a published throughput figure and
takes seconds to make. A user draws a category by taste and popularity, then one of 8 popular items of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from twotower.data.interactions import Interactions
from twotower.data.spec import Column, FeatureSpec
from twotower.types import Batch

D, DRAWS = 16, 8
SIZES = {"age": 8, "country": 50, "device": 4, "category": 200, "brand": 1000}
QUERY, ITEM = ("user", "age", "country", "device"), ("item", "category", "brand")


@dataclass(frozen=True)
class Tastes:
    """Encoded tables of both sides, and the events of three parts drawn from one distribution."""

    queries: Batch  # (U,) columns of `QUERY`
    items: Batch  # (N,) columns of `ITEM`
    train: Interactions
    valid: Interactions
    test: Interactions

    @property
    def spec(self) -> FeatureSpec:
        sides = {**dict.fromkeys(QUERY, "query"), **dict.fromkeys(ITEM, "item")}
        rows = {"user": self.queries.rows, "item": self.items.rows, **SIZES}
        return FeatureSpec(
            columns=tuple(
                Column(name=n, kind="id" if n in ("user", "item") else "category", side=s, size=2 + rows[n])
                for n, s in sides.items()
            )
        )

    @property
    def counts(self) -> Tensor:
        """(N,) training events per item."""
        return torch.bincount(self.train.item_keys, minlength=self.items.rows)

    @property
    def columns(self) -> dict[str, Tensor]:
        """The training events as one table: all seven columns, (E,) each, and the item key."""
        query, item = self.queries.take(self.train.query_keys), self.items.take(self.train.item_keys)
        return {**query, **item, "key": self.train.item_keys}


def generate(events: int, users: int, items: int, seed: int, held: int = 20_000) -> dict[str, Tensor]:
    """All tensors of a workload: the two tables, and ``events + 2 * held`` pairs of keys."""
    rng = np.random.default_rng(seed)
    style = {name: rng.standard_normal((size, D)) for name, size in SIZES.items()}
    code = {
        n: rng.integers(0, s, users if n in QUERY else items) for n, s in SIZES.items() if n != "category"
    }
    code["category"] = np.sort((rng.random(items) ** 1.5 * SIZES["category"]).astype(np.int64))
    parts = (("age", 0.5), ("country", 0.7), ("device", 0.2))
    taste = sum(weight * style[n][code[n]] for n, weight in parts) + 0.5 * rng.standard_normal((users, D))
    vector = style["category"][code["category"]] + 0.5 * style["brand"][code["brand"]]
    vector += 0.5 * rng.standard_normal((items, D))

    popularity = rng.permutation(items).astype(np.float64) + 10.0
    popularity **= -0.8  # Zipf
    ends = np.searchsorted(code["category"], np.arange(SIZES["category"] + 1))
    mass = np.concatenate([[0.0], popularity.cumsum()])
    activity = rng.random(users) ** -0.4
    who = rng.choice(users, events + 2 * held, p=activity / activity.sum())
    log_mass = np.log(np.diff(mass[ends]) + 1e-12)
    what = [
        _draw(rng, taste[part], style["category"], log_mass, mass, ends, vector)
        for part in np.array_split(who, max(1, len(who) // 20_000))
    ]
    tables = {name: code[name] + 2 for name in SIZES}
    tables |= {"user": np.arange(users) + 2, "item": np.arange(items) + 2}
    tensors = {f"column.{name}": torch.from_numpy(values) for name, values in tables.items()}
    keys = {"query_keys": torch.from_numpy(who), "item_keys": torch.from_numpy(np.concatenate(what))}
    return tensors | {name: tensor.contiguous() for name, tensor in keys.items()}


def save(path: Path, tensors: dict[str, Tensor]) -> None:
    save_file(tensors, path)


def load(path: Path, held: int = 20_000) -> Tastes:
    tensors = load_file(path)
    query, item = tensors["query_keys"], tensors["item_keys"]
    events = Interactions(query, item, torch.zeros_like(item), torch.arange(len(item)))
    last = len(events)
    valid, test = torch.arange(last - 2 * held, last - held), torch.arange(last - held, last)
    return Tastes(
        Batch((name, tensors[f"column.{name}"]) for name in QUERY),
        Batch((name, tensors[f"column.{name}"]) for name in ITEM),
        events.take(torch.arange(last - 2 * held)),
        events.take(valid),
        events.take(test),
    )


def _draw(
    rng: np.random.Generator,
    taste: np.ndarray,  # (E, D)
    category: np.ndarray,  # (G, D)
    log_mass: np.ndarray,  # (G,)
    mass: np.ndarray,  # (N + 1,) running sum of popularity
    ends: np.ndarray,  # (G + 1,) items of category g are ends[g]:ends[g + 1]
    vector: np.ndarray,  # (N, D)
) -> np.ndarray:
    """(E,) item keys. Adding Gumbel noise and taking the best is a draw from the softmax."""
    wish = 0.6 * taste @ category.T + log_mass
    chosen = (wish + rng.gumbel(size=wish.shape)).argmax(1)
    low, high = mass[ends[chosen]], mass[ends[chosen + 1]]
    place = low[:, None] + rng.random((len(taste), DRAWS)) * (high - low)[:, None]
    drawn = np.clip(np.searchsorted(mass, place, "right") - 1, 0, len(vector) - 1)
    liking = 0.6 * np.einsum("ed,end->en", taste, vector[drawn])
    best = (liking + rng.gumbel(size=liking.shape)).argmax(1)
    return np.asarray(drawn[np.arange(len(taste)), best])
