"""What the cascade is worth after each training step: the stages that stand so far, on validation queries."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import polars as pl

from twotower.cascade.cascade import Cascade
from twotower.cascade.stage import Stage
from twotower.errors import StorageError
from twotower.evaluate.experiment import run_cascade
from twotower.evaluate.task import Task
from twotower.metrics.significance import Interval, paired_bootstrap
from twotower.pipeline.order import share_taught
from twotower.pipeline.prepared import Prepared
from twotower.pipeline.recipe import Recipe
from twotower.pipeline.stages import StageRecipe
from twotower.pipeline.untaught import validation_task
from twotower.pipeline.workspace import Workspace, fingerprint, write_text

Say = Callable[[str], None]
SAMPLES = 2000
"""Bootstrap samples behind an interval."""


@dataclass(frozen=True)
class Figure:
    """A measure after a step, and how much more that is than after the step before."""

    value: float
    gained: Interval | None  # None after the first step

    def __str__(self) -> str:
        if self.gained is None:
            return f"{self.value:.4f}"
        return f"{self.value:.4f} ({self.gained.mean:+.4f} [{self.gained.low:+.4f}, {self.gained.high:+.4f}])"


class SoFar:
    """The funnel of the stages whose models are trained, measured after each step that adds one.

    Always on the same queries, of the validation part, that no ranker of the cascade learns lists from:
    neither one that is trained nor one that will be. Epochs were chosen on them too, so the figures compare
    steps and are none to report. `nDCG@10`, and the share of positives that are among the first of so many
    as the whole cascade will hand on (``R@k``), whatever the depth of the stage that is last so far.

    Values of every query are kept, so that a step that is skipped shows its figures again. ``stage`` makes a
    stage whose models are trained, ``mark`` says what a model's parameters depend on.
    """

    def __init__(
        self,
        recipe: Recipe,
        space: Workspace,
        prepared: Callable[[], Prepared],
        stage: Callable[[StageRecipe], Stage],
        mark: Callable[[str], str],
        say: Say,
    ) -> None:
        self.recipe, self.space, self.say = recipe, space, say
        self._prepared, self._stage, self._mark = prepared, stage, mark
        self._trained = set[str]()
        self._stages: tuple[StageRecipe, ...] = ()
        self._before: pl.DataFrame | None = None
        self.steps: list[dict[str, Any]] = []
        """What ``results/steps.json`` holds."""

    @property
    def measures(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(("nDCG@10", f"R@{self.recipe.cascade[-1].k}")))

    def after(self, name: str) -> None:
        """The model ``name`` is trained: measure what stands now, if that is more than before, and say it."""
        self._trained.add(name)
        stages = self._standing()
        if stages == self._stages or not self.recipe.evaluate.after_each_step:
            return
        self._stages = stages
        values = self._values(name, stages)
        if values is None:
            return
        if self._before is None:
            queries = f"{len(values):,} validation queries"
            queries += " that teach no ranker" if share_taught(self.recipe) else ""
            self.say(f"the cascade so far, on {queries}; epochs are chosen on them too")
        figures = {measure: self._figure(measure, values) for measure in self.measures}
        self._before = values
        names = [self.recipe.stage_names[self.recipe.cascade.index(stage)] for stage in stages]
        shown = ", ".join(f"{measure} {figure}" for measure, figure in figures.items())
        self.say(f"  after {name}: {' >> '.join(names)}: {shown}")
        self.steps.append(
            {
                "after": name,
                "stages": dict(zip(names, (stage.k for stage in stages), strict=True)),
                "queries": len(values),
                **{measure: asdict(figure) for measure, figure in figures.items()},
            }
        )
        write_text(self.space.results / "steps.json", json.dumps(self.steps, indent=2))

    def _standing(self) -> tuple[StageRecipe, ...]:
        """The stages, from the retriever on, that need no model which is not trained yet."""
        found = tuple(stage for stage in self.recipe.cascade if self._trained.issuperset(stage.models))
        return found if found[:1] == self.recipe.cascade[:1] else ()

    def _values(self, name: str, stages: tuple[StageRecipe, ...]) -> pl.DataFrame | None:
        """The measures of every query, kept or measured now; None where there is nobody to ask."""
        step, path = f"measure after {name}", self.space.results / "steps" / f"{name}.parquet"
        judged = self.recipe.evaluate
        mark = fingerprint(
            [[stage.decisive(), *map(self._mark, stage.models)] for stage in stages],
            [judged.seen, judged.queries, judged.after_each_step, self.measures],
            [share_taught(self.recipe), self.recipe.seed, self._mark(name)],
        )
        if self.space.done(step, mark, path):
            try:
                return pl.read_parquet(path, glob=False)
            except (OSError, pl.exceptions.PolarsError):
                self.say(f"  {path} cannot be read; measured again")
        if not len(self._task):
            return None
        self.space.begin(step, mark)
        found = run_cascade(Cascade(*map(self._stage, stages)), self._task, self.measures).stages[-1].values
        dataset = self._prepared().dataset
        ids = dataset.query_catalogue.ids(self._task.query_keys.numpy())
        frame = pl.DataFrame({dataset.schema.query: ids} | {m: found[m].numpy() for m in self.measures})
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            frame.write_parquet(path)
        except (OSError, pl.exceptions.PolarsError) as error:  # polars wraps a full disk in its own error
            raise StorageError(f"{path}: could not be written: {error}") from error
        self.space.finish(step, mark)
        return frame

    def _figure(self, measure: str, values: pl.DataFrame) -> Figure:
        now, before = values[measure].to_numpy(), self._before
        if before is None:
            return Figure(float(now.mean()), None)
        return Figure(float(now.mean()), paired_bootstrap(now, before[measure].to_numpy(), samples=SAMPLES))

    @cached_property
    def _task(self) -> Task:
        at_most = self.recipe.evaluate.after_each_step
        return validation_task(self._prepared(), "fresh", at_most, self.recipe.seed)[0]
