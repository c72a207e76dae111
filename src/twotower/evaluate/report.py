"""What a run says at the end: the funnel, the baselines beside it, and what the numbers rest on."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from twotower.evaluate.experiment import Experiment
from twotower.evaluate.latency import Latency
from twotower.metrics.ranking import average
from twotower.metrics.significance import Interval, bootstrap_mean, paired_bootstrap
from twotower.metrics.table import Cell, Column, Table


@dataclass(frozen=True)
class Report:
    """Results as data; `text` is what a terminal shows, `plain` what JSON holds."""

    name: str
    experiment: Experiment | None
    latency: Mapping[str, Latency]
    baselines: Mapping[str, Mapping[str, Tensor]]
    ratings: Mapping[str, Mapping[str, float]]  # model -> AUC, log loss, ... on labelled test events
    notes: Sequence[str]
    measures: Sequence[str]
    samples: int = 10_000
    about: Mapping[str, Any] = field(default_factory=dict)

    def funnel(self) -> Table | None:
        """One row per stage: what went in and out, what it is worth, what it costs."""
        if self.experiment is None:
            return None
        alive = self.experiment.fate.share_alive
        columns = [
            Column("stage"),
            Column("in", "mean", 0),
            Column("out", "mean", 0),
            *(Column(m) for m in self.measures),
            Column("R@k"),
            Column("alive", "%", 1),
            Column("p50", "ms", 2),
            Column("p99", "ms", 2),
            Column("bytes", "per item", 0),
        ]
        rows: list[tuple[Cell, ...]] = []
        before: float | None = None
        for number, stage in enumerate(self.experiment.stages):
            out = float(stage.output.counts.double().mean())
            time = self.latency.get(stage.name)
            rows.append(
                (
                    f"{stage.name}({stage.k})",
                    self.about.get("items") if before is None else before,
                    out,
                    *(average(stage.values[m]).value for m in self.measures),
                    average(stage.values[f"R@{stage.k}"]).value,
                    100 * average(alive[number]).value,
                    time.p50_ms if time else None,
                    time.p99_ms if time else None,
                    stage.bytes_per_item,
                )
            )
            before = out
        total = self.latency.get("total")
        if total is not None:
            blank: list[Cell] = [None] * (len(self.measures) + 4)
            rows.append(("all stages", *blank, total.p50_ms, total.p99_ms, None))
        return Table(tuple(columns), tuple(rows))

    def comparison(self) -> Table | None:
        """The stages' own orders and the baselines side by side, each with its 95% interval."""
        if self.experiment is None:
            return None
        systems = {s.name: s.values for s in self.experiment.stages} | dict(self.baselines)
        main = self.measures[0]
        last = self.experiment.stages[-1]
        rows: list[tuple[Cell, ...]] = []
        for name, values in systems.items():
            interval = bootstrap_mean(values[main], samples=self.samples)
            versus = None if name == last.name else self.difference(last.values[main], values[main])
            rows.append(
                (
                    name,
                    *(average(values[m]).value for m in self.measures),
                    f"{interval.low:.4f} .. {interval.high:.4f}",
                    "" if versus is None else _relative(versus),
                )
            )
        columns = (
            Column("system"),
            *(Column(m) for m in self.measures),
            Column(f"{main}, 95%"),
            Column(f"{last.name} against it, 95%"),
        )
        return Table(columns, tuple(rows))

    def difference(self, a: Tensor, b: Tensor) -> Interval:
        """a against b, relative to b's mean, over the same queries."""
        return paired_bootstrap(a, b, relative=True, samples=self.samples)

    def rating_table(self) -> Table | None:
        if not self.ratings:
            return None
        names = list(next(iter(self.ratings.values())))
        rows: list[tuple[Cell, ...]] = [
            (model, *(values[n] for n in names)) for model, values in self.ratings.items()
        ]
        return Table((Column("model"), *(Column(n) for n in names)), tuple(rows))

    def text(self) -> str:
        """Tables and notes for a terminal."""
        blocks = [self.name]
        for title, table in (
            ("Funnel", self.funnel()),
            ("Beside it", self.comparison()),
            ("Ratings of the labelled test events", self.rating_table()),
        ):
            if table is not None:
                blocks.append(f"{title}\n{table.text()}")
        if self.experiment is not None:
            fate = self.experiment.fate.losses()
            total = max(1, sum(fate.values()))
            blocks.append(
                "Where the held-out positives went: "
                + ", ".join(f"{where} {n:,} ({n / total:.1%})" for where, n in fate.items())
            )
        blocks.append("\n".join(f"- {note}" for note in self.notes))
        return "\n\n".join(block for block in blocks if block)

    def plain(self) -> dict[str, Any]:
        """Everything as data for JSON."""
        stages, baselines = [], {}
        if self.experiment is not None:
            alive = self.experiment.fate.share_alive
            first, last = self.experiment.stages[0], self.experiment.stages[-1]
            for number, stage in enumerate(self.experiment.stages):
                time = self.latency.get(stage.name)
                stages.append(
                    {
                        "stage": stage.name,
                        "k": stage.k,
                        "out": float(stage.output.counts.double().mean()),
                        "alive": average(alive[number]).value,
                        "bytes_per_item": stage.bytes_per_item,
                        "p50_ms": time.p50_ms if time else None,
                        "p99_ms": time.p99_ms if time else None,
                        **{name: average(v).value for name, v in stage.values.items()},
                    }
                )
            for name, values in self.baselines.items():
                baselines[name] = {m: average(v).value for m, v in values.items()}
        plain: dict[str, Any] = {
            "name": self.name,
            "about": dict(self.about),
            "stages": stages,
            "baselines": baselines,
            "ratings": {model: dict(values) for model, values in self.ratings.items()},
            "notes": list(self.notes),
        }
        if self.experiment is not None and len(stages) > 1:
            main = self.measures[0]
            gain = self.difference(last.values[main], first.values[main])
            plain["last_against_first"] = {
                "measure": main,
                "relative_difference": gain.mean,
                "low": gain.low,
                "high": gain.high,
            }
            plain["fate"] = self.experiment.fate.losses()
        finite: dict[str, Any] = _finite(plain)
        return finite


def _relative(interval: Interval) -> str:
    """Unknown where some sample of the other system's values has the mean 0."""
    unknown = math.isnan(interval.low) or math.isnan(interval.high)
    return "-" if unknown else f"{interval.low:+.1%} .. {interval.high:+.1%}"


def _finite(plain: Any) -> Any:
    """NaN and infinities as null: JSON has no other word for them."""
    if isinstance(plain, dict):
        return {name: _finite(value) for name, value in plain.items()}
    if isinstance(plain, list):
        return [_finite(value) for value in plain]
    return None if isinstance(plain, float) and not math.isfinite(plain) else plain
