"""Train the four stages of a setting, one model after the other; what is there already is taken as it is."""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.whole_catalogue.clicks import learn_from_clicks
from benchmarks.whole_catalogue.drawn import RetrieveAndDraw
from benchmarks.whole_catalogue.full import RankAll
from benchmarks.whole_catalogue.settings import Setting
from benchmarks.whole_catalogue.student import bring_to
from twotower.cascade.cascade import Cascade
from twotower.cascade.rank import Rank
from twotower.cascade.retrieve import Retrieve
from twotower.cascade.stage import Stage
from twotower.index.item_table import ItemTable
from twotower.models.base import Model
from twotower.models.catalogue import load_model, save_model
from twotower.pipeline.learning import train_model
from twotower.pipeline.pipeline import Pipeline
from twotower.types import Batch

Say = Callable[[str], None]


class Stages:
    """The trained stages of one run directory, and the ranker over the whole catalogue."""

    def __init__(self, setting: Setting, pipeline: Pipeline, earlier: Path | None, say: Say) -> None:
        self.setting, self.pipeline, self.say, self.earlier = setting, pipeline, say, earlier
        self.prepared = pipeline.prepare()
        self.by_clicks = setting.drawn is None
        rank = self._ranker() if self.by_clicks else None  # it teaches the retriever there
        self.retrieve = self._retriever(rank)
        self.rank = rank or self._ranker()
        self.prerank = self._preranker()
        self.last = self._last()
        self.cascade = Cascade(self.retrieve, self.prerank, self.rank, self.last)
        self.full = self.over_all(self.rank)

    def over_all(self, rank: Rank, k: int = 20) -> RankAll:
        return RankAll(rank, self.retrieve if rank.model.pair_fields else None, k)

    def served_only(self) -> Rank:
        """The ranker taught by as many retrieved items and no others: behind them it knows nothing."""
        assert self.setting.drawn is not None
        length = sum(self.setting.drawn)
        model = load_model(self.kept("ranker-served", "ranker", lambda: self._by_lists(length, 0)))
        encode, rows = self.pipeline.assembly.encode(model), self.prepared.n_items
        return Rank(model, ItemTable.build(encode, rows, model.item_specs(), model.item_digest()), 10, "rank")

    # -- one model after the other ---------------------------------------------------------------------

    def _retriever(self, ranker: Rank | None) -> Retrieve:
        def learn() -> Model:
            if ranker is None:
                return (
                    load_model(self.earlier) if self.earlier else train_model(self.prepared, "retriever")[0]
                )
            student = load_model(self.kept("tower", "retriever", lambda: self._from_clicks("retriever")))
            bring_to(student, _scores_of(ranker), self.prepared, seed=self._seed, say=self.say)
            return student

        stage = self._built("retriever", learn)
        assert isinstance(stage, Retrieve)
        return stage

    def _ranker(self) -> Rank:
        if self.setting.drawn is None:
            return self._scoring("ranker", lambda: self._from_clicks("ranker"))
        top, drawn = self.setting.drawn
        return self._scoring("ranker", lambda: self._by_lists(top, drawn))

    def _by_lists(self, top: int, drawn: int) -> Model:
        before = RetrieveAndDraw(self.retrieve, top, drawn, torch.Generator().manual_seed(self._seed))
        return train_model(self.prepared, "ranker", before=Cascade(before))[0]

    def _from_clicks(self, name: str) -> Model:
        return learn_from_clicks(self.prepared, name, self.pipeline.space.model(f"{name}-training"))

    def _preranker(self) -> Rank:
        def learn() -> Model:
            before = Cascade(self.retrieve)
            return train_model(self.prepared, "preranker", before=before, teacher=self.rank)[0]

        return self._scoring("preranker", learn)

    def _last(self) -> Stage:
        about = self.pipeline.recipe.cascade[3]
        if "reranker" not in about.models:
            return self.pipeline.assembly.stage(about)
        before = Cascade(self.retrieve, self.prerank, self.rank)
        return self._scoring("reranker", lambda: train_model(self.prepared, "reranker", before=before)[0])

    # -- what is kept ------------------------------------------------------------------------------------

    def kept(self, name: str, of_recipe: str, learn: Callable[[], Model]) -> Path:
        """Where the trained model lies; ``learn`` is called when it does not."""
        path = self.pipeline.space.model(name)
        if not (path / "model.json").exists():
            start = time.process_time()
            self.say(f"{name}: training")
            model = learn()
            save_model(model, self.pipeline.recipe.models[of_recipe].model, path)
            seconds = round(time.process_time() - start, 1)
            (path / "cpu.json").write_text(json.dumps({"cpu_seconds": seconds}), encoding="utf-8")
            self.say(f"{name}: {seconds} s of CPU")
        return path

    def _built(self, name: str, learn: Callable[[], Model]) -> Stage:
        """The stage of a model, with its table or index beside it."""
        model = load_model(self.kept(name, name, learn))
        self.pipeline.assembly.build(name, model)
        about = next(about for about in self.pipeline.recipe.cascade if name in about.models)
        return self.pipeline.assembly.stage(about, verify=False)

    def _scoring(self, name: str, learn: Callable[[], Model]) -> Rank:
        stage = self._built(name, learn)
        assert isinstance(stage, Rank)
        return stage

    @property
    def _seed(self) -> int:
        return self.pipeline.recipe.seed


def _scores_of(ranker: Rank) -> Callable[[Batch, Tensor], Tensor]:
    """(q, K) scores of given items."""

    @torch.inference_mode()
    def scores(query: Batch, keys: Tensor) -> Tensor:
        return ranker.model.score(ranker.model.encode_query(query), ranker.table.take(keys)).clone()

    return scores


def cut(cascade: Cascade, depths: Mapping[str, int]) -> Cascade:
    """The stages that ``depths`` names, at these depths; the cascade's own stay as they are."""
    chosen = [copy.copy(stage) for stage in cascade.stages if stage.name in depths]
    for stage in chosen:
        stage.k = depths[stage.name]
    return Cascade(*chosen)
