"""A bundle whose items change while it serves: no training, no new bundle."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from threading import RLock
from typing import Any, Self

import polars as pl
import torch
from torch import Tensor

from twotower.baselines.bm25 import Postings
from twotower.cascade.attributes import Attributes
from twotower.cascade.funnel_log import FunnelLog
from twotower.cascade.lexical import RetrieveLexical
from twotower.cascade.rules import Rules
from twotower.cascade.ruleset import RuleSet
from twotower.cascade.sources import RetrieveSimilar, TableUnits, unit_vectors
from twotower.cascade.stage import Stage
from twotower.data.funnel_part import FunnelSampling
from twotower.index.build import TokenIndex, build_index
from twotower.index.delta import Delta, DeltaIndex
from twotower.index.delta_table import DeltaTable
from twotower.index.item_log import ItemLog
from twotower.index.item_store import ROWS_AT_ONCE, EncodeItems, ItemStore
from twotower.index.item_table import ItemTable
from twotower.index.multivector_delta import MultiVectorDelta
from twotower.models.base import Model
from twotower.pipeline.answerer import Answerer
from twotower.pipeline.assembly import Assembly
from twotower.pipeline.bundles.bundle import Bundle
from twotower.pipeline.bundles.manifest import stored_digest
from twotower.pipeline.encoded import Encoded
from twotower.pipeline.stages import RulesRecipe, SourceRecipe, StageRecipe
from twotower.pipeline.workspace import Workspace
from twotower.types import Rep


def _to_stderr(line: str) -> None:
    print(line, file=sys.stderr)


class LiveBundle:
    """A bundle and the log of what has happened to its items since.

    Items are added, changed and deleted by id. A change is on the disk when `upsert` or `delete` returns, and
    counts in every answer from then on; another process that has the same log takes it in by `refresh`. The
    bundle itself is never touched, and a log belongs to one bundle. New items are encoded by the item towers
    of the bundle: a value that training never saw becomes the unknown one, an id that it never saw too.

    BM25 follows too, and exactly: it scores as if fitted on the items as they are, but a word that the
    bundle's vocabulary lacks stays unknown. The first change costs it one reading of all texts, for lengths
    and counts. Baselines and sources of your own know no new items; deleted ones are hidden from them.
    `fixed` names them, and ``say`` is told so once, at the first `upsert`; by default it writes to standard
    error.

    ``live = LiveBundle.load("bundles", "items.sqlite")``, ``live.upsert([{"item": 7, "category": "tent"}])``,
    ``live.answerer().answer(user=1)``.
    """

    def __init__(self, bundle: Bundle, log: str | Path, say: Callable[[str], None] = _to_stderr) -> None:
        self.bundle, self._lock, self._say = bundle, RLock(), say
        encoded = bundle.encoded
        self._items = 0, Attributes.of(encoded.dataset)  # the last change they know, and all items
        assembly = _LiveAssembly(encoded, Workspace(bundle.directory), self._grown, lambda: self._items[1])
        assembly.cascade(verify=False)  # loads what changes: the bundle has been checked
        self.log = ItemLog(log, stored_digest(bundle.directory))
        self.store = ItemStore(
            self.log,
            encoded.dataset.item_catalogue,
            encoded.dataset.items.schema,
            tables=list(assembly.tables.values()),
            indexes=list(assembly.indexes.values()),
        )
        self._assembly, self._said = assembly, False
        self._answerer: tuple[int, Answerer] | None = None  # and the last change it knows
        self._served: FunnelLog | None = None

    @classmethod
    def load(
        cls,
        path: str | Path,
        log: str | Path,
        *,
        code: Collection[str] = (),
        say: Callable[[str], None] = _to_stderr,
    ) -> Self:
        """The current version below a root (or one version), checked, and the log beside it or a new one.

        ``code`` names what of one's own it may import, as for `Bundle.load`.

        Raises
        ------
        StorageError, MismatchError
            As `Bundle.load`; or the log is another bundle's, or damaged.
        """
        return cls(Bundle.load(path, code=code), log, say)

    def upsert(self, items: Iterable[Mapping[str, Any]]) -> int:
        """Add or replace items, all or none; returns how many. A feature that is not given is missing.

        Raises
        ------
        ConfigError, DataError
            An item without id, with an unknown feature, or with a value of the wrong type: nothing changed.
        """
        count = len(self.store.upsert(items))
        if count and self.fixed and not self._said:
            self._said = True
            self._say(
                f"twotower: note: of new and changed items {', '.join(self.fixed)} will know nothing until a "
                "new bundle is built; all other sources count them now"
            )
        return count

    @property
    def fixed(self) -> tuple[str, ...]:
        """Sources that follow no change, by name: what they have learnt is of the bundle's items."""
        sources = self.bundle.encoded.recipe.sources
        return tuple(source.name for source in sources if source.fitted and source.lexical is None)

    def delete(self, ids: Iterable[int | str]) -> int:
        """Take items out; returns how many there were."""
        return self.store.delete(ids)

    def refresh(self) -> int:
        """Take in what other processes have changed; returns the number of items."""
        return self.store.refresh()

    def compact(self) -> None:
        """Make plain tables and indexes of base and changes, in memory, for fast searches again."""
        for _, table in self._assembly.tables.values():
            table.compact()
        for _, index in self._assembly.indexes.values():
            index.compact()
        with self._lock:
            self._answerer = None

    def answerer(self) -> Answerer:
        """Answers from the items as they are now, and as they are now for as long as it is kept.

        Asking for it anew costs a look at the log where nothing has changed: do so for each request.
        """
        with self._lock:
            if self._answerer is None or self._answerer[0] != self.log.last:
                with self.store.held():  # all that it reads is of one moment
                    self.store.refresh()
                    self._take_in()
                    self._assembly.there = self.store.alive
                    cascade = self._assembly.cascade(verify=False)
                    assert cascade is not None
                    answerer = Answerer(self._grown(), cascade, self._allow(), self._items[1])
                    answerer.log = self._served
                    self._answerer = self.store.number, answerer
            return self._answerer[1]

    def logging(self, directory: str | Path, sampling: FunnelSampling | None = None) -> FunnelLog:
        """Log the funnel of what all answerers answer from now on, as `Answerer.logging`."""
        version = self.bundle.version
        self._served = self.answerer().logging(directory, sampling, items=self.store, produced_by=version)
        return self._served

    def close(self) -> None:
        self.log.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _allow(self) -> Tensor | None:
        """Hides deleted items from sources that follow no log; indexes do so by themselves, and faster."""
        alive = self.store.alive
        return alive if self.fixed and not bool(alive.all()) else None

    def _take_in(self) -> None:
        """Let the items' attributes, and sources by words, stand as the store does."""
        number, known = self._items
        entries = self.store.changes(after=number)
        # what is deleted stays as it was, hidden; but every key has its row
        kept = [entry for entry in entries if entry.features is not None or entry.key >= len(known)]
        if kept:
            item, types = known.item, known.items.schema
            rows = {
                name: [entry.id if name == item else (entry.features or {}).get(name) for entry in kept]
                for name in types
            }
            frame = pl.DataFrame([pl.Series(n, v, dtype=types[n], strict=True) for n, v in rows.items()])
            keys, there = torch.tensor([e.key for e in kept]), [e.features is not None for e in kept]
            known = known.updated(keys, frame)
            keys, frame = keys[torch.tensor(there)], frame.filter(there)
        else:
            keys, frame = torch.empty(0, dtype=torch.int64), known.items.clear()
        gone = torch.tensor([e.key for e in entries if e.features is None], dtype=torch.int64)
        if entries:
            self._assembly.reword(gone, keys, frame)
        self._items = self.store.number, known

    def _grown(self) -> Encoded:
        """The bundle's data with the items as they are now, in the order of their keys."""
        encoded, (number, known) = self.bundle.encoded, self._items
        if not number:
            return encoded
        return Encoded(encoded.recipe, replace(encoded.dataset, items=known.items), encoded.features)


