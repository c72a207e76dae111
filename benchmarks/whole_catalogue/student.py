"""Bring a retriever to a ranker's order, on items that matter: those it would retrieve, and drawn ones.

A ranker's first ten of a million items are of no use to a cascade whose retriever would never find them. The
retriever learns from no label here: of every user it is shown what it would retrieve itself (mined anew in
each round) and items drawn from all, with the ranker's scores of both.

Letters: Q queries, N items.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from twotower.data.batches import Examples, ListBatches
from twotower.losses.distil import kl
from twotower.models.base import Model
from twotower.pipeline.prepared import Prepared
from twotower.scores.catalogue import top_k
from twotower.train.fit import fit
from twotower.train.objective import Objective
from twotower.train.settings import TrainSettings
from twotower.types import Batch

MINED = 2000
"""So many of its own first items are shown to the teacher,"""
BEST, OTHERS, DRAWN = 80, 80, 40
"""of which a list holds the teacher's best, some others, and some drawn from the whole catalogue."""
USERS, ROUNDS = 6_000, 2
"""Users are drawn anew in each round."""
SETTINGS = TrainSettings(epochs=2, batch_size=64, learning_rate=1e-3, schedule="cosine", clip_norm=1.0)


class FollowShares(Objective):
    """KL of the softmax over each list from the teacher's, whose scores are the labels."""

    def __call__(self, model: Model, examples: Examples) -> dict[str, Tensor]:
        assert examples.labels is not None
        query, item = model.encode_query(examples.query), self.encode(model, examples.items)
        return {"kl": kl(model.score(query, item).float(), examples.labels)}


def bring_to(
    student: Model,
    teacher: Callable[[Batch, Tensor], Tensor],
    prepared: Prepared,
    *,
    seed: int,
    say: Callable[[str], None],
) -> None:
    """Train ``student`` (a dot model) in place; ``teacher(query, keys)`` gives (q, K) scores."""
    draw = torch.Generator().manual_seed(seed)
    for number in range(ROUNDS):
        users = torch.randperm(prepared.queries.rows, generator=draw)[:USERS]
        query = prepared.known_columns(users)
        mined = mine(student, prepared.items, query, MINED)
        scores = _scored(teacher, query, mined)
        luck = torch.rand(mined.shape, generator=draw)
        chosen = torch.cat([scores.topk(BEST).indices, luck.topk(OTHERS).indices], 1)
        drawn = torch.randint(prepared.n_items, (len(users), DRAWN), generator=draw)
        keys = torch.cat([mined.gather(1, chosen), drawn], 1)
        wanted = torch.cat([scores.gather(1, chosen), _scored(teacher, query, drawn)], 1)
        batches = ListBatches(
            torch.arange(len(users)),
            keys,
            query,
            batch_size=SETTINGS.batch_size,
            labels=wanted,
            seed=seed + number,
        )
        settings = SETTINGS.model_copy(update={"seed": seed + number})
        result = fit(student, batches, FollowShares(prepared.items), settings)
        say(f"retriever, round {number + 1}: {result.history[-1]}")


def _scored(teacher: Callable[[Batch, Tensor], Tensor], query: Batch, keys: Tensor) -> Tensor:
    starts = range(0, len(keys), 8)
    return torch.cat([teacher(query.slice(s, s + 8), keys[s : s + 8]) for s in starts])


@torch.inference_mode()
def mine(model: Model, items: Batch, query: Batch, k: int, queries_at_once: int = 256) -> Tensor:
    """(Q, k) keys of the items that a dot model scores highest."""
    model.eval()
    parts = range(0, items.rows, 65_536)
    vectors = torch.cat([model.encode_item(items.slice(s, s + 65_536))["vector"] for s in parts])
    found = []
    for start in range(0, query.rows, queries_at_once):
        asked = model.encode_query(query.slice(start, start + queries_at_once))["vector"]
        found.append(top_k(asked, vectors, k).keys)
    return torch.cat(found)
