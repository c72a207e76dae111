"""The recipe: one YAML file that says what a run does. `Recipe` is its grammar."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field as Option
from pydantic import PositiveFloat, field_validator, model_validator

from twotower.baselines.catalogue import check_options, label_of
from twotower.config import Config, load_yaml, nearest
from twotower.data.positives import Positive
from twotower.data.readers import DataConfig
from twotower.data.splits import SplitConfig
from twotower.data.values import ValueTerm
from twotower.data.weights import SampleWeights
from twotower.index.build import check_fits
from twotower.metrics.ranking import Measure
from twotower.models.catalogue import model_class
from twotower.pipeline.requirements import check_objective, check_positive
from twotower.pipeline.stages import (
    ORDER,
    BaselineName,
    PlanRecipe,
    RetrieveRecipe,
    ScoreRecipe,
    SourceRecipe,
    StageForm,
    StageRecipe,
    names_of,
)
from twotower.pipeline.teaching import asked, miners, teachers
from twotower.train.objectives import ObjectiveConfig
from twotower.train.settings import TrainSettings

ModelName = Annotated[str, Option(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
"""What the folders of a model are called."""


class HistoryOption(Config):
    """The query's earlier items as one more query column."""

    name: str = "history"
    max_length: int = Option(50, ge=1)
    events: Literal["positive", "all"] = Option("positive", description="which events make a history")
    only: str | None = Option(
        None,
        description="a yes/no event column, such as time_exact; where it says no, an event is no history",
    )
    strict_time: bool = Option(
        False, description="leave out what happened at the target's own time, whatever the row order says"
    )
    elapsed: bool = Option(
        False,
        description="also the seconds each event was the last one; a model's history must ask for it too",
    )


class ModelRecipe(Config):
    """One model: its class, its config, what it learns from and how."""

    model: str = Option(description="a name of the catalogue, or package.module:Class for your own")
    config: dict[str, Any] = Option(
        default_factory=dict, description="checked against the model's own config"
    )
    features: tuple[str, ...] | None = Option(None, description="fields the model reads; default all")
    batches: Literal["auto", "events", "sequences"] = Option(
        "auto", description="softmax objectives: single events, or whole histories; auto: as the model reads"
    )
    horizon: int = Option(
        1, ge=1, description="sequences: the target is one of so many next events, drawn anew each epoch"
    )
    objective: ObjectiveConfig
    train: TrainSettings = TrainSettings()

    @field_validator("train")
    @classmethod
    def _one_seed(cls, train: TrainSettings) -> TrainSettings:
        if train.seed:
            raise ValueError("models share the recipe's own seed: set seed at the top level")
        return train


class BaselineRecipe(Config):
    """A retriever without training, evaluated beside the cascade."""

    name: BaselineName
    options: dict[str, Any] = Option(default_factory=dict)


class EvaluateOption(Config):
    measures: tuple[str, ...] = Option(("nDCG@10", "R@10"), min_length=1)
    seen: Literal["events", "positive"] = Option(
        "events", description="what counts as seen: any event, or (impressions) only positive ones"
    )
    queries: Literal["all", "warm"] = Option(
        "all", description="warm: only queries with a positive event before the held-out part"
    )
    requests_timed: int = Option(200, ge=1, description="single requests behind p50 and p99")
    samples: int = Option(10_000, ge=100, description="bootstrap samples behind each interval")
    after_each_step: int = Option(
        2000,
        ge=0,
        description="validation queries the cascade is measured on after each model; 0: none",
    )

    @field_validator("measures")
    @classmethod
    def _printed(cls, measures: tuple[str, ...]) -> tuple[str, ...]:
        """The names under which results are printed: ndcg@10 is nDCG@10."""
        return tuple(dict.fromkeys(str(Measure.parse(measure)) for measure in measures))


