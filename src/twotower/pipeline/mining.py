"""Hard negatives for a model of a recipe: served by its sources and by models that were trained before.

Training queries are asked as they stand after the training part; see `twotower.data.hard_negatives` for what
of the answers is kept. Positives of later parts are not known here, and could be mined where a query has some
in both: collections keep queries apart.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

from twotower.cascade.cascade import Cascade
from twotower.cascade.fuse import Fuse, Scorer
from twotower.cascade.rank import Rank
from twotower.cascade.retrieve import Retrieve
from twotower.cascade.stage import Request, Stage
from twotower.data.hard_negatives import HardNegatives, Judged, mine
from twotower.evaluate.experiment import joined
from twotower.index.build import IndexConfig, build_index
from twotower.index.item_table import ItemTable
from twotower.models.base import Model
from twotower.pipeline.assembly import Assembly, searched
from twotower.pipeline.prepared import Prepared
from twotower.pipeline.recipe import Recipe
from twotower.pipeline.served import scores_by
from twotower.pipeline.stages import SourceRecipe
from twotower.pipeline.teaching import asked
from twotower.train.lists import FullStageConfig
from twotower.train.softmax import HardConfig, InBatchConfig
from twotower.types import NO_ITEM

Say = Callable[[str], None]
ALONE = 100
"""Candidates to learn from where the recipe has no cascade that says how many there will be."""


def mining_sources(recipe: Recipe, name: str) -> tuple[SourceRecipe, ...]:
    """The sources of the cascade that mine or serve for a model, or guard what is mined."""
    theirs = asked(recipe, name)
    return tuple(source for source in recipe.sources if source.name in theirs)


def served_by(name: str, prepared: Prepared, assembly: Assembly) -> Cascade | None:
    """Who serves the candidates that a model learns from, where that is not the stages before it."""
    recipe = prepared.recipe
    objective = recipe.models[name].objective
    if not isinstance(objective, FullStageConfig) or not objective.by:
        return None
    miners = _Miners(prepared, assembly, recipe.cascade[0].k if recipe.cascade else ALONE)
    sources = [miners.retriever(who) for who in objective.by]
    return Cascade(sources[0] if len(sources) == 1 else Fuse(sources, k=miners.depth, name="served"))


def mined_for(
    name: str, prepared: Prepared, assembly: Assembly, say: Say = lambda line: None
) -> HardNegatives | None:
    """What the model's objective asks to be mined; None if it asks for nothing."""
    objective = prepared.recipe.models[name].objective
    if not isinstance(objective, InBatchConfig) or objective.hard is None:
        return None
    mined = mine_hard(prepared, assembly, objective.hard, taught=objective.distil is not None)
    say(f"{name}: {mined}")
    return mined


def mine_hard(
    prepared: Prepared,
    assembly: Assembly,
    config: HardConfig,
    queries_at_once: int = 256,
    *,
    taught: bool = False,
) -> HardNegatives:
    """Hard negatives of every positive of the training part, served as ``config`` says.

    With ``taught`` they bring the teacher's scores, even where no guard compares them.

    Lists are as deep as ``skip`` and twice the ``window``, beyond the positives of the query that has most:
    behind a strict guard a window may stay short.
    """
    train = prepared.split.train
    positives = prepared.positives(train)
    judged = Judged.of(positives.query_keys, positives.item_keys, prepared.n_items)
    queries, own = judged.lists()
    history = prepared.history(train, "positive").lists().take(queries)
    request = Request(prepared.request_columns(queries, train), history)
    miners = _Miners(prepared, assembly, config.skip + 2 * config.window + int(own.lengths.max()))
    sources = [miners.retriever(who) for who in config.by]
    stage = sources[0] if len(sources) == 1 else Fuse(sources, k=miners.depth, name="mined")
    served = joined(
        [
            stage.run(request.rows(start, start + queries_at_once), None, miners.depth)
            for start in range(0, len(queries), queries_at_once)
        ]
    )
    if not config.guarded and not taught:
        return mine(judged, served, config)
    teacher, answers = miners.scorer(config.scorer), own.padded(fill=NO_ITEM)
    if isinstance(teacher, Scorer):
        scores, best = (teacher.scores_of(request, keys) for keys in (served.keys, answers))
    else:
        scores, best = (scores_by(teacher, request, keys) for keys in (served.keys, answers))
    assert best is not None  # our own sources always tell
    return mine(judged, served, config, scores=scores, positive_scores=best[answers != NO_ITEM])


class _Miners:
    """Sources of the cascade, and models searched exactly, by name; a model's items are encoded once."""

    def __init__(self, prepared: Prepared, assembly: Assembly, depth: int) -> None:
        self.assembly, self.n_items = assembly, prepared.n_items
        self.depth = min(depth, prepared.n_items)
        self.sources = {source.name: source for source in prepared.recipe.sources}
        self._encoded = cache(self._encode)

    def retriever(self, who: str) -> Stage:
        if who in self.sources:
            return self.assembly.source(self.sources[who].model_copy(update={"k": self.depth}))
        model, table = self._encoded(who)
        index = build_index(IndexConfig(), searched(model, table), produced_by=table.produced_by)
        return Retrieve(model, index, self.depth, who)

    def scorer(self, who: str) -> Stage:
        source = self.sources.get(who)
        if source is not None and source.model is None:
            return self.retriever(who)
        model, table = self._encoded(who if source is None else str(source.model))
        return Rank(model, table, self.depth, who)

    def _encode(self, name: str) -> tuple[Model, ItemTable]:
        model = self.assembly.model(name)
        return model, self.assembly.encode_all(name, model)
