"""The stages of a cascade, as a recipe describes them."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field as Option
from pydantic import PositiveFloat, PositiveInt, model_validator

from twotower.baselines.catalogue import check_options
from twotower.cascade.diversify import Diversity, Mmr
from twotower.cascade.fusion import AnyFusion, ReciprocalRank
from twotower.cascade.own_source import check_source
from twotower.cascade.predicates import Predicate
from twotower.cascade.ruleset import Rule
from twotower.config import Config
from twotower.index.build import AnyIndex, IndexConfig
from twotower.pipeline.lexical import Lexical

BaselineName = Literal["popularity", "recent-popularity", "item-knn", "ease", "ials"]
ORDER = ("retrieve", "filter", "prerank", "rank", "rerank", "diversify", "rules")
"""How stages may stand behind each other; a filter may stand anywhere behind the first."""


class StageForm(Config):
    """What every stage is told."""

    k: int = Option(ge=1, description="candidates handed on")
    name: str | None = Option(
        None,
        description="of the stage, in depths and pair fields; null: its kind, or its model where two are",
    )
    budget_ms: PositiveFloat | None = Option(
        None, description="when serving: later than this, the order before the stage is the answer"
    )

    @property
    def models(self) -> tuple[str, ...]:
        """Keys of ``models:`` that the stage needs."""
        return ()

    def decisive(self) -> dict[str, Any]:
        """What later models learn from; how long the stage may take when serving is not among it."""
        return {name: value for name, value in self.plain().items() if name != "budget_ms"}


class SourceRecipe(Config):
    """One of several sources of candidates: a model, a baseline, what is like the history's items, words in
    common with the query, or a source of your own."""

    name: str
    k: int = Option(ge=1, description="candidates of this source")
    model: str | None = Option(None, description="a key of models: (a dot model, or MaxSim over tokens)")
    index: AnyIndex = IndexConfig()
    baseline: BaselineName | None = Option(None, description="fitted on the training part, as models are")
    options: dict[str, Any] = Option(
        default_factory=dict, description="of the baseline, or of the source of your own"
    )
    similar: str | None = Option(
        None, description="items like those of the history: a key of models: whose vectors are compared"
    )
    lexical: Lexical | None = Option(
        None, description="items that share words with the query, by BM25; {} for its defaults"
    )
    source: str | None = Option(None, description="package.module:Class of your own, see `OwnSource`")

    @model_validator(mode="after")
    def _one(self) -> Self:
        kinds = ("model", "baseline", "similar", "lexical", "source")
        given = [what for what in kinds if getattr(self, what) is not None]
        if len(given) != 1:
            raise ValueError(f"source {self.name!r} is one of {', '.join(kinds)}; found {given}")
        if self.baseline is not None:
            check_options(self.baseline, self.options)
        if self.source is not None:
            check_source(self.source, self.options)
        return self

    def decisive(self) -> dict[str, Any]:
        """What it finds depends on; how much of it is served is not among it."""
        return {name: value for name, value in self.plain().items() if name != "k"}

    @property
    def fitted(self) -> bool:
        """Whether it is no model and learns all the same: what it has learnt is kept under its name."""
        return self.baseline is not None or self.lexical is not None or self.source is not None


class RetrieveRecipe(StageForm):
    """The first stage: one model, or several sources whose candidates are united."""

    stage: Literal["retrieve"]
    model: str | None = Option(None, description="a key of models: (a dot model, or MaxSim over tokens)")
    index: AnyIndex = IndexConfig()
    sources: tuple[SourceRecipe, ...] = Option((), description="in place of a model")
    fuse: AnyFusion = ReciprocalRank()

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.model is None) == (not self.sources):
            raise ValueError("a retrieve stage names a model, or several sources")
        return self

    @property
    def models(self) -> tuple[str, ...]:
        named = (self.model, *(s.model or s.similar for s in self.sources))
        return tuple(name for name in named if name is not None)


class FilterRecipe(StageForm):
    """Candidates that are to be shown at all."""

    stage: Literal["filter"]
    where: Predicate


class ScoreRecipe(StageForm):
    """A model that orders what it is given."""

    stage: Literal["prerank", "rank", "rerank"]
    model: str = Option(description="a key of models:")

    @property
    def models(self) -> tuple[str, ...]:
        return (self.model,)


class DiversifyRecipe(StageForm):
    """An order in which every item says something new."""

    stage: Literal["diversify"]
    model: str | None = Option(None, description="a key of models: whose item vectors are compared")
    field: str | None = Option(None, description="an item field whose values are compared, in its place")
    how: Diversity = Mmr()

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.model is None) == (self.field is None):
            raise ValueError("a diversify stage compares the vectors of a model, or the values of a field")
        return self

    @property
    def models(self) -> tuple[str, ...]:
        return () if self.model is None else (self.model,)


class RulesRecipe(StageForm):
    """Business rules."""

    stage: Literal["rules"]
    rules: tuple[Rule, ...] = Option(min_length=1)


StageRecipe = Annotated[
    RetrieveRecipe | FilterRecipe | ScoreRecipe | DiversifyRecipe | RulesRecipe, Option(discriminator="stage")
]


class PlanRecipe(Config):
    """What the planner chose for serving (`twotower plan`). Models learn at the stages' own depths."""

    depths: dict[str, PositiveInt] = Option(
        {}, description="candidates handed on, by the name of the stage or the source"
    )
    stores: dict[str, str] = Option(
        {}, description="what a stage keeps of every item, of the `store` depths of its model"
    )


def names_of(stages: tuple[StageForm, ...]) -> tuple[str, ...]:
    """The name of each stage: its own, its kind, or its model where a kind occurs twice."""
    kinds = [_kind(stage) for stage in stages]
    return tuple(
        stage.name or (stage.models[0] if kinds.count(kind) > 1 and isinstance(stage, ScoreRecipe) else kind)
        for stage, kind in zip(stages, kinds, strict=True)
    )


def _kind(stage: StageForm) -> str:
    kind: str = stage.plain()["stage"]
    return kind
