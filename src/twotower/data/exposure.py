"""The old policy of the synthetic world: it decides what was shown, and so what can be learnt from.

Shape letters: R requests, E items shown, K candidates of a request.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from twotower.data.world import (
    COMPLEMENTS,
    DEVICES,
    DIM,
    SPAN_S,
    START_S,
    World,
    normal,
    on_grid,
    stream,
)

CHUNK = 8192
"""Queries simulated together; part of the frozen world, as every chunk has random draws of its own."""


@dataclass(frozen=True)
class Sizes:
    """How many candidates a request keeps after each stage of the old policy."""

    retrieved: int
    preranked: int
    ranked: int
    exposed: int


@dataclass(frozen=True)
class Requests:
    """R requests of different queries, with all that the old policy did for them."""

    query: np.ndarray  # (R,)
    time: np.ndarray  # (R,) seconds
    device: np.ndarray  # (R,)
    last: np.ndarray  # (R,) item clicked last before the request, or -1
    items: np.ndarray  # (R, K): first the shown, then those the ranker, the pre-ranker dropped; -1 at the end
    scores: np.ndarray  # (R, K) score in the last stage that scored the item
    clicks: np.ndarray  # (R, E) bool
    buys: np.ndarray  # (R, E) bool


class OldPolicy:
    """Retrieval from four sources, a pre-ranker and a ranker that know less than the truth.

    *Retrieval* draws from the query's bucket of similar items (the signs of the first latent dimensions; half
    of the draws from a neighbouring bucket), from the popular items, from all items with a preference for the
    new ones, and takes the complements of the last click; no item is shown twice to one query. It never
    scores the whole catalogue, hence costs the same for a thousand items and for millions. The *pre-ranker*
    knows popularity and half of the latent dimensions, the *ranker* all of them and the wishes of the age
    groups on the first day; what is *exposed* are the ranker's best, under some noise.
    """

    def __init__(self, world: World, sizes: Sizes) -> None:
        self.world, self.sizes = world, sizes
        self._by_arrival = np.argsort(world.arrival, kind="stable")
        self._arrivals = world.arrival[self._by_arrival]
        self._bits = min(DIM, max(1, (world.n_items // 64).bit_length() - 1))
        bucket = self._bucket(world.style)[world.by_popularity]
        self._by_bucket = world.by_popularity[np.argsort(bucket, kind="stable")]
        self._bucket_size = np.bincount(bucket, minlength=2**self._bits)
        self._bucket_start = self._bucket_size.cumsum() - self._bucket_size

    def _bucket(self, vectors: np.ndarray) -> np.ndarray:
        return (vectors[:, : self._bits] > 0) @ (1 << np.arange(self._bits))

    def serve(
        self,
        rng: np.random.Generator,
        query: np.ndarray,
        time: np.ndarray,
        last: np.ndarray,
        seen: np.ndarray,  # (R, S) items shown before
    ) -> tuple[np.ndarray, np.ndarray]:
        """Candidates (R, K) in the order of `Requests.items`, -1 where there are fewer, and their scores."""
        items = self._retrieve(rng, query, time, last)
        world, sizes = self.world, self.sizes
        again = np.diff(items, axis=1, prepend=-1) == 0  # sorted, so copies are neighbours
        seen_before = (items[:, :, None] == seen[:, None, :]).any(2)
        items[again | seen_before | (world.arrival[items] > time[:, None])] = -1

        taste, half = world.taste[query], DIM // 2
        bonus = (items[:, :, None] == world.complements(last)[:, None, :]).any(2)
        scores = world.popularity[items] + 1.5 * bonus
        scores += np.einsum("rd,rkd->rk", taste[:, :half], world.style[items, :half])
        scores[items < 0] = -np.inf
        items, scores = _best_first(items, scores, items.shape[1])

        shown, value = items[:, : sizes.preranked], scores[:, : sizes.preranked]
        value += np.einsum("rd,rkd->rk", taste[:, half:], world.style[shown, half:])
        value += world.early_wishes[world.age[query][:, None], world.category[shown]]
        items, scores = _best_first(items, scores, sizes.preranked)
        scores[:, : sizes.ranked] += on_grid(0.5 * normal(rng, len(query), sizes.ranked))
        return _best_first(items, scores, sizes.ranked)

    def _retrieve(
        self, rng: np.random.Generator, query: np.ndarray, time: np.ndarray, last: np.ndarray
    ) -> np.ndarray:
        """(R, retrieved) keys, rising, with copies; -1 for an empty draw."""
        n, n_items = len(query), self.world.n_items
        similar, popular = self.sizes.retrieved // 2, self.sizes.retrieved // 4
        other = self.sizes.retrieved - similar - popular - COMPLEMENTS
        bucket = np.repeat(self._bucket(self.world.taste[query])[:, None], similar, axis=1)
        flip = (rng.random((n, similar // 2)) * self._bits).astype(np.int64)
        bucket[:, : similar // 2] ^= 1 << flip
        u = rng.random((n, similar))
        inside = (u * u * self._bucket_size[bucket]).astype(np.int64)
        place = np.minimum(self._bucket_start[bucket] + inside, n_items - 1)
        from_bucket = np.where(self._bucket_size[bucket] > 0, self._by_bucket[place], -1)
        u = rng.random((n, popular))
        u *= u
        from_popular = self.world.by_popularity[(u * u * n_items).astype(np.int64)]
        u = rng.random((n, other))
        arrived = np.searchsorted(self._arrivals, time, side="right")[:, None]
        from_new = self._by_arrival[arrived - 1 - (u * u * u * arrived).astype(np.int64)]
        sources = [from_bucket, from_popular, from_new, self.world.complements(last)]
        return np.sort(np.concatenate(sources, axis=1), axis=1)


def _best_first(items: np.ndarray, scores: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Reorder the first ``width`` columns by falling score, ties as they stand."""
    order = np.argsort(-scores[:, :width], axis=1, kind="stable")
    for table in (items, scores):
        table[:, :width] = np.take_along_axis(table[:, :width], order, axis=1)
    return items, scores


