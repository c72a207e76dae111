"""One file of a logged funnel: what it says of itself, and which part of what was served it holds.

After RecFlow (Kuaishou, ICLR 2025), which logs the candidates dropped by each stage beside the exposed ones:
one row per request and candidate, labelled with the stage it reached, and only a sample of those that came no
further than the early stages. `twotower.data.funnel` reads a directory of them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Self

import numpy as np
import polars as pl
from pydantic import Field as Option
from pydantic import model_validator

from twotower.config import Config, nearest
from twotower.data.atomic import replacing
from twotower.data.hashing import stable_hash
from twotower.errors import ConfigError, StorageError

FORMAT = 1
METADATA = "twotower.funnel"
EXPOSED = "exposed"
"""Stands for the stage of what was shown."""
COLUMNS = ("request", "stage", "rank", "score", "sources", "degraded")
ROWS_PER_GROUP = 1 << 16


class FunnelSampling(Config):
    """Which part of all that is served is written; every choice is a hash, so that it can be repeated."""

    requests: float = Option(1.0, ge=0, le=1, description="share of the requests, each whole or not at all")
    stages: Mapping[str, Annotated[float, Option(gt=0, le=1)]] = Option(
        {}, description="share of the candidates that came no further than a stage; 1 where it is not named"
    )

    def takes(self, requests: pl.Series) -> np.ndarray:
        """(n,) bool: which requests are logged, by their ids.

        >>> FunnelSampling(requests=0.5).takes(pl.Series(["a", "b", "c", "d"])).tolist()
        [False, True, False, True]
        """
        return _uniform(requests, seed=1) < self.requests

    def thinned(self, rows: pl.DataFrame, item: str) -> pl.DataFrame:
        """The rows that are kept, by the ids of request and item and the rate of the stage."""
        if not self.stages:
            return rows
        pairs = rows.select(pl.format("{}\n{}", "request", item)).to_series()
        return rows.filter(_uniform(pairs, seed=2) < rows.select(self._rate).to_series().to_numpy())

    @property
    def weight(self) -> pl.Expr:
        """For how many rows of what was served each kept row stands."""
        return 1 / (self.requests * self._rate)

    @property
    def _rate(self) -> pl.Expr:
        return pl.col("stage").replace_strict(dict(self.stages), default=1.0, return_dtype=pl.Float64)


def _uniform(texts: pl.Series, seed: int) -> np.ndarray:
    """A number in [0, 1) for each text; other seeds than those of splits, which must not depend on this."""
    return (stable_hash(texts, seed) >> np.uint64(11)) * 2.0**-53


class FunnelAbout(Config):
    """What a file of logged requests says of itself."""

    format: int = FORMAT
    stages: tuple[str, ...] = Option(min_length=1, description="of the cascade, in their order")
    query: str = Option("query", description="the column of the queries' ids")
    item: str = Option("item", description="the column of the items' ids")
    time: str = Option("time", description="the column of the requests' times, in seconds")
    sampling: FunnelSampling = FunnelSampling()
    produced_by: str = Option("", description="digest or version of the bundle that served")
    replaces: tuple[str, ...] = Option((), description="files whose rows this one holds, by compaction")

    @model_validator(mode="after")
    def _check(self) -> Self:
        named = [*COLUMNS, *self.ids]
        if len(set(named)) < len(named):
            raise ValueError(f"the columns {', '.join(self.ids)} need names of their own, not {COLUMNS}")
        if EXPOSED in self.stages:
            raise ValueError(f"no stage can be called {EXPOSED!r}: it is what was shown")
        for wrong in self.sampling.stages.keys() - {*self.stages, EXPOSED}:
            raise ValueError(f"no stage is called {wrong!r}{nearest(wrong, [*self.stages, EXPOSED])}")
        return self

    @property
    def ids(self) -> tuple[str, str, str]:
        return self.query, self.item, self.time

    def roles(self, ranker: str) -> dict[str, str]:
        """Stage -> the role that `twotower.data.full_stage` gives candidates that came so far.

        >>> FunnelAbout(stages=("retrieve", "prerank", "rank", "rerank")).roles("rank")
        {'retrieve': 'retrieved', 'prerank': 'preranked', 'rank': 'ranked', 'rerank': 'ranked', ...}
        """
        if ranker not in self.stages:
            raise ConfigError(f"no logged stage is called {ranker!r}{nearest(ranker, self.stages)}")
        at = self.stages.index(ranker)
        role = ["retrieved"] * (at - 1) + ["preranked"] * min(at, 1) + ["ranked"] * (len(self.stages) - at)
        return dict(zip(self.stages, role, strict=True)) | {EXPOSED: EXPOSED}


def write_part(path: Path, rows: pl.DataFrame, about: FunnelAbout) -> None:
    """One file, complete or not there at all.

    Raises
    ------
    StorageError
        The disk is full or refuses.
    """
    with replacing(path) as file:
        rows.write_parquet(file, row_group_size=ROWS_PER_GROUP, metadata={METADATA: about.model_dump_json()})


def about_part(path: Path) -> FunnelAbout:
    """What a file says of itself; reads nothing but its end.

    Raises
    ------
    StorageError
        It is damaged, of another format, or not of this kind.
    """
    try:
        said = json.loads(pl.read_parquet_metadata(path).get(METADATA, "{}"))
    except (pl.exceptions.PolarsError, OSError, ValueError) as error:
        raise StorageError(f"{path}: not a sound Parquet file ({error}); remove or restore it") from None
    if said.get("format") != FORMAT:
        found = f"format {said['format']}" if "format" in said else "no log of a funnel"
        raise StorageError(
            f"{path}: {found}, expected format {FORMAT}; read it with the version that wrote it"
        )
    return FunnelAbout.parse(said, where=str(path))
