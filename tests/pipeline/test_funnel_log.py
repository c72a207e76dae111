"""A real cascade is logged while it answers, and its log teaches a pre-ranker by a recipe."""

from __future__ import annotations

import shutil

import polars as pl
import pytest
import torch

from twotower.cascade.funnel_log import FunnelLog
from twotower.cascade.stage import Request
from twotower.data.full_stage import Role
from twotower.data.funnel_part import FunnelAbout
from twotower.errors import ConfigError, DataError
from twotower.pipeline.pipeline import Pipeline
from twotower.pipeline.recipe import Recipe
from twotower.pipeline.replay import funnel_log, logged
from twotower.train.lists import LoggedFunnel

WINDOW_S = 10 * 86_400


@pytest.fixture(scope="module")
def log(trained, tmp_path_factory):
    """Every query asks once, a second before its first positive training event."""
    prepared, cascade = trained.pipeline.prepared, trained.pipeline.cascade()
    directory = tmp_path_factory.mktemp("log")
    schema = prepared.dataset.schema
    train = prepared.split.train
    positive = train.filter(prepared.recipe.positive.mask(train))
    first = positive.group_by(schema.query, maintain_order=True).agg(pl.col(schema.time).min())
    keys = torch.from_numpy(prepared.dataset.query_catalogue.keys(first[schema.query]).copy())
    _, trace = cascade(Request(prepared.request_columns(keys, train.head(1))))
    names = {"query": schema.query, "item": schema.item, "time": schema.time}
    about = FunnelAbout(stages=("retrieve", "rank"), **names, produced_by="test")
    with FunnelLog(directory, about, prepared.dataset.item_catalogue) as log:
        log.record(
            trace,
            requests=[f"r{n}" for n in range(len(keys))],
            queries=first[schema.query].to_list(),
            times=(first[schema.time] - 1).to_list(),
            shown=5,
        )
    return directory, keys, trace


def test_what_was_served_is_what_is_learnt_from(trained, log):
    directory, keys, trace = log
    prepared = trained.pipeline.prepared
    about = LoggedFunnel(directory=str(directory), ranker="rank", within_s=WINDOW_S)
    samples = logged(prepared, funnel_log(prepared, about).rows)
    retrieve, rank = (step.output.keys.tolist() for step in trace.steps)
    served = {key: set(row) - {-1} for key, row in zip(keys.tolist(), retrieve, strict=True)}
    ranked = {key: set(row[:5]) for key, row in zip(keys.tolist(), rank, strict=True)}
    assert len(keys) * 0.5 < len(samples) <= len(keys)  # those near the end of training may still be answered
    exposed = torch.tensor([Role.EXPOSED_POSITIVE, Role.EXPOSED_NEGATIVE])
    liked = prepared.positives(prepared.split.train)
    first = {key: int(liked.times[liked.query_keys == key].min()) - 1 for key in keys.tolist()}
    for key, items, roles in zip(samples.query_keys.tolist(), samples.items, samples.roles, strict=True):
        there = items[roles >= 0]
        later = (liked.query_keys == key) & (liked.times >= first[key])
        taken = set(liked.item_keys[later].tolist())
        assert set(there.tolist()) == served[key] - (taken - ranked[key])  # later ones are no negatives
        assert set(items[torch.isin(roles, exposed)].tolist()) == ranked[key]


def test_a_recipe_trains_a_preranker_on_it(trained, tiny, log, tmp_path):
    recipe = tiny()
    recipe["models"]["prerank"] = {
        "model": "two-tower",
        "features": ["user", "item", "category"],
        "config": {"embedding": 4, "layers": [8]},
        "objective": {
            "kind": "full-stage",
            "source": "log",
            "log": {"directory": str(log[0]), "within_s": WINDOW_S},
            "distil": {"loss": "mse"},
        },
        "train": {"epochs": 1, "batch_size": 32},
    }
    recipe["cascade"].insert(1, {"stage": "prerank", "model": "prerank", "k": 20})
    pipeline = Pipeline(Recipe.parse(recipe), tmp_path / "run")
    pipeline.prepare()
    assert "prerank" in pipeline.train()
    assert repr(pipeline.cascade()) == "retrieve(30) >> prerank(20) >> rank(10)"


def test_a_log_that_has_grown_is_learnt_from_again(trained, tiny, log, tmp_path):
    directory = tmp_path / "log"
    shutil.copytree(log[0], directory)
    recipe = tiny("models.ranker.objective={kind: pointwise}", "models.ranker.config.pair=[]")
    recipe["models"]["light"] = recipe["models"]["ranker"] | {
        "objective": {
            "kind": "full-stage",
            "source": "log",
            "log": {"directory": str(directory), "within_s": WINDOW_S},
        }
    }
    recipe["cascade"].insert(1, {"stage": "prerank", "model": "light", "k": 20})
    said = []

    def train():
        del said[:]
        pipeline = Pipeline(Recipe.parse(recipe), tmp_path / "run", say=said.append)
        pipeline.prepare()
        pipeline.train()
        return [line.partition(":")[0] for line in said if ": training" in line]

    assert train() == ["retriever", "light", "ranker"]
    assert train() == []
    served = next(path for path in directory.rglob("*.parquet"))
    served.touch()  # the same content
    assert train() == []
    (directory / "more").mkdir()
    shutil.copy(served, directory / "more" / "copy.txt")  # whatever is there now was not before
    assert train() == ["light"]


def test_a_log_of_another_funnel_is_named(trained, log):
    about = LoggedFunnel(directory=str(log[0]), ranker="rnak", within_s=10)
    with pytest.raises(ConfigError, match="rnak"):
        funnel_log(trained.pipeline.prepared, about)


def test_a_log_without_a_finished_request_is_said(trained, log):
    forever = LoggedFunnel(directory=str(log[0]), within_s=10**9)
    with pytest.raises(DataError, match="no request to learn from"):
        funnel_log(trained.pipeline.prepared, forever)
