"""The funnel report of a finished run: measure everything once, then write the page."""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping
from pathlib import Path

import polars as pl
import torch

from twotower import __version__
from twotower.cascade.cascade import Cascade
from twotower.data.atomic import replacing
from twotower.data.splits import HeldOut
from twotower.errors import ConfigError, DataError, StorageError
from twotower.evaluate.experiment import Experiment, request_of, run_cascade
from twotower.evaluate.funnel_facts import Calibration, FunnelFacts, Timing
from twotower.evaluate.funnel_page import funnel_page
from twotower.evaluate.latency import measure_latency
from twotower.evaluate.places import Places, find_places
from twotower.evaluate.reliability import reliability
from twotower.evaluate.shown import Place, ShownItem, ShownRequest, ShownStep, choose_requests
from twotower.evaluate.slices import (
    Slice,
    groups_of_items,
    groups_of_queries,
    slice_items,
    slice_queries,
)
from twotower.evaluate.task import Task
from twotower.metrics.rating import auc, calibration_error
from twotower.pipeline.known_by import known_by
from twotower.pipeline.pipeline import Pipeline
from twotower.pipeline.prepared import Prepared
from twotower.pipeline.validation import LabelledEvents

Say = Callable[[str], None]

_DELIVERED = 10
"""Items shown of each request, from the top."""
_SLICE_SAMPLES = 2000
"""Bootstrap samples behind the interval of a slice at most: there are many slices."""
_PAST = 5
"""Items of a query's history that are shown, from the latest."""


def write_funnel_report(
    run: str | Path,
    out: str | Path,
    *,
    part: HeldOut = "test",
    requests: int = 8,
    say: Say = lambda line: None,
) -> Path:
    """Measure the trained cascade of ``run`` on a part of its data, and write ``out``, one HTML file.

    Raises
    ------
    ConfigError
        The run has no cascade, or ``requests`` is negative.
    DataError
        Nothing is held out in the part.
    StorageError
        There is no finished run, or the file cannot be written.
    """
    pipeline = Pipeline.open(run)
    page = funnel_page(funnel_facts(pipeline, part=part, requests=requests, say=say))
    path = Path(out)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"{path}: its folder could not be made ({error.strerror or error})") from error
    with replacing(path) as partial:
        partial.write_text(page, encoding="utf-8")
    return path


def funnel_facts(
    pipeline: Pipeline, *, part: HeldOut = "test", requests: int = 8, say: Say = lambda line: None
) -> FunnelFacts:
    """All that the page shows; see `write_funnel_report`."""
    if requests < 0:
        raise ConfigError(f"requests is {requests}; expected how many to show, 0 or more")
    cascade = pipeline.cascade()
    if cascade is None:
        raise ConfigError(
            f"{pipeline.space.directory}: the recipe has no cascade, so there is no funnel to report"
        )
    prepared, option = pipeline.prepared, pipeline.recipe.evaluate
    task = prepared.task(part)
    say(f"evaluating {cascade} on {task}")
    experiment = run_cascade(cascade.within(None), task, option.measures)
    say("looking below the cut of every stage")
    places = find_places(cascade, experiment)
    say(f"timing {option.requests_timed} requests")
    timing = _timing(cascade, task, option.requests_timed)
    say("slicing")
    calibrations, uncalibrated = _calibrations(pipeline, part)
    draw = torch.Generator().manual_seed(pipeline.recipe.seed)
    rows = choose_requests(places.fate, requests, draw).tolist()
    shown = _Shown(prepared, cascade, experiment, places)
    return FunnelFacts(
        name=pipeline.recipe.name,
        part=part,
        n_items=prepared.n_items,
        measures=option.measures,
        experiment=experiment,
        places=places,
        timing=timing,
        slices=_slices(prepared, experiment, option.measures[0], min(option.samples, _SLICE_SAMPLES)),
        calibrations=calibrations,
        uncalibrated=uncalibrated,
        requests=[shown.request(row) for row in rows],
        notes=_notes(pipeline, task, part),
        samples=option.samples,
    )


def _timing(cascade: Cascade, task: Task, requests: int) -> Timing:
    watched = cascade.within(cascade.budget)
    latency = measure_latency(watched, task, requests=requests)
    limits = [f"{name} {limit:g} ms" for name, limit in cascade.budget.stages.items()]
    if cascade.budget.total_ms is not None:
        limits.append(f"the whole request {cascade.budget.total_ms:g} ms")
    budget = f"The budget: {', '.join(limits)}." if limits else ""
    return Timing(latency, watched.asked, watched.degraded, watched.overran, budget)


def _slices(prepared: Prepared, experiment: Experiment, measure: str, samples: int) -> tuple[Slice, ...]:
    past = groups_of_queries(experiment.task.history.lengths)
    items = groups_of_items(prepared.item_counts)
    return (
        *slice_queries(experiment, past, measure, samples),
        *slice_items(experiment, items, prepared.n_items, samples),
    )


