"""A recipe so small that training it takes a second, and one run of it that tests of the whole share."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner, Result

from twotower.cli.main import app
from twotower.evaluate.report import Report
from twotower.pipeline.changes import changed
from twotower.pipeline.pipeline import Pipeline
from twotower.pipeline.recipe import Recipe

TINY: dict[str, Any] = {
    "name": "tiny",
    "data": {"reader": "synthetic", "n_queries": 150, "n_items": 120},
    "positive": {"label": "click"},
    "history": {"max_length": 8},
    "models": {
        "retriever": {
            "model": "two-tower",
            "features": ["user", "country", "history", "item", "category", "tags"],
            "config": {"embedding": 4, "layers": [8], "history": {"kind": "mean"}},
            "objective": {"kind": "full-softmax"},
            "train": {"epochs": 2, "batch_size": 64, "learning_rate": 0.01},
        },
        "ranker": {
            "model": "dcn-v2",
            "features": ["user", "history", "item", "category"],
            "config": {
                "embedding": 4,
                "crosses": 1,
                "layers": [8],
                "history": {"kind": "mean"},
                "pair": ["retrieve_score"],
            },
            "objective": {"kind": "lists", "share": 0.5},
            "train": {"epochs": 1, "batch_size": 32},
        },
    },
    "cascade": [
        {"stage": "retrieve", "model": "retriever", "k": 30},
        {"stage": "rank", "model": "ranker", "k": 10},
    ],
    "baselines": [{"name": "popularity"}],
    "evaluate": {"requests_timed": 3, "samples": 100},
    "threads": 1,
}

Tiny = Callable[..., dict[str, Any]]


@pytest.fixture(scope="session")
def tiny() -> Tiny:
    """The recipe as plain data; arguments change single keys, such as ``"split.kind=by-user"``."""
    return lambda *changes: changed(copy.deepcopy(TINY), changes, "tiny")


@dataclass(frozen=True)
class Trained:
    """A finished run: look at it, but copy its directory before changing a file in it."""

    directory: Path
    pipeline: Pipeline
    report: Report
    said: list[str]


@pytest.fixture(scope="session")
def trained(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    directory, said = tmp_path_factory.mktemp("runs") / "tiny", list[str]()
    pipeline = Pipeline(Recipe.parse(tiny()), directory, say=said.append)
    return Trained(directory, pipeline, pipeline.run(), said)


@pytest.fixture
def twotower(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """The command line in this process: ``twotower("run", path, "--json")``."""
    monkeypatch.setattr("twotower.memory.keep_heap", lambda: False)  # it would hold for all tests to come
    return lambda *arguments: CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="session", autouse=True)
def _threads_as_before() -> Iterator[None]:
    """The tiny recipe asks for one thread, of the whole process."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


STAGES: list[dict[str, Any]] = [
    {
        "stage": "retrieve",
        "k": 40,
        "sources": [
            {"name": "tower", "model": "retriever", "k": 30},
            {"name": "popular", "baseline": "popularity", "k": 20},
            {"name": "like", "similar": "retriever", "k": 10},
        ],
        "fuse": {"kind": "quota", "weights": {"tower": 3}},
    },
    {"stage": "filter", "where": {"not": {"field": "category", "in": ["tent"]}}, "k": 40},
    {"stage": "rank", "model": "ranker", "k": 30},
    {"stage": "rerank", "model": "lister", "k": 20},
    {"stage": "diversify", "field": "category", "how": {"kind": "dpp", "strength": 0.9}, "k": 15},
    {
        "stage": "rules",
        "rules": [{"kind": "quota", "field": "category", "at_most": 3, "within": 10}],
        "k": 10,
    },
]


@pytest.fixture(scope="session")
def whole(tiny: Tiny) -> Callable[[], dict[str, Any]]:
    """A recipe with every kind of stage."""

    def make() -> dict[str, Any]:
        recipe = tiny()
        recipe["cascade"] = copy.deepcopy(STAGES)
        recipe["models"]["ranker"]["config"]["pair"] = ["retrieve_score", "from_popular"]
        recipe["models"]["lister"] = {
            "model": "prm",
            "features": ["user", "item", "category"],
            "config": {"embedding": 4, "dim": 8, "list_length": 30},
            "objective": {"kind": "lists"},
            "train": {"epochs": 1, "batch_size": 32},
        }
        recipe["baselines"] = []
        return recipe

    return make


@pytest.fixture(scope="session")
def whole_run(whole: Callable[[], dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    """It trained, not evaluated: look at it, but leave its directory as it is."""
    pipeline = Pipeline(Recipe.parse(whole()), tmp_path_factory.mktemp("whole") / "run")
    pipeline.prepare()
    pipeline.train()
    return pipeline