class _LiveAssembly(Assembly):
    """Stages over snapshots of tables and indexes that change; all but the stages is loaded once."""

    def __init__(
        self,
        then: Encoded,
        space: Workspace,
        now: Callable[[], Encoded],
        attributes: Callable[[], Attributes],
    ) -> None:
        super().__init__(then.recipe, space, now)
        self._then, self._known = then, attributes
        self._models: dict[str, Model] = {}
        self._sources: dict[str, Stage] = {}
        self._postings: dict[str, Postings] = {}  # by text of the items, from the first change on
        self.tables: dict[str, tuple[EncodeItems, DeltaTable]] = {}
        self.indexes: dict[str, tuple[EncodeItems, Delta[Any, Any]]] = {}
        self.there: Tensor | None = None  # (N,) bool by key: items that were not deleted

    def stage(self, about: StageRecipe, verify: bool = True) -> Stage:
        if isinstance(about, RulesRecipe):  # pins add items that no source has brought
            rules = RuleSet(rules=about.rules)
            return Rules(rules, self._attributes, about.k, self._name(about), there=self.there)
        return super().stage(about, verify)

    def model(self, name: str) -> Model:
        if name not in self._models:
            self._models[name] = super().model(name)
        return self._models[name]

    def index(self, name: str, model: Model, verify: bool) -> Delta[Any, Any]:
        if name not in self.indexes:
            base = super().index(name, model, verify)
            assert not isinstance(base, Delta)
            over = MultiVectorDelta(base) if isinstance(base, TokenIndex) else DeltaIndex(base)
            self.indexes[name] = self._encoder(model), over
        return self.indexes[name][1].snapshot()

    def table(self, name: str, model: Model, verify: bool, store: str | None = None) -> DeltaTable:
        own = f"{name}@{store}"
        if own not in self.tables:
            base = super().table(name, model, verify, store)
            assert isinstance(base, ItemTable)
            self.tables[own] = self._encoder(model), DeltaTable(base)
        return self.tables[own][1].snapshot()

    def _similar(self, about: SourceRecipe, verify: bool) -> RetrieveSimilar:
        """Its index holds unit vectors of its own; histories read those of the model's table."""
        assert about.similar is not None
        model, table = self._model_and_table(about.similar, verify)
        dims = getattr(model, "dim", None)
        own, units = f"similar {about.name}", TableUnits(table, "vector", dims)
        if own not in self.indexes:
            base, encode = (
                build_index(about.index, units.take(torch.arange(units.rows))),
                self._encoder(model),
            )
            self.indexes[own] = lambda f: Rep(vector=unit_vectors(encode(f), dims=dims)), DeltaIndex(base)
        return RetrieveSimilar(units, about.k, about.name, self.indexes[own][1].snapshot())

    def _fitted(self, about: SourceRecipe) -> Stage:
        if about.name not in self._sources:
            self._sources[about.name] = super()._fitted(about)
        return self._sources[about.name]

    def reword(self, gone: Tensor, keys: Tensor, rows: pl.DataFrame) -> None:
        """Lexical sources without the items ``gone`` (g,), and with ``rows`` as those of ``keys`` (n,).

        They are new stages: an answerer that is out keeps those it has.
        """
        spec = self._then.features.spec
        texts = {s.name: s.lexical.columns(spec)[1] for s in self.recipe.sources if s.lexical is not None}
        if not texts:
            return
        columns = {column.name: column for column in texts.values()}
        if not self._postings:
            words = self._words(self._then.dataset.items, columns)
            self._postings = {name: Postings.of(words[name], c.size) for name, c in columns.items()}
        words = self._words(rows, columns)
        self._postings = {n: old.changed(gone, keys, words[n]) for n, old in self._postings.items()}
        for name, column in texts.items():
            old = self._sources[name]
            assert isinstance(old, RetrieveLexical)
            bm25 = old.bm25.with_changes(self._postings[column.name])
            self._sources[name] = RetrieveLexical(bm25, old.column, old.k, name)

    def _words(self, items: pl.DataFrame, names: Iterable[str]) -> dict[str, Tensor]:
        """(n, L) int32 tokens of each of these texts of the items."""
        encode, kept = self._then.features.encode_items, list(names)
        parts = []
        for part in items.iter_slices(ROWS_AT_ONCE) if len(items) else [items]:
            batch = encode(part)
            parts.append({name: batch[name].int() for name in kept})
        return {name: torch.cat([part[name] for part in parts]) for name in kept}

    def _values_of(self, field: str) -> DeltaTable:
        own = f"field {field}"
        if own not in self.tables:
            base, features = super()._values_of(field), self._then.features
            assert isinstance(base, ItemTable)
            self.tables[own] = lambda f: Rep({field: features.encode_items(f)[field]}), DeltaTable(base)
        return self.tables[own][1].snapshot()

    @property
    def _attributes(self) -> Attributes:
        return self._known()

    def _encoder(self, model: Model) -> EncodeItems:
        features = self._then.features

        @torch.inference_mode()
        def encode(frame: pl.DataFrame) -> Rep:
            return model.encode_item(features.encode_items(frame))

        return encode

    def _rows_of_sources(self) -> int:
        return self._then.n_items