def simulate(policy: OldPolicy, chunk: int, requests_per_query: float) -> Iterator[Requests]:
    """All requests of the queries ``chunk * CHUNK`` and following: the first of each, then the second, ..."""
    world, exposed = policy.world, policy.sizes.exposed
    rng = stream(world.seed, 3, chunk)
    query = np.arange(chunk * CHUNK, min((chunk + 1) * CHUNK, world.n_queries))
    times = _request_times(rng, world.joined[query], requests_per_query)
    last = np.full(len(query), -1)
    shown = np.full((len(query), times.shape[1] * exposed), -2)
    for turn in range(times.shape[1]):
        now = np.flatnonzero(times[:, turn] >= 0)
        who, time = query[now], times[now, turn]
        roam, other = rng.random((2, len(who)))
        device = np.where(roam < 0.8, world.device[who], (other * DEVICES).astype(np.int64))
        items, scores = policy.serve(rng, who, time, last[now], shown[now, : turn * exposed])

        top = items[:, :exposed]
        looked = world.probability(who[:, None], top, time[:, None], last[now, None])
        looked *= world.examination[device, :exposed]
        clicks = (rng.random(top.shape) < looked) & (top >= 0)
        buys = clicks & (rng.random(top.shape) < world.buy_probability(who[:, None], top))
        yield Requests(who, time, device, last[now], items, scores, clicks, buys)

        shown[now, turn * exposed : (turn + 1) * exposed] = top
        lowest = exposed - 1 - clicks[:, ::-1].argmax(1)
        last[now] = np.where(clicks.any(1), np.take_along_axis(top, lowest[:, None], 1)[:, 0], last[now])


def _request_times(rng: np.random.Generator, joined: np.ndarray, mean: float) -> np.ndarray:
    """(queries, most requests) rising seconds, no two alike in a row; -1 where a query has no more requests.

    The number of requests has a heavy tail, cut at eight times the mean.
    """
    u, rest = rng.random((2, len(joined)))
    count = 1 + np.minimum((mean - 1) * (1 / np.sqrt(1 - u) - 1) + rest, 8 * mean - 1).astype(np.int64)
    turn = np.arange(count.max())
    left = START_S + SPAN_S - len(turn) - joined[:, None]
    offset = (rng.random((len(joined), len(turn))) * left).astype(np.int64)
    offset = np.sort(np.where(turn < count[:, None], offset, SPAN_S), axis=1)
    return np.where(turn < count[:, None], joined[:, None] + offset + turn, -1)
