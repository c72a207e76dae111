"""The funnel and the baselines of a trained run on its test part."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import polars as pl
from torch import Tensor

from twotower.baselines.catalogue import make_baseline
from twotower.cascade.cascade import Cascade
from twotower.errors import StorageError
from twotower.evaluate.experiment import run_cascade, run_source
from twotower.evaluate.latency import measure_latency
from twotower.evaluate.report import Report
from twotower.evaluate.task import Task
from twotower.evaluate.trec import write_qrels, write_run
from twotower.models.base import Model
from twotower.pipeline.prepared import Prepared
from twotower.pipeline.recipe import Recipe
from twotower.pipeline.teaching import teachers
from twotower.pipeline.validation import LabelledEvents
from twotower.pipeline.workspace import write_text


class Evaluation:
    """What is asked of the test part, and of whom; ``model`` gives a trained model of the recipe by name."""

    def __init__(
        self, recipe: Recipe, prepared: Prepared, model: Callable[[str], Model], say: Callable[[str], None]
    ) -> None:
        self.recipe, self.prepared, self.model, self.say = recipe, prepared, model, say

    def report(self, cascade: Cascade | None, measured: str) -> Report:
        """Everything measured, and the notes that say how; ``measured`` marks what it was measured of."""
        prepared, option = self.prepared, self.recipe.evaluate
        experiment, latency, baselines = None, {}, {}
        notes = [self._split_note()]
        if cascade is not None:
            task = prepared.task("test")
            self.say(f"evaluating {cascade} on {task}")
            notes.append(str(task))
            experiment = run_cascade(cascade, task, option.measures)
            timed = cascade.within(cascade.budget)  # with counts of its own
            latency = measure_latency(timed, task, requests=option.requests_timed)
            baselines = self._baselines(task)
            notes.append(f"time: {option.requests_timed} single requests on one thread")
            if timed.degraded:
                counts = ", ".join(f"{name} {count}" for name, count in timed.degraded.items())
                notes.append(f"out of time in some of them, and left out there: {counts}")
            notes.append(self._fitted_note())
            notes.append(f"intervals: paired bootstrap over queries, {option.samples:,} samples")
        ratings = self._ratings()
        notes.append(f"seed {self.recipe.seed}")
        return Report(
            self.recipe.name,
            experiment,
            latency,
            baselines,
            ratings,
            notes,
            option.measures,
            option.samples,
            {
                "items": prepared.n_items,
                "queries": 0 if experiment is None else len(experiment.task),
                "measured": measured,
            },
        )

    def _split_note(self) -> str:
        """The protocol every number rests on, and how much of the test part the tie rule decided."""
        test = self.prepared.leakage.parts["test"]
        decided = (
            f"; the row rule decides {test.decided_by_row:,.0f} test rows" if test.decided_by_row else ""
        )
        return f"split {self.recipe.split.kind}; order of events (time, row){decided}; seen items are masked"

    def _fitted_note(self) -> str:
        """Which events each system has seen: baselines and models are not fitted on the same."""
        by_lists = [name for name, model in self.recipe.models.items() if model.objective.kind == "lists"]
        taught = [name for name in self.recipe.models if teachers(self.recipe, name)]
        but = f", but {', '.join(by_lists)} on lists served to validation queries" if by_lists else " only"
        but += f", which {', '.join(taught)} learnt from as from a teacher" if by_lists and taught else ""
        return f"baselines are fitted on every event before the test part, models on the training part{but}"

    def _baselines(self, task: Task) -> dict[str, dict[str, Tensor]]:
        if not self.recipe.baselines:
            return {}
        prepared = self.prepared
        history = prepared.history(prepared.split.history("test"), "positive")
        k = self.recipe.cascade[0].k
        found = {}
        for about in self.recipe.baselines:
            label, baseline = make_baseline(about.name, about.options)
            self.say(f"baseline {label}")
            baseline.fit(history.lists(), prepared.n_items, history.times)
            found[label] = run_source(baseline, task, self.recipe.evaluate.measures, k)
        return found

    def _ratings(self) -> dict[str, dict[str, float]]:
        """Rating measures of every model that was trained on labels."""
        pointwise = [n for n, m in self.recipe.models.items() if m.objective.kind in ("pointwise", "counts")]
        if not pointwise:
            return {}
        split = self.prepared.split
        events = LabelledEvents(self.prepared, split.test, split.history("test"))
        return {name: events.measure(self.model(name)) for name in pointwise}

    def write(self, report: Report, results: Path) -> None:
        """As JSON and text, the measures of every query as Parquet, and for `trec_eval` run and judgements.

        Raises
        ------
        StorageError
            The disk is full or refuses.
        """
        write_text(results / "report.json", json.dumps(report.plain(), indent=2))
        write_text(results / "report.txt", report.text() + "\n")
        if report.experiment is None:
            return
        task, last = report.experiment.task, report.experiment.stages[-1]
        dataset = self.prepared.dataset
        ids = dataset.query_catalogue.ids(task.query_keys.numpy())
        columns = {
            f"{stage.name} {name}": values.numpy()
            for stage in report.experiment.stages
            for name, values in stage.values.items()
        } | {
            f"{name} {measure}": values.numpy()
            for name, found in report.baselines.items()
            for measure, values in found.items()
        }
        try:
            pl.DataFrame({dataset.schema.query: ids, **columns}).write_parquet(results / "per_query.parquet")
        except (OSError, pl.exceptions.PolarsError) as error:  # polars wraps a full disk in its own error
            raise StorageError(f"{results}: could not be written: {error}") from error
        words = ids.cast(pl.String)
        write_run(results / "run.trec", words, last.output, dataset.item_catalogue, self.recipe.name)
        write_qrels(results / "qrels.trec", words, task.relevant, dataset.item_catalogue, task.gains)
