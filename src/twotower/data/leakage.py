"""What a split gives away, and what it asks for: printed before anyone reads a metric of it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

import polars as pl

from twotower.data.positives import Positive
from twotower.data.splits import PARTS, Split
from twotower.schema import TIME_EXACT


@dataclass(frozen=True)
class PartReport:
    """Counts of one part; None where the question makes no sense (no time, or asked of train itself)."""

    rows: int
    queries: int
    items: int
    positives: int
    cold_queries: int | None  # of its queries, those without a training event
    cold_items: int | None
    cold_query_rows: int | None  # rows of such queries
    cold_item_rows: int | None  # rows of such items: by the id alone nobody can find them
    seen_pairs: int | None  # rows whose (query, item) is in train too
    first_time: float | None
    last_time: float | None
    future_in_train: int | None  # training events later than the first of this part
    overlap_rows: int | None  # rows not later than the last training event
    tied: int | None  # rows with the same time as another event of their query
    decided_by_row: float | None  # rows that a random order of tied events would replace, expected
    estimated_times: int | None

    def lines(self) -> list[tuple[str, str]]:
        """(measure, text) in the order of the printed table."""
        return [
            ("rows", f"{self.rows:,}"),
            ("queries", f"{self.queries:,}"),
            ("items", f"{self.items:,}"),
            ("positives", _count(self.positives, self.rows)),
            ("cold queries", _count(self.cold_queries, self.queries)),
            ("cold items", _count(self.cold_items, self.items)),
            ("rows of cold queries", _count(self.cold_query_rows, self.rows)),
            ("rows of cold items", _count(self.cold_item_rows, self.rows)),
            ("pairs also in train", _count(self.seen_pairs, self.rows)),
            ("first time", _time(self.first_time)),
            ("last time", _time(self.last_time)),
            ("later events in train", "-" if self.future_in_train is None else f"{self.future_in_train:,}"),
            ("rows before train ends", _count(self.overlap_rows, self.rows)),
            ("rows with tied time", _count(self.tied, self.rows)),
            ("decided by the row rule", _count(self.decided_by_row, self.rows)),
            ("estimated times", _count(self.estimated_times, self.rows)),
        ]


@dataclass(frozen=True)
class LeakageReport:
    """A `PartReport` for each part of a split; ``str`` is an aligned table, `plain` data for JSON."""

    kind: str
    parts: dict[str, PartReport]
    notes: tuple[str, ...]

    @classmethod
    def of(cls, split: Split, positive: Positive | None = None) -> LeakageReport:
        """Count; ``positive`` says which events are (default: all)."""
        rule = positive or Positive()
        ties = _ties(split, split.schema.time) if split.schema.time else None
        parts = {name: _report(name, split, rule, ties) for name in PARTS}
        given = sum(len(frame) for frame in split.fold_in.values())
        notes = (f"{given:,} events of held-out queries given as history",) if given else ()
        return cls(split.config.kind, parts, (*split.notes, *notes))

    def plain(self) -> dict[str, Any]:
        """Numbers only, as JSON holds them."""
        parts = {name: asdict(part) for name, part in self.parts.items()}
        return {"split": self.kind, "parts": parts, "notes": list(self.notes)}

    def __str__(self) -> str:
        columns = [part.lines() for part in self.parts.values()]
        table = [[self.kind, *self.parts]]
        table += [[lines[0][0], *(text for _, text in lines)] for lines in zip(*columns, strict=True)]
        widths = [max(len(row[place]) for row in table) for place in range(len(table[0]))]
        text = ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in table]
        return "\n".join([*text, *self.notes])


def _report(name: str, split: Split, positive: Positive, ties: pl.DataFrame | None) -> PartReport:
    query, item, time = split.schema.query, split.schema.item, split.schema.time
    part, train, held_out = split.part(name), split.train, name != "train"
    times = part[time] if time and len(part) else None
    train_times = train[time] if time and held_out else None
    cold = {key: part.join(train, on=key, how="anti")[key] for key in (query, item)} if held_out else {}
    tied = ties.filter(part=name) if ties is not None else None
    return PartReport(
        rows=len(part),
        queries=part[query].n_unique(),
        items=part[item].n_unique(),
        positives=int(positive.mask(part).sum()),
        cold_queries=cold[query].n_unique() if cold else None,
        cold_items=cold[item].n_unique() if cold else None,
        cold_query_rows=len(cold[query]) if cold else None,
        cold_item_rows=len(cold[item]) if cold else None,
        seen_pairs=len(part.join(train, on=[query, item], how="semi")) if held_out else None,
        first_time=None if times is None else times[0],
        last_time=None if times is None else times[-1],
        future_in_train=None if times is None or train_times is None else int((train_times > times[0]).sum()),
        overlap_rows=None if times is None or train_times is None else int((times <= train_times[-1]).sum()),
        tied=None if tied is None else int(tied["tied"].sum()),
        decided_by_row=_decided(split, tied) if held_out and tied is not None else None,
        estimated_times=int((~part[TIME_EXACT]).sum()) if TIME_EXACT in part.columns else None,
    )


def _ties(split: Split, time: str) -> pl.DataFrame:
    """For each part and (query, time): rows of the part, of all parts, and how many are tied."""
    frames = {name: split.part(name) for name in PARTS}
    frames |= {f"given for {name}": frame for name, frame in split.fold_in.items()}
    rows = pl.concat(
        frame.select(query=split.schema.query, time=time).with_columns(part=pl.lit(name))
        for name, frame in frames.items()
    )
    groups = rows.group_by("query", "time", "part").len("mine")
    groups = groups.with_columns(all=pl.col("mine").sum().over("query", "time"))
    return groups.with_columns(tied=pl.when(pl.col("all") > 1).then("mine").otherwise(0))


def _decided(split: Split, ties: pl.DataFrame) -> float:
    """Of m tied events of which k are in the part, a random order would replace k (1 - k/m)."""
    if split.config.kind not in ("leave-last-out", "by-user"):
        return 0.0  # these splits never look at the row
    replaced = pl.col("mine") * (1 - pl.col("mine") / pl.col("all"))
    return float(ties.select(replaced.sum()).item())


def _count(count: float | None, of: int) -> str:
    if count is None:
        return "-"
    return f"{count:,.0f} ({count / of:.1%})" if of else f"{count:,.0f}"


def _time(time: float | None) -> str:
    if time is None:
        return "-"
    if 1e8 <= time < 1e11:  # seconds since 1970, from 1973 on; other clocks are printed as they are
        return datetime.fromtimestamp(time, UTC).strftime("%Y-%m-%d %H:%M:%S")
    return f"{time:g}"
