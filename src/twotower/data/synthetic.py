"""A generated data set with known truth, the embedded data of ``make demo``.

Frozen: the same seed gives the same bytes on every machine, for good, as models are compared on it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
import polars as pl
from pydantic import Field as Option
from pydantic import model_validator

from twotower.config import Config
from twotower.data.dataset import Dataset
from twotower.data.exposure import CHUNK, OldPolicy, Requests, Sizes, simulate
from twotower.data.world import COMPLEMENTS, POSITIONS, World, normal, stream
from twotower.errors import ConfigError
from twotower.schema import Field, Schema

_COUNTRIES = ["us", "in", "br", "id", "de", "jp", "mx", "gb", "fr", "tr", "it", "es"]
_AGES = ["under 18", "18-24", "25-34", "35-49", "50-64", "65 and over"]
_DEVICES = ["mobile", "desktop", "tablet"]
# fmt: off
_CATEGORIES = [
    "shirt", "shoe", "phone", "lamp", "chair", "book", "bag", "watch", "mug", "tent", "toy", "bike",
    "camera", "pan", "rug", "jacket", "speaker", "puzzle", "plant", "knife", "towel", "guitar", "mirror",
    "clock",
]
_TAGS = [
    "red", "blue", "green", "black", "white", "wool", "cotton", "leather", "wooden", "steel",
    "glass", "retro", "modern", "classic", "minimal", "bold", "soft", "light", "sturdy", "compact",
    "foldable", "wireless", "waterproof", "handmade", "organic", "recycled", "outdoor", "indoor", "travel",
    "office", "kids", "sport", "party", "winter", "summer", "gift", "budget", "luxury", "vegan", "smart",
]
# fmt: on
_BRANDS = [
    a + b for b in ("dra", "lin", "nek", "vik") for a in ("Al", "Bo", "Ka", "Lu", "Mi", "Nor", "Ta", "Ve")
]

SCHEMA = Schema(
    query="user",
    item="item",
    fields=(
        Field(name="user", kind="id", role="query", dropout=0.1),  # so that the unknown row is trained:
        Field(name="item", kind="id", role="item", dropout=0.1),  # new users and items come all the time
        Field(name="country", kind="category", role="query"),
        Field(name="age", kind="category", role="query"),
        Field(name="category", kind="category", role="item"),
        Field(name="brand", kind="category", role="item"),
        Field(name="tags", kind="bag", role="item"),
        Field(name="price", kind="number", role="item"),
        Field(name="quality", kind="number", role="item"),
        Field(name="title", kind="text", role="item"),
        Field(name="position", kind="category", role="context"),
        Field(name="device", kind="category", role="context"),
        Field(name="click", kind="number", role="label"),
        Field(name="buy", kind="number", role="label"),
        Field(name="timestamp", kind="number", role="time"),
    ),
)
_ORDER = ("timestamp", "user", "position")


class Synthetic(Config):
    """Impressions of an old policy in a generated world (`World`), as a data set.

    Ids are integers other than the keys. All impressions of a request share its timestamp and stand in the
    order of their positions. What the truth knows (probabilities, latent vectors, budgets) is not in the
    data set: ask `world` and `stage_log`.

    >>> data = Synthetic(n_queries=50, n_items=100).read()
    >>> sorted(data.schema.event_columns)
    ['buy', 'click', 'device', 'item', 'position', 'timestamp', 'user']
    """

    reader: Literal["synthetic"] = "synthetic"
    seed: int = Option(0, ge=0)
    n_queries: int = Option(2000, ge=1)
    n_items: int = Option(1500, ge=50)
    requests_per_query: float = Option(6.0, ge=1, le=1000, description="mean; a few queries have many more")
    retrieved: int = Option(128, ge=4 * COMPLEMENTS, description="draws of the old policy per request")
    preranked: int = Option(48, ge=1)
    ranked: int = Option(20, ge=1)
    exposed: int = Option(8, ge=1, le=POSITIONS)

    @model_validator(mode="after")
    def _check(self) -> Synthetic:
        if not self.exposed <= self.ranked <= self.preranked <= self.retrieved:
            raise ValueError("stages must keep less and less: exposed <= ranked <= preranked <= retrieved")
        return self

    def read(self, path: Path | None = None, on_error: Literal["raise", "skip"] = "raise") -> Dataset:
        """Generate the data set; there is no file to read and no row to be broken."""
        events = pl.concat(self._chunks()).sort(_ORDER)
        note = f"generated with seed {self.seed}: shown by an old policy, whose truth is known"
        return Dataset.build(
            "synthetic", SCHEMA, events, self._query_table(), self._item_table(), notes=(note,)
        )

    def world(self) -> World:
        """The truth of this data set; its keys are the data set's."""
        return _world(self.n_queries, self.n_items, self.seed)

    def stage_log(self) -> pl.DataFrame:
        """All candidates of all requests, with the furthest stage each one reached.

        Columns: request, user, item, timestamp, stage (retrieved, preranked, ranked, exposed: who reached a
        stage passed those before it), position (its rank, from 0, in the last list that held it), score (the
        old policy's in that list; not comparable between stages), last_clicked (item id or null) and the true
        ``probability`` of a click when looked at.
        """
        parts, first = [], 0
        for requests in self._simulate(range(self._n_chunks)):
            parts.append(self._logged(requests, first))
            first += len(requests.query)
        return pl.concat(parts)

    def write_parquet(self, directory: Path, shards: int = 8) -> int:
        """Write queries.parquet, items.parquet and events-*.parquet shard by shard; returns the event count.

        Shards hold consecutive users, sorted by time inside, so that memory is bounded by one shard and the
        world itself (about 200 bytes per query and item). The rows are those of `read`.
        """
        if shards < 1:
            raise ConfigError(f"shards must be at least 1, found {shards}")
        directory.mkdir(parents=True, exist_ok=True)
        self._query_table().write_parquet(directory / "queries.parquet")
        self._item_table().write_parquet(directory / "items.parquet")
        total, chunks = 0, np.arange(self._n_chunks)
        for shard, part in enumerate(np.array_split(chunks, min(shards, len(chunks)))):
            events = pl.concat(self._chunks(part)).sort(_ORDER)
            events.write_parquet(directory / f"events-{shard:05d}.parquet")
            total += len(events)
        return total

    @property
    def _n_chunks(self) -> int:
        return -(-self.n_queries // CHUNK)

    def _simulate(self, chunks: Iterable[int]) -> Iterator[Requests]:
        policy = OldPolicy(self.world(), Sizes(self.retrieved, self.preranked, self.ranked, self.exposed))
        for chunk in chunks:
            yield from simulate(policy, int(chunk), self.requests_per_query)

    def _chunks(self, chunks: Iterable[int] | None = None) -> Iterator[pl.DataFrame]:
        chunks = range(self._n_chunks) if chunks is None else chunks
        return (self._events(requests) for requests in self._simulate(chunks))

    def _events(self, requests: Requests) -> pl.DataFrame:
        shown = requests.items[:, : self.exposed]
        row, position = np.nonzero(shown >= 0)
        return pl.DataFrame(
            {
                "user": _user_ids(requests.query[row]),
                "item": _item_ids(shown[row, position]),
                "position": position.astype(np.int8),
                "device": _words(_DEVICES, requests.device[row]),
                "click": requests.clicks[row, position].astype(np.int8),
                "buy": requests.buys[row, position].astype(np.int8),
                "timestamp": requests.time[row],
            }
        )

    def _logged(self, requests: Requests, first: int) -> pl.DataFrame:
        row, column = np.nonzero(requests.items >= 0)
        ends = [self.exposed, self.ranked, self.preranked]
        names = ["exposed", "ranked", "preranked", "retrieved"]
        query, item, time = requests.query[row], requests.items[row, column], requests.time[row]
        last = requests.last[row]
        stage = np.searchsorted(ends, column, side="right")
        return pl.DataFrame(
            {
                "request": first + row,
                "user": _user_ids(query),
                "item": _item_ids(item),
                "timestamp": time,
                "stage": _words(names, stage),
                "position": column,
                "score": requests.scores[row, column],
                "last_clicked": pl.Series(_item_ids(last)).set(pl.Series(last < 0), None),
                "probability": self.world().probability(query, item, time, last),
            }
        )

    def _query_table(self) -> pl.DataFrame:
        world, rng = self.world(), stream(self.seed, 4)
        wrong, missing, other = rng.random((3, world.n_queries))
        # some do not tell the truth, some tell nothing
        age = np.where(wrong < 0.1, (other * len(_AGES)).astype(np.int64), world.age)
        return pl.DataFrame(
            {
                "user": _user_ids(np.arange(world.n_queries)),
                "country": _words(_COUNTRIES, world.country),
                "age": _words(_AGES, age).set(pl.Series(missing < 0.05), None),
            }
        )

    def _item_table(self) -> pl.DataFrame:
        world, rng = self.world(), stream(self.seed, 5)
        n = world.n_items
        judged = np.round(world.quality + 0.5 * normal(rng, n), 2)
        unjudged = pl.Series(rng.random(n) < 0.2)
        category, brand = _words(_CATEGORIES, world.category), _words(_BRANDS, world.brand)
        held = np.arange(4) < world.n_tags[:, None]
        tags = pl.DataFrame({"item": np.nonzero(held)[0], "tag": _words(_TAGS, world.tags[held])})
        first_tag = _words(_TAGS, world.tags[:, 0])
        return pl.DataFrame(
            {
                "item": _item_ids(np.arange(n)),
                "category": category,
                "brand": brand,
                "tags": tags.group_by("item", maintain_order=True).agg("tag")["tag"],
                "price": np.round(np.exp(world.log_price), 2),
                "quality": pl.Series(judged).set(unjudged, None),
                "title": brand + " " + first_tag + " " + category,
            }
        )


@lru_cache(maxsize=1)
def _world(n_queries: int, n_items: int, seed: int) -> World:
    return World(n_queries, n_items, seed)


def _user_ids(keys: np.ndarray) -> np.ndarray:
    return 1_000_001 + 7 * keys


def _item_ids(keys: np.ndarray) -> np.ndarray:
    return 50_000_003 + 3 * keys


def _words(words: list[str], codes: np.ndarray) -> pl.Series:
    return pl.Series(words)[codes]
