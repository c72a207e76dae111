"""A logged funnel, read again: what every stage made of every candidate, as data to learn from.

A directory holds many files (`twotower.data.funnel_part`), each complete in itself: published by one rename,
described by its own Parquet metadata. They hold ids, never keys, which the next bundle deals anew.
`twotower.cascade.funnel_log` writes them; old ones may be removed, and small ones merged, at any time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from twotower.data.catalogue import Catalogue
from twotower.data.funnel_folder import parts_of
from twotower.data.funnel_part import EXPOSED, FunnelAbout
from twotower.errors import DataError, StorageError


@dataclass(frozen=True)
class FunnelSamples:
    """Rows for `twotower.data.full_stage.FullStage.of_log`, and what was left out on the way to them."""

    rows: pl.DataFrame
    notes: tuple[str, ...]


class Funnel:
    """A directory of logged requests.

    Its files may come from several cascades, whose stages differ. What a killed process left unfinished has
    no name that is looked for. Where a listed file is gone when it is to be read, all are listed anew.

    Raises
    ------
    DataError
        No file at all, or two whose columns of ids have other names.
    StorageError
        A file that is damaged, of another format, or not of this kind.
    """

    def __init__(self, directory: str | Path) -> None:
        self.directory = Path(directory)
        self._list()

    def _list(self) -> None:
        self.parts, _ = parts_of(self.directory)
        if not self.parts:
            raise DataError(
                "no logged requests", file=self.directory, remedy="log some, or give their folder"
            )
        self.ids = next(iter(self.parts.values())).ids
        for path, about in self.parts.items():
            if about.ids != self.ids:
                raise DataError(
                    f"ids and time are called {about.ids} here, and {self.ids} elsewhere in the folder",
                    file=path,
                    remedy="keep the logs of two data sets in two folders",
                )

    def rows(self, since: int | None = None, until: int | None = None) -> pl.DataFrame:
        """Everything that was logged of requests in [since, until), in seconds; file by file.

        Columns: ``request``, ids and time; ``stage``, the last that returned the candidate, or exposed if it
        was shown; ``rank`` (from 0) and ``score`` in the last list; the ``sources`` that retrieved it;
        the stages ``degraded`` in the request; the pair fields handed on with it (``retrieve_score``, ...,
        null where it did not come so far); and ``weight``, for how many served rows it stands.
        """
        return self._read(lambda about: [about.sampling.weight.alias("weight")], since, until)

    def full_stage(
        self,
        events: pl.DataFrame,
        ranker: str,
        *,
        queries: Catalogue,
        items: Catalogue,
        within_s: int,
        since: int | None = None,
        until: int | None = None,
    ) -> FunnelSamples:
        """The same rows with roles for stages, what exposures brought (``gain``), and a ``teacher``.

        An event belongs to the last logged exposure of its query and item, at most ``within_s`` seconds
        before it; the best event of an exposure is its gain, 0 where none came. Left out, and counted, are
        requests whose events may still come, those with a degraded stage (the cut was not the ranker's), and
        ids that the catalogues do not hold.

        `twotower.data.full_stage.FullStageBatches` corrects for what it draws of each role, out of those that
        were logged; that a log sampled by candidate (``weight``) holds only some of them is not undone.

        Parameters
        ----------
        events
            Ids and time, called as in the log, and ``gain``, above 0 for a positive. Events that name their
            ``request`` belong to it, whatever their time; with sampled requests this alone is exact.
        ranker
            The stage whose ``<ranker>_score`` teaches: it is known of what it returned, not of the rest.
        since, until
            Seconds, of requests; none is later than ``within_s`` before the last event.

        Raises
        ------
        ConfigError
            A file was logged by a cascade without such a ranker.
        DataError
            There are no events.
        """
        query, item, time = self.ids
        if events.is_empty():
            raise DataError("no events: what was shown has no labels", remedy="log and labels must overlap")
        known = int(events.select(pl.col(time).max()).item()) - within_s + 1

        def with_roles(about: FunnelAbout) -> list[pl.Expr]:
            return [
                about.sampling.weight.alias("weight"),
                pl.col("stage").replace_strict(about.roles(ranker)),
            ]

        # the later exposures of the same items may be what an event belongs to
        rows = self._read(with_roles, since, None if until is None else until + within_s)
        rows = _with_gains(rows, events, self.ids, within_s)
        rows = rows if until is None else rows.filter(pl.col(time) < until)
        score = pl.col(f"{ranker}_score") if f"{ranker}_score" in rows.columns else pl.lit(None, pl.Float32)
        rows = rows.with_columns(score.alias("teacher"))
        notes = list[str]()

        def without(rows: pl.DataFrame, bad: pl.Expr | pl.Series, what: str, why: str) -> pl.DataFrame:
            gone = rows.filter(bad)
            if len(gone):
                count = gone["request"].n_unique() if what == "requests" else len(gone)
                notes.append(f"{count:,} {what} left out: {why}")
            return rows.filter(~bad)

        rows = without(rows, pl.col(time) >= known, "requests", "their events may still come")
        rows = without(rows, pl.col("degraded").list.len() > 0, "requests", "a stage of theirs was degraded")
        unknown = pl.Series(queries.keys(rows[query]) < 0)
        rows = without(rows, unknown, "requests", f"their {query} is not in the catalogue")
        unknown = pl.Series(items.keys(rows[item]) < 0)
        rows = without(rows, unknown, "candidates", f"their {item} is not in the catalogue")
        return FunnelSamples(rows, tuple(notes))

    def _read(
        self, more: Callable[[FunnelAbout], list[pl.Expr]], since: int | None, until: int | None
    ) -> pl.DataFrame:
        """All files below each other, with more columns, of which each file has its own."""
        time = pl.col(self.ids[2])
        while True:
            try:
                parts = []
                for path, about in self.parts.items():
                    part = pl.scan_parquet(path, glob=False)
                    part = part if since is None else part.filter(time >= since)
                    part = part if until is None else part.filter(time < until)
                    parts.append(part.with_columns(more(about)))
                return pl.concat(parts, how="diagonal_relaxed").collect()
            except (pl.exceptions.ComputeError, OSError) as error:
                if all(path.exists() for path in self.parts):
                    raise StorageError(
                        f"{self.directory}: a file is damaged ({error}); remove or restore it"
                    ) from None
            self._list()

    def __repr__(self) -> str:
        return f"Funnel({self.directory}, {len(self.parts):,} files)"


def _with_gains(
    rows: pl.DataFrame, events: pl.DataFrame, ids: tuple[str, str, str], within_s: int
) -> pl.DataFrame:
    """Gains of exposed rows by the events that belong to them; null for all others."""
    query, item, time = ids
    events = events.with_columns(pl.col(name).cast(rows.schema[name]) for name in ids)
    exposed = rows.filter(pl.col("stage") == EXPOSED)
    if "request" not in events.columns:
        events = events.sort(time).join_asof(
            exposed.select("request", *ids).sort(time),
            on=time,
            by=[query, item],
            strategy="backward",
            tolerance=within_s,
            check_sortedness=False,  # both were sorted a line above
        )
    best = events.group_by("request", item).agg(pl.col("gain").max().cast(pl.Float32))
    rows = rows.join(best, on=["request", item], how="left", maintain_order="left")
    return rows.with_columns(pl.when(pl.col("stage") == EXPOSED).then(pl.col("gain").fill_null(0.0)))
