"""From one recipe to a trained, evaluated cascade: prepare, train, evaluate, each restartable."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch

from twotower.baselines.base import Baseline
from twotower.cascade.cascade import Cascade
from twotower.cascade.own_source import OwnSource
from twotower.cascade.rank import Rank
from twotower.data.tabular import Tabular
from twotower.errors import ConfigError, MismatchError, StorageError
from twotower.evaluate.report import Report
from twotower.models.base import Model
from twotower.models.catalogue import save_model
from twotower.pipeline.assembly import Assembly
from twotower.pipeline.evaluation import Evaluation
from twotower.pipeline.inspection import read_json
from twotower.pipeline.learning import check_settings, train_model
from twotower.pipeline.mining import mined_for, mining_sources, served_by
from twotower.pipeline.order import learns_from_stages, stages_before, training_order
from twotower.pipeline.prepared import Prepared
from twotower.pipeline.recipe import Recipe
from twotower.pipeline.requirements import check_device, require_extras
from twotower.pipeline.so_far import SoFar
from twotower.pipeline.stages import ScoreRecipe
from twotower.pipeline.teaching import asked, miners, teachers
from twotower.pipeline.warm import Earlier
from twotower.pipeline.workspace import Workspace, digests_below, fingerprint, write_text
from twotower.train.events import JsonLines, Listener, all_of, silent
from twotower.train.run import FitResult

Say = Callable[[str], None]


class Pipeline:
    """A recipe, its data and a directory; every step is skipped while its inputs have not changed.

    ``Pipeline(recipe, "runs/demo").run()`` does all of it; the README holds a program that runs.
    """

    def __init__(
        self,
        recipe: Recipe,
        directory: str | Path,
        *,
        data: str | Path | None = None,
        on_error: Literal["raise", "skip"] = "raise",
        warm_from: str | Path | None = None,
        say: Say = lambda line: None,
        events: Listener = silent,
    ) -> None:
        self.recipe, self.space = recipe, Workspace(directory)
        self.path = None if data is None else Path(data)
        self.on_error, self.say, self.events = on_error, say, events
        self.earlier = Earlier.remembered(self.space) if warm_from is None else Earlier(warm_from)
        if self.earlier is not None and warm_from is not None:
            self.earlier.check_apart(self.space)
        if recipe.threads:
            torch.set_num_threads(recipe.threads)

    @classmethod
    def open(cls, directory: str | Path) -> Pipeline:
        """A run that exists, to ask or to evaluate; its data has been prepared."""
        return cls(Workspace(directory).recipe(), directory)

    def run(self) -> Report:
        """All three steps."""
        self.prepare()
        self.train()
        return self.evaluate()

    # -- prepare ---------------------------------------------------------------------------------------

    def prepare(self) -> Prepared:
        """Read, split, fit the features, and say what the split may hide."""
        require_extras(self.recipe)
        with self.space.alone():
            self._prepare()
        for note in (*self.prepared.dataset.notes, *self.prepared.features.notes):
            self.say(f"  {note}")
        self.say(str(self.prepared.leakage))
        return self.prepared

    def _prepare(self) -> None:
        mark = self._prepare_mark()
        if not self.space.done("prepare", mark, self.space.data / "dataset.json"):
            if self.earlier is not None:  # the run may have been moved to where the earlier one was
                self.earlier.check_apart(self.space)
            self.say(f"reading {self.recipe.data.reader} data" + (f" from {self.path}" if self.path else ""))
            prepared = Prepared.make(
                self.recipe, self.path, self.on_error, self.earlier.features if self.earlier else None
            )
            self.space.begin("prepare", mark, self.space.data)  # a reader that fails leaves what was there
            prepared.save(self.space.data)
            self.space.finish("prepare", mark)
            self.__dict__["prepared"] = prepared
        if self.earlier is not None:
            self.earlier.remember(self.space)
        self.space.write_recipe(self.recipe)  # what is asked of the run's models may change without its data

    @cached_property
    def prepared(self) -> Prepared:
        return Prepared.load(self.recipe, self.space.data)

    def _prepare_mark(self) -> str:
        """What the data are to be prepared from; who is not told where they are takes them as they are."""
        rules, finished = self._rules(), self.space.finished().get("prepare", "")
        if self.path is None and finished.startswith(rules):
            return finished
        data = self.recipe.data
        read = data.files(self.path) if isinstance(data, Tabular) and self.path is not None else None
        return f"{rules}-{fingerprint(self.space.digests_of(self.path, read), self.on_error)}"

    def _rules(self) -> str:
        """What the recipe says of preparing."""
        r = self.recipe
        history = None if r.history is None else r.history.plain()
        return fingerprint(
            r.data.plain(),
            r.fields,
            r.positive.plain(),
            r.split.plain(),
            history,
            self.earlier and self.earlier.digest,
        )

    def _prepared_mark(self) -> str:
        """What the prepared data were made from: what models learn, whatever has arrived since.

        Raises
        ------
        ConfigError
            They were made by another recipe, or not at all.
        """
        finished = self.space.finished().get("prepare", "")
        if not finished.startswith(self._rules()):
            raise ConfigError(
                f"{self.space.directory}: its data were not prepared by this recipe; run: twotower prepare"
            )
        return finished

    # -- train -----------------------------------------------------------------------------------------

    def train(self) -> dict[str, Model]:
        """Train the models in the order the cascade needs them; build their tables, indexes and sources.

        After each model the cascade so far is measured on validation queries, see `SoFar`.
        """
        with self.space.alone():
            return self._train()

    def _train(self) -> dict[str, Model]:
        mark = self._prepared_mark()
        require_extras(self.recipe)
        self.assembly.check_fields()
        self.prepared.values(self.prepared.dataset.events.head(0))
        self.assembly.fit_sources(mark, self._learn_from_training)
        so_far = SoFar(
            self.recipe, self.space, self._prepared, self.assembly.stage, self._train_mark, self.say
        )
        for name, about in self.recipe.models.items():
            if (
                log := getattr(about.objective, "log", None)
            ) is not None:  # grows, and is learnt from as it is now
                self.space.finish(f"log {name}", fingerprint(digests_below(Path(log.directory))))
        order, models = training_order(self.recipe), {}
        for name in order:  # before the models in front of it have taken their hours
            self.prepared.spec(self.recipe.models[name].features)
            check_settings(self.prepared, name)
            if not self._is_trained(name):  # what was trained on another machine needs no device of this one
                check_device(self.recipe, name)
        for name in order:
            models[name] = self._train_one(name)
            so_far.after(name)
        return models

    def _train_one(self, name: str) -> Model:
        step, directory = f"train {name}", self.space.model(name)
        mark = self._train_mark(name)
        if self._is_trained(name):
            try:
                model = self.model(name)
            except StorageError as error:
                self.say(f"{name}: {error}; it is trained again")
                self.space.begin(step, mark, directory)
            else:
                self.say(f"{name}: trained already")
                self.assembly.build(name, model)
                return model
        resumable = self.space.resumable(step, mark)  # else made from other inputs: start over
        self.space.begin(step, mark, *([] if resumable else [directory]))
        about = self.recipe.models[name]
        before = served_by(name, self.prepared, self.assembly)
        if before is None and learns_from_stages(self.recipe, name):
            before = Cascade(*map(self.assembly.stage, stages_before(self.recipe, name)))
        self.say(f"{name}: training {about.model} by {about.objective.kind}")
        log = JsonLines(directory / "train.jsonl")
        model, result = train_model(
            self.prepared,
            name,
            before=before,
            teacher=self._teacher(name),
            hard=mined_for(name, self.prepared, self.assembly, self.say),
            start=self._warm(name),
            directory=directory / "training",
            events=all_of(self.events, log),
        )
        save_model(model, about.model, directory)
        write_text(directory / "result.json", json.dumps(_plain(result), indent=2))
        self.space.finish(step, mark)
        self.assembly.build(name, model)
        return model

    def _is_trained(self, name: str) -> bool:
        made = (self.space.model(name) / file for file in ("model.json", "model.safetensors"))
        return self.space.done(f"train {name}", self._train_mark(name), *made)

    def _learn_from_training(self, source: Baseline | OwnSource) -> None:
        """A source learns from what models learn from, unlike a baseline of the report."""
        past = self.prepared.history(self.prepared.split.train, "positive")
        if isinstance(source, Baseline):
            source.fit(past.lists(), self.prepared.n_items, past.times)
        else:
            known = dataclasses.replace(self.prepared.dataset, events=self.prepared.split.train)
            source.fit(known, past.lists())

    def _warm(self, name: str) -> Callable[[Model], None] | None:
        if self.earlier is None:
            return None
        earlier = self.earlier

        def start(model: Model) -> None:
            about = self.recipe.models[name].model
            if name not in earlier.models:
                self.say(f"{name}: the earlier run has no such model; it starts afresh")
                return
            self.say(f"{name}: warm start\n{earlier.start(name, about, model, self.prepared.features)}")

        return start

    def _train_mark(self, name: str) -> str:
        """All that a model's parameters depend on; how deep its own stage goes is not among it."""
        about, judged = self.recipe.models[name], self.recipe.evaluate
        upstream: list[Any] = []
        if about.objective.kind not in ("pointwise", "counts"):  # the validation task chooses the epoch
            upstream += [judged.seen, judged.queries]
        if learns_from_stages(self.recipe, name):
            before = stages_before(self.recipe, name)
            upstream += [[s.decisive(), *map(self._train_mark, s.models)] for s in before]
            upstream += [term.plain() for term in self.recipe.value]
        taught = teachers(self.recipe, name)[:1]
        if taught or about.objective.kind == "full-stage":  # depths decide the roles, and what is measured
            upstream += [stage.k for stage in self.recipe.cascade if name in stage.models]
            upstream += [stage.k for stage in self.recipe.cascade[:1] if asked(self.recipe, name)]
            for teacher in taught:
                depth = [stage.k for stage in self.recipe.cascade if teacher in stage.models]
                upstream += [self._train_mark(teacher), depth]
        if self.recipe.weights is not None and about.objective.kind not in ("lists", "full-stage"):
            upstream += [self.recipe.weights.plain()]
        if (log := self.space.finished().get(f"log {name}")) is not None:
            upstream += [log]
        if self.earlier is not None:
            upstream += [digest] if (digest := self.earlier.models.get(name)) else []
        serving = miners(self.recipe, name)
        upstream += [[self._train_mark(miner) for miner in serving]] * bool(serving)
        upstream += [source.decisive() for source in mining_sources(self.recipe, name)]
        return fingerprint(self._prepared_mark(), about.plain(), self.recipe.seed, upstream)

    def check_trained(self, name: str) -> None:
        """Refuse a model that is not what the recipe would train on the prepared data.

        Raises
        ------
        ConfigError
            It is not trained, or not to the end.
        MismatchError
            The recipe, the data or what it learns from have changed since.
        """
        found = self.space.finished().get(f"train {name}")
        if found is None:
            raise ConfigError(f"{self.space.directory}: not finished: train {name}; run: twotower train")
        if found != self._train_mark(name):
            raise MismatchError(
                f"{self.space.model(name)}: the recipe or its data have changed since this was trained; "
                "run: twotower train"
            )

    def model(self, name: str) -> Model:
        return self.assembly.model(name)

    # -- the cascade -----------------------------------------------------------------------------------

    def cascade(self, *, verify: bool = True) -> Cascade | None:
        """The trained stages as one object, or None; ``verify`` compares checksums of tables and indexes."""
        return self.assembly.cascade(verify=verify)

    @cached_property
    def assembly(self) -> Assembly:
        return Assembly(self.recipe, self.space, self._prepared, self.events)

    def _prepared(self) -> Prepared:
        return self.prepared

    def _teacher(self, name: str) -> Rank | None:
        """The trained model that teaches ``name``, as the stage it is, or on a table of its own."""
        if not teachers(self.recipe, name):
            return None
        teacher = teachers(self.recipe, name)[0]
        for about in self.recipe.cascade:
            if isinstance(about, ScoreRecipe) and about.model == teacher:
                stage = self.assembly.stage(about)
                assert isinstance(stage, Rank)
                return stage
        model = self.model(teacher)
        return Rank(model, self.assembly.encode_all(teacher, model))

    # -- evaluate --------------------------------------------------------------------------------------

    def evaluate(self) -> Report:
        """The funnel and the baselines on the test part; results are written beside being returned."""
        evaluation = Evaluation(self.recipe, self.prepared, self.model, self.say)
        report = evaluation.report(self.cascade(), self.measured_mark())
        evaluation.write(report, self.space.results)
        return report

    def measured_mark(self) -> str:
        """What a report was measured of: the recipe but for its budgets, the models, the prepared data."""
        plain = self.recipe.plain()
        for limited in (plain, *plain["cascade"]):
            limited.pop("budget_ms", None)
        paths = {name: self.space.model(name) / "model.json" for name in self.recipe.models}
        digests = {name: read_json(path).get("digest") for name, path in paths.items() if path.exists()}
        return fingerprint(plain, digests, self.space.finished().get("prepare"))


def _plain(result: FitResult) -> dict[str, Any]:
    """A training result as JSON holds it; the path is the workspace's business."""
    return {k: v for k, v in dataclasses.asdict(result).items() if k != "best_path"}