class Recipe(Config):
    """All settings of a run. Everything has a default but the name, the data and the models."""

    name: str = Option(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    data: DataConfig
    fields: dict[str, dict[str, Any]] = Option(
        default_factory=dict, description="changes to the reader's schema, such as movie: {dropout: 0.1}"
    )
    positive: Positive = Positive()
    value: tuple[ValueTerm, ...] = Option(
        (), description="gains of list objectives as a sum over labels; empty: 1 for a positive"
    )
    weights: SampleWeights | None = Option(
        None,
        description="how much training events count, by a column; not read by lists and full-stage",
    )
    split: SplitConfig = SplitConfig()
    history: HistoryOption | None = HistoryOption()
    models: dict[ModelName, ModelRecipe] = Option(
        default_factory=dict, description="none where the sources of the cascade need none"
    )
    cascade: tuple[StageRecipe, ...] = ()
    budget_ms: PositiveFloat | None = Option(
        None,
        description="of a served request until its last stage ends; a stage that would be later is left out",
    )
    plan: PlanRecipe | None = Option(
        None, description="depths and storage for serving; nothing is trained anew"
    )
    baselines: tuple[BaselineRecipe, ...] = ()
    evaluate: EvaluateOption = EvaluateOption()
    seed: int = Option(0, ge=0, description="initialisation and batch order; never the split")
    threads: int = Option(0, ge=0, description="CPU threads of torch; 0 leaves torch's default")

    @model_validator(mode="after")
    def _check(self) -> Recipe:
        if not self.models and not self.cascade:
            raise ValueError("a recipe names models, or a cascade whose sources need none")
        check_positive(self)
        # options that later steps read: found wrong now, not when the first model has been trained
        for name, model in self.models.items():
            model_class(model.model)[1].parse(model.config, where=f"models.{name}.config")
        for baseline in self.baselines:
            check_options(baseline.name, baseline.options)
        ranks = [stage.model for stage in self.cascade if isinstance(stage, ScoreRecipe)]
        if len(set(ranks)) < len(ranks):
            raise ValueError(f"a model ranks in more than one stage of the cascade: {ranks}")
        for number, stage in enumerate(self.cascade):
            for name in stage.models:
                if name not in self.models:
                    raise ValueError(
                        f"stage {number} names the model {name!r}; models: {sorted(self.models)}"
                    )
            if isinstance(stage, RetrieveRecipe) != (number == 0):
                raise ValueError("a cascade starts with its one retrieve stage; every later stage ranks")
            self._check_place(number, stage)
        self._check_retrievers()
        names = [*self.stage_names, *(s.name for s in self.sources)]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"stages and sources need distinct names, these occur twice: {twice}; set name:")
        both = sorted({*self.stage_names} & {label_of(b.name, b.options) for b in self.baselines})
        if both:  # one would take the other's row in the report
            raise ValueError(f"stages need other names than baselines, these are both: {both}; set name:")
        self._check_plan()
        for name, model in self.models.items():
            in_cascade = [n for n, stage in enumerate(self.cascade) if name in stage.models]
            alone = model.objective.kind in ("lists", "full-stage") and not asked(self, name)
            if alone and in_cascade[:1] in ([], [0]):
                raise ValueError(f"model {name!r} learns from the lists of the stage before it, and has none")
            if model_class(model.model)[0].kind == "list" and model.objective.kind != "lists":
                raise ValueError(
                    f"model {name!r}: {model.model} scores whole lists; its objective is lists, "
                    f"not {model.objective.kind}"
                )
            teachers(self, name)
            miners(self, name)
        self._check_pairs()
        for name in self.models:
            check_objective(self, name)
        return self

    def _check_pairs(self) -> None:
        """A model reads only what earlier stages hand on, and already hand on when it is trained."""
        for name in dict.fromkeys(name for stage in self.cascade for name in stage.models):
            first, teaches = next(
                (number, name not in stage.models)
                for number, stage in enumerate(self.cascade)
                if name in stage.models or any(name in teachers(self, model) for model in stage.models)
            )
            known = self.handed_on(first)
            for field in self.pair_of(name):
                if field not in known:
                    when = f", as it teaches stage {self.stage_names[first]!r}" if teaches else ""
                    raise ValueError(
                        f"model {name!r} reads the pair field {field!r}, which no stage before it hands on "
                        f"when it is trained{when}{nearest(field, known)}; handed on: "
                        f"{', '.join(known) or 'nothing'}"
                    )

    def pair_of(self, name: str) -> tuple[str, ...]:
        """The pair fields that a model reads."""
        config = model_class(self.models[name].model)[1].parse(self.models[name].config)
        return tuple(getattr(config, "pair", ()))

    def handed_on(self, number: int) -> list[str]:
        """The pair fields that the first ``number`` stages hand on."""
        sources = [source.name for source in self.sources] if number else []
        names = [*self.stage_names[:number], *sources]
        scores = [f"{name}_{what}" for name in names for what in ("score", "rank")]
        return scores + [f"from_{name}" for name in sources]

    def _check_retrievers(self) -> None:
        """An index can find the items of what retrieves, and is one for what is kept of them."""
        first = self.cascade[:1]
        for about in (*first, *self.sources):
            if not isinstance(about, RetrieveRecipe | SourceRecipe):
                continue
            if about.model is not None:
                cls = model_class(self.models[about.model].model)[0]
                if cls.searched() is None:
                    raise ValueError(
                        f"model {about.model!r} cannot retrieve, it is {cls.kind}: a dot model can, or a "
                        "late one that is MaxSim over tokens"
                    )
                check_fits(about.index, many=cls.searched() == "tokens")
            elif isinstance(about, SourceRecipe) and about.similar is not None:
                check_fits(about.index, many=False)
        indexes: dict[str, Config] = {}
        for about in (*first, *self.sources):
            if not isinstance(about, RetrieveRecipe | SourceRecipe) or about.model is None:
                continue
            if indexes.setdefault(about.model, about.index) != about.index:
                raise ValueError(f"model {about.model!r} has two indexes; it is searched in one way only")

    def _check_place(self, number: int, stage: StageForm) -> None:
        """Stages stand in their order, and whole lists are scored behind a ranker only."""
        kinds = [s.stage for s in self.cascade]
        kind, earlier = kinds[number], kinds[:number]
        later = [] if kind == "filter" else [n for n in earlier if ORDER.index(n) > ORDER.index(kind)]
        if later:
            raise ValueError(
                f"stage {number} is a {kind} stage, but a {later[0]} stage stands before it; "
                f"the order is {', '.join(ORDER)}"
            )
        if not isinstance(stage, ScoreRecipe):
            return
        about = self.models[stage.model].model
        of_model = model_class(about)[0].kind
        if kind == "rerank" and ("rank" not in earlier or of_model not in ("list", "joint")):
            raise ValueError(
                f"stage {number} reranks what a rank stage hands on, by a list or joint model; "
                f"found {about} ({of_model}) behind {earlier}"
            )
        if of_model == "list" and kind != "rerank":
            raise ValueError(
                f"stage {number}: {about} scores whole lists, so it stands in a rerank stage, not in {kind}"
            )

    def model_kind(self, name: str) -> str:
        """dot, late, joint or list."""
        return model_class(self.models[name].model)[0].kind

    @property
    def stage_names(self) -> tuple[str, ...]:
        return names_of(self.cascade)

    @property
    def sources(self) -> tuple[SourceRecipe, ...]:
        """Of the first stage, where it has several."""
        first = self.cascade[:1]
        return first[0].sources if first and isinstance(first[0], RetrieveRecipe) else ()

    def _check_plan(self) -> None:
        """A plan names stages and sources of this cascade, and storage depths that models of stages offer."""
        plan = self.plan or PlanRecipe()
        stages = dict(zip(self.stage_names, self.cascade, strict=True))
        known = [*stages, *(source.name for source in self.sources)]
        for name in plan.depths:
            if name not in known:
                raise ValueError(f"plan: no stage or source is called {name!r}{nearest(name, known)}")
        for name in plan.stores:
            if name not in stages:
                raise ValueError(f"plan: no stage is called {name!r}{nearest(name, stages)}")
        for name, store in plan.stores.items():
            stage = stages[name]
            offered = (
                model_class(self.models[stage.model].model)[0].stores
                if isinstance(stage, ScoreRecipe)
                else ()
            )
            if store not in offered:
                raise ValueError(f"plan: stage {name!r} cannot store {store!r}; it offers: {list(offered)}")

    @classmethod
    def load(cls, path: str | Path) -> Recipe:
        """Read and check a recipe; an unknown key is an error that names the nearest known one."""
        return cls.parse(load_yaml(path), where=str(path))