def _calibrations(pipeline: Pipeline, part: HeldOut) -> tuple[list[Calibration], str]:
    """Every model that learns labels, on the labelled events of the part; or why there is none."""
    models = pipeline.recipe.models.items()
    names = [name for name, model in models if model.objective.kind in ("pointwise", "counts")]
    if not names:
        return [], "No model of this recipe learns labels one by one (objective pointwise or counts)."
    split = pipeline.prepared.split
    try:
        events = LabelledEvents(pipeline.prepared, split.part(part), split.history(part))
    except DataError as error:
        return [], f"The labels of the {part} part cannot be used: {error}."
    found = []
    for name in names:
        logits = events.scores(pipeline.model(name))
        probs = logits.sigmoid()
        bins = reliability(probs, events.labels)
        gap = calibration_error(probs, events.labels)
        found.append(Calibration(name, bins, gap, auc(logits, events.labels), len(events.labels)))
    return found, ""


def _notes(pipeline: Pipeline, task: Task, part: HeldOut) -> list[str]:
    recipe, dataset = pipeline.recipe, pipeline.prepared.dataset
    notes = [
        f"Data: {dataset}.",
        f"Split {recipe.split.kind}; events in the order (time, row); what was seen before is masked.",
        f"The {part} part: {task}.",
        "Stages are judged without a budget; times are taken under it.",
        f"Intervals: 95%, bootstrap over requests, {recipe.evaluate.samples:,} samples; "
        f"those of slices at most {_SLICE_SAMPLES:,}.",
        f"Times: this machine ({platform.machine()}), one thread.",
        f"Recipe {recipe.name}, seed {recipe.seed}, twotower {__version__}.",
    ]
    if part == "valid":
        notes.insert(3, "Models were chosen on this part, and some learn from its lists: it flatters them.")
    return notes


class _Shown:
    """Looks up what a person wants to know of single requests."""

    def __init__(self, prepared: Prepared, cascade: Cascade, experiment: Experiment, places: Places) -> None:
        self.prepared, self.cascade, self.experiment, self.places = prepared, cascade, experiment, places
        self.dataset = prepared.dataset
        self.fate = places.fate
        schema = self.dataset.schema
        others = [c for c in schema.side_columns("item") if c != schema.item]
        self.columns = known_by(self.dataset) or others[:3]

    def request(self, row: int) -> ShownRequest:
        task, schema = self.experiment.task, self.dataset.schema
        query = self.dataset.queries.row(int(task.query_keys[row]), named=True)
        past = task.history[row][-_PAST:].flip(0).tolist()
        start, stop = task.relevant.offsets[row : row + 2].tolist()
        alive = self.fate.alive[-1, start:stop]
        wanted = task.relevant.values[start:stop].tolist()
        last = self.experiment.stages[-1].output
        delivered = last.keys[row][last.mask[row]][:_DELIVERED].tolist()
        return ShownRequest(
            who=f"{schema.query} {query.pop(schema.query)}",
            about=tuple((name, _words(value)) for name, value in query.items() if value is not None),
            past=tuple(self._text(key) for key in past),
            relevant=len(wanted),
            found=int(alive.sum()),
            delivered=tuple(self._item(row, key, key in wanted) for key in delivered),
            missed=tuple(
                self._item(row, wanted[i], True, start + i) for i in (~alive).nonzero()[:, 0].tolist()
            ),
            steps=self._steps(row),
        )

    def _item(self, row: int, key: int, relevant: bool, number: int | None = None) -> ShownItem:
        """``number`` is that of a relevant item that was lost, in the order of the task."""
        places: list[Place | None] = []
        for stage, result in enumerate(self.experiment.stages):
            at = (result.output.keys[row] == key).nonzero()[:, 0].tolist()
            if at:
                places.append(Place(at[0] + 1, float(result.output.scores[row, at[0]])))
            else:
                below = 0 if number is None else int(self.places.ranks[stage, number])
                places.append(Place(below, None) if below else None)
        lost = None if number is None else self.places.stages[int(self.fate.lost_at[number])]
        name = str(self.dataset.item_catalogue.ids(torch.tensor([key]).numpy())[0])
        return ShownItem(name, self._text(key), relevant, tuple(places), lost)

    def _text(self, key: int) -> str:
        values: Mapping[str, object] = self.dataset.items.row(key, named=True)
        words = [_words(values[name]) for name in self.columns if values[name] is not None]
        return " · ".join(words) or f"{self.dataset.schema.item} {values[self.dataset.schema.item]}"

    def _steps(self, row: int) -> tuple[ShownStep, ...]:
        _, trace = self.cascade(request_of(self.experiment.task).rows(row, row + 1))
        return tuple(ShownStep(s.stage, s.n_in, s.n_out, s.took_ms, s.degraded, s.late) for s in trace.steps)


def _words(value: object) -> str:
    """A cell of a table for people; a list is its values."""
    if isinstance(value, pl.Series | list | tuple):
        return ", ".join(map(_words, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
