"""A recipe's stages, made of what a run or a bundle keeps: models, tables, indexes, fitted sources."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from twotower.baselines.base import Baseline
from twotower.baselines.catalogue import make_baseline
from twotower.cascade.attributes import Attributes
from twotower.cascade.cascade import Cascade
from twotower.cascade.deadline import Budget
from twotower.cascade.diversify import Diversify
from twotower.cascade.filter import Filter
from twotower.cascade.fuse import Fuse
from twotower.cascade.own_source import OwnSource, RetrieveOwn, load_source, make_source, save_source
from twotower.cascade.rank import Rank
from twotower.cascade.retrieve import Retrieve, RetrieveFrom
from twotower.cascade.rules import Rules
from twotower.cascade.ruleset import RuleSet
from twotower.cascade.sources import RetrieveSimilar
from twotower.cascade.stage import Stage
from twotower.config import nearest
from twotower.data.atomic import replacing
from twotower.errors import ConfigError, MismatchError, StorageError
from twotower.index.build import AnyIndex, BuiltIndex, build_index, load_index
from twotower.index.delta import Delta
from twotower.index.delta_table import DeltaTable
from twotower.index.item_table import ItemTable
from twotower.index.manifest import is_whole
from twotower.models.base import Model
from twotower.models.catalogue import load_model, model_class
from twotower.pipeline.encoded import Encoded
from twotower.pipeline.encoding import Meter, items_at_once
from twotower.pipeline.recipe import Recipe
from twotower.pipeline.stages import (
    DiversifyRecipe,
    FilterRecipe,
    RetrieveRecipe,
    RulesRecipe,
    ScoreRecipe,
    SourceRecipe,
    StageRecipe,
)
from twotower.pipeline.workspace import Workspace, fingerprint
from twotower.train.events import Listener, silent
from twotower.types import Ragged, Rep, RepSpec


class Assembly:
    """Builds what stages keep per item, once, and the stages from it, whenever they are asked for."""

    def __init__(
        self, recipe: Recipe, space: Workspace, encoded: Callable[[], Encoded], events: Listener = silent
    ) -> None:
        self.recipe, self.space, self._encoded, self.events = recipe, space, encoded, events

    # -- what stages keep ------------------------------------------------------------------------------

    def build(self, name: str, model: Model) -> None:
        """The indexes and tables of a model that the cascade needs, unless they are there and whole."""
        indexes, with_table, planned = self._indexes(name), self._needs_table(name), self._planned(name)
        step, made_by = f"build {name}", self._made_by(model)
        mark = fingerprint(made_by, [index.plain() for index in indexes], with_table, planned)
        paths = [self.space.index(name)] * bool(indexes) + [self.space.table(name)] * with_table
        paths += [self.space.table(name, store) for store in planned]
        if self.space.done(step, mark) and all(map(is_whole, paths)):
            return
        self.space.begin(step, mark)
        if with_table or indexes:
            path = self.space.table(name) if with_table else self.space.vectors(name)
            table = self._built(name, model, path)
            for config in indexes:
                index = build_index(config, searched(model, table), produced_by=made_by)
                index.save(self.space.index(name))
        for store in planned:
            self._built(name, model.at_store(store), self.space.table(name, store))
        vectors = self.space.vectors(name)
        shutil.rmtree(vectors, ignore_errors=True)
        with contextlib.suppress(OSError):  # another model's are still there, or there never were any
            vectors.parent.rmdir()
        self.space.finish(step, mark)

    def encode_all(self, name: str, model: Model, directory: Path | None = None) -> ItemTable:
        """What a model keeps of every item, in memory, or mapped from ``directory``."""
        return ItemTable.build(
            self.encode(model),
            self._encoded().n_items,
            model.item_specs(),
            self._made_by(model),
            chunk=items_at_once(model),
            directory=directory,
            progress=Meter(self.events, f"items of {name}"),
        )

    def _built(self, name: str, model: Model, directory: Path) -> ItemTable:
        """The table in ``directory``, if it is whole and of this model and these items; else a new one."""
        try:
            return ItemTable.load(directory, self._made_by(model))
        except (StorageError, MismatchError):
            return self.encode_all(name, model, directory)

    def fit_sources(self, mark: str, learn: Callable[[Baseline | OwnSource], object]) -> None:
        """Fit and keep the sources that are no models; ``learn`` gives one the training events."""
        for source in self.recipe.sources:
            if not source.fitted:
                continue
            step, path = f"source {source.name}", self.space.source(source.name)
            own = fingerprint(mark, source.baseline or source.source, source.options)
            if source.lexical is not None:
                own = fingerprint(mark, source.lexical.plain())
            if self.space.done(step, own, path) and self._is_readable(source):
                continue
            self.space.begin(step, own)
            if source.source is not None:
                mine = make_source(source.source, source.options)
                learn(mine)
                save_source(mine, path)
            else:
                state = self._learnt(source, learn)
                path.parent.mkdir(parents=True, exist_ok=True)
                with replacing(path) as draft:
                    draft.write_bytes(save(state))
            self.space.finish(step, own)

    def _is_readable(self, source: SourceRecipe) -> bool:
        try:
            self._fitted(source)
        except StorageError:
            return False
        return True

    def _learnt(self, source: SourceRecipe, learn: Callable[[Baseline], object]) -> dict[str, Tensor]:
        """What BM25 knows of the items' words, or a baseline of the training events."""
        if source.lexical is not None:
            encoded = self._encoded()
            return source.lexical.fit(encoded.features.spec, encoded.items)
        assert source.baseline is not None
        baseline = make_baseline(source.baseline, source.options)[1]
        learn(baseline)
        return baseline.state()

    def encode(self, model: Model) -> Callable[[Tensor], Rep]:
        items = self._encoded().items
        return lambda keys: model.encode_item(items.take(keys))

    def model(self, name: str) -> Model:
        return load_model(self.space.model(name))

    def _indexes(self, name: str) -> list[AnyIndex]:
        """How a retrieving model is searched; once, however many sources it is."""
        first = self.recipe.cascade[:1]
        found = [first[0].index] if first and isinstance(first[0], RetrieveRecipe) else []
        found = found if first and name == getattr(first[0], "model", None) else []
        return (found + [source.index for source in self.recipe.sources if source.model == name])[:1]

    def _needs_table(self, name: str) -> bool:
        by_stage = any(
            isinstance(stage, ScoreRecipe | DiversifyRecipe) and name in stage.models
            for stage in self.recipe.cascade
        )
        return by_stage or any(source.similar == name for source in self.recipe.sources)

    def _planned(self, name: str) -> list[str]:
        """Storage depths at which the plan wants a model's table, beside that of its own config."""
        found = [self._store(stage) for stage in self.recipe.cascade if name in stage.models]
        return [store for store in found if store is not None]

    def _store(self, about: StageRecipe) -> str | None:
        """The storage depth that the plan wants for a stage, where it is not the model's own."""
        if self.recipe.plan is None or not isinstance(about, ScoreRecipe):
            return None
        model = self.recipe.models[about.model]
        own = model_class(model.model)[1].parse(model.config).plain().get("store")
        wanted = self.recipe.plan.stores.get(self._name(about))
        return None if wanted == own else wanted

    def _name(self, about: StageRecipe) -> str:
        return self.recipe.stage_names[self.recipe.cascade.index(about)]

    def kept(self, name: str) -> list[Path]:
        """Directories of a model that the cascade reads."""
        stages = [stage for stage in self.recipe.cascade if name in stage.models]
        plain = any(not isinstance(stage, ScoreRecipe) or self._store(stage) is None for stage in stages)
        paths = [self.space.index(name)] * bool(self._indexes(name))
        paths += [self.space.table(name)] * (plain and self._needs_table(name))
        return paths + [self.space.table(name, store) for store in self._planned(name)]

    def _made_by(self, model: Model) -> str:
        """What tables and indexes carry: digests of the model, and of the items and their features."""
        return f"{model.item_digest()}:{self.space.item_source()}"

    # -- stages ----------------------------------------------------------------------------------------

    def cascade(self, *, verify: bool = True) -> Cascade | None:
        """The stages as one object, or None; ``verify`` compares checksums of tables and indexes."""
        stages = [self._as_planned(about, verify) for about in self.recipe.cascade]
        if not stages:
            return None
        own = {s.name: a.budget_ms for s, a in zip(stages, self.recipe.cascade, strict=True) if a.budget_ms}
        return Cascade(*stages, budget=Budget(total_ms=self.recipe.budget_ms, stages=own))

    def _as_planned(self, about: StageRecipe, verify: bool) -> Stage:
        """A stage with the depth and the storage of the plan, if there is one."""
        name, store = self._name(about), self._store(about)
        if store is None:
            stage = self.stage(about, verify)
        else:
            assert isinstance(about, ScoreRecipe)
            model = self.model(about.model).at_store(store)
            stage = Rank(model, self.table(about.model, model, verify, store), about.k, name)
        if self.recipe.plan is not None:
            at_depths(stage, self.recipe.plan.depths)
        return stage

    def stage(self, about: StageRecipe, verify: bool = True) -> Stage:
        """One stage of the recipe, as models learn from it: without its plan."""
        name = self._name(about)
        match about:
            case RetrieveRecipe(model=None):
                return Fuse([self.source(s, verify) for s in about.sources], about.fuse, about.k, name)
            case RetrieveRecipe():
                assert about.model is not None
                return self._retrieve(about.model, about.k, name, verify)
            case FilterRecipe():
                return Filter(self._attributes.mask(about.where, f"stage {name}"), about.k, name)
            case ScoreRecipe():
                return Rank(*self._model_and_table(about.model, verify), about.k, name)
            case RulesRecipe():
                return Rules(RuleSet(rules=about.rules), self._attributes, about.k, name)
            case DiversifyRecipe(field=None):
                assert about.model is not None
                model, table = self._model_and_table(about.model, verify)
                return Diversify(about.how, table, about.k, name, dims=getattr(model, "dim", None))
            case DiversifyRecipe():
                assert about.field is not None
                return Diversify(about.how, self._values_of(about.field), about.k, name, tensor=about.field)

    def check_fields(self) -> None:
        """Make the stages that need no model: a field that no item has is named before hours of training."""
        for about in self.recipe.cascade:
            by_field = isinstance(about, DiversifyRecipe) and about.field is not None
            if by_field or isinstance(about, FilterRecipe | RulesRecipe):
                self.stage(about)

    def source(self, about: SourceRecipe, verify: bool = True) -> Stage:
        """One of the sources of the first stage."""
        if about.model is not None:
            return self._retrieve(about.model, about.k, about.name, verify)
        if about.similar is not None:
            return self._similar(about, verify)
        return self._fitted(about)

    def _similar(self, about: SourceRecipe, verify: bool) -> RetrieveSimilar:
        """By the vectors of a model, without the bias and the constant they may end with."""
        assert about.similar is not None
        model, table = self._model_and_table(about.similar, verify)
        dims = getattr(model, "dim", None)
        return RetrieveSimilar.of_table(table, about.k, about.name, about.index, dims=dims)

    def _fitted(self, about: SourceRecipe) -> Stage:
        """A source that has learnt, and is no model."""
        path = self.space.source(about.name)
        if about.source is not None:
            mine, rows = make_source(about.source, about.options), self._rows_of_sources()
            size = load_source(mine, path) / max(1, rows)
            return RetrieveOwn(mine, rows, about.k, about.name, bytes_per_item=size)
        try:
            state = load_file(path)
        except (OSError, ValueError, SafetensorError) as error:
            raise StorageError(f"{path}: no readable source ({error}); train the run again") from error
        if about.lexical is not None:
            spec, rows = self._encoded().features.spec, self._rows_of_sources()
            return about.lexical.stage(spec, rows, state, about.k, about.name)
        assert about.baseline is not None
        baseline = make_baseline(about.baseline, about.options)[1]
        baseline.restore(self._rows_of_sources(), state)
        return RetrieveFrom(baseline, about.k, about.name)

    def _retrieve(self, name: str, k: int, stage: str, verify: bool) -> Retrieve:
        model = self.model(name)
        return Retrieve(model, self.index(name, model, verify), k, stage)

    def _model_and_table(self, name: str, verify: bool) -> tuple[Model, ItemTable | DeltaTable]:
        model = self.model(name)
        return model, self.table(name, model, verify)

    def index(self, name: str, model: Model, verify: bool) -> BuiltIndex | Delta[Any, Any]:
        """What a retrieving model is searched with."""
        return load_index(self.space.index(name), self._made_by(model), verify=verify)

    def table(
        self, name: str, model: Model, verify: bool, store: str | None = None
    ) -> ItemTable | DeltaTable:
        """What a model keeps of every item, at its own storage depth or a planned one."""
        return ItemTable.load(self.space.table(name, store), self._made_by(model), verify=verify)

    def _rows_of_sources(self) -> int:
        """Items that fitted sources know: those of the training."""
        return self._encoded().n_items

    def _values_of(self, field: str) -> ItemTable | DeltaTable:
        """The encoded values of an item field as a table, so that they can be compared."""
        items = self._encoded().items
        if field not in items:
            raise ConfigError(f"diversify: the items have no encoded field {field!r}{nearest(field, items)}")
        values = items[field]
        if values.is_floating_point():
            raise ConfigError(f"diversify: {field!r} is a number; compare a category, or a model's vectors")
        spec = RepSpec(field, tuple(values.shape[1:]), str(values.dtype).removeprefix("torch."))
        return ItemTable(Rep({field: values}), (spec,), self.space.item_source())

    @property
    def _attributes(self) -> Attributes:
        return Attributes.of(self._encoded().dataset)


def searched(model: Model, table: ItemTable) -> Tensor | Ragged:
    """What an index is built from: of a model's table the vectors of all items, or their tokens.

    Raises
    ------
    ConfigError
        The model keeps nothing that an index could search.
    """
    name = model.searched()
    if name == "tokens" and name in table.ragged:
        return table.ragged[name]
    if name == "vector" and name in table.stored:
        return table.stored[name]
    kept = ", ".join(f"{spec.name}{' (ragged)' * spec.ragged}" for spec in table.specs)
    raise ConfigError(
        f"{type(model).__name__} cannot retrieve: it keeps {kept} of an item; an index searches the 'vector' "
        "of a dot model, or the ragged 'tokens' of one with max_sim"
    )


def at_depths(stage: Stage, depths: Mapping[str, int]) -> None:
    """Give a stage, and the sources within it, the depths that a plan has for them."""
    for each in (stage, *(stage.sources if isinstance(stage, Fuse) else ())):
        each.k = depths.get(each.name, each.k)
