"""A user's own source comes by import path, learns, serves and is packed like any other."""

from __future__ import annotations

import sys

import pytest
import torch

from twotower.errors import ConfigError, MismatchError
from twotower.evaluate.experiment import request_of
from twotower.pipeline.answerer import Answerer
from twotower.pipeline.bundles.bundle import Bundle, build, rollback
from twotower.pipeline.bundles.live import LiveBundle
from twotower.pipeline.pipeline import Pipeline
from twotower.pipeline.recipe import Recipe

SOURCE = '''
import polars as pl
import torch

from twotower.types import Candidates

FITTED = []


class Trending:
    """What was clicked most in the last days of the training part."""

    def __init__(self, days=30):
        self.days = days

    def fit(self, dataset, positives):
        FITTED.append((len(dataset.events), len(positives)))
        time = dataset.schema.time
        since = dataset.events[time].max() - self.days * 86400
        events = dataset.events.filter(pl.col(time) >= since)
        keys = dataset.item_catalogue.keys(events[dataset.schema.item])
        self.counts = torch.bincount(torch.from_numpy(keys.copy()), minlength=len(dataset.items)).float()

    def search(self, request, k):
        found = self.counts.topk(min(k, len(self.counts)))
        return Candidates(*(t.expand(len(request), -1) for t in (found.indices, found.values)))

    def state(self):
        return {"counts": self.counts, "days": self.days}

    def restore(self, state):
        self.counts = state["counts"]
'''
CODE = "their_shop.sources:Trending"


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    folder = tmp_path_factory.mktemp("code")
    (folder / "their_shop").mkdir()
    (folder / "their_shop/sources.py").write_text(SOURCE)
    sys.path.insert(0, str(folder))
    yield folder
    sys.path.remove(str(folder))
    forget()


def forget() -> None:
    for name in ("their_shop", "their_shop.sources"):
        sys.modules.pop(name, None)


def own(whole, **options):
    recipe = whole()
    source = {"name": "popular", "source": CODE, "options": options, "k": 20}
    recipe["cascade"][0]["sources"][1] = source
    del recipe["models"]["lister"], recipe["cascade"][3]
    return recipe


@pytest.fixture(scope="module")
def run(shop, whole, tmp_path_factory) -> Pipeline:
    pipeline = Pipeline(Recipe.parse(own(whole, days=60)), tmp_path_factory.mktemp("own") / "run")
    pipeline.prepare()
    pipeline.train()
    return pipeline


def test_it_learns_from_the_training_part_alone_and_once(run, whole):
    from their_shop.sources import FITTED

    prepared = run.prepared
    assert [(len(prepared.split.train), len(prepared.dataset.queries))] == FITTED
    said: list[str] = []
    again = Pipeline(Recipe.parse(own(whole, days=60)), run.space.directory, say=said.append)
    again.train()
    assert len(FITTED) == 1
    assert not [line for line in said if "training" in line]


def test_it_serves_beside_other_sources(run):
    found, trace = run.cascade()(request_of(run.prepared.task("test")))
    assert {"popular_score", "popular_rank", "from_popular"} <= set(found.pair)
    assert (trace.steps[0].output.pair["from_popular"] == 1).any()
    assert len(Answerer.open(run.space.directory).answer(features={"country": "de"}, k=3).items) == 3


def test_a_bundle_imports_its_code_only_when_it_is_named(run, tmp_path):
    root = tmp_path / "bundles"
    build(run.space.directory, root)
    forget()
    with pytest.raises(ConfigError, match=rf"imports no code by itself; .* --code {CODE}"):
        Bundle.load(root)
    assert "their_shop.sources" not in sys.modules
    bundle = Bundle.load(root, code=[CODE])
    assert bundle.manifest.provenance["code"] == [CODE]
    request = request_of(run.prepared.task("test"))
    assert torch.equal(bundle.cascade(request)[0].keys, run.cascade()(request)[0].keys)
    build(run.space.directory, root)
    with pytest.raises(ConfigError, match="--code"):
        rollback(root)
    assert rollback(root, code=[CODE]).version == bundle.version


def test_deleted_items_are_hidden_from_it_and_new_ones_unknown_to_it(run, tmp_path):
    build(run.space.directory, tmp_path / "bundles")
    with pytest.raises(ConfigError, match="--code"):
        LiveBundle.load(tmp_path / "bundles", tmp_path / "items.sqlite")
    with LiveBundle.load(tmp_path / "bundles", tmp_path / "items.sqlite", code=[CODE]) as live:
        request = {"features": {"country": "de"}, "k": 10}
        first = live.answerer().answer(**request).items["item"][0]
        live.delete([first])
        live.upsert([{"item": 7, "category": "kettle"}])
        assert first not in live.answerer().answer(**request).items["item"].to_list()


def test_a_models_file_may_not_name_other_code_than_the_recipe(run, tmp_path, monkeypatch):
    monkeypatch.setattr(
        "twotower.pipeline.bundles.bundle.read_json", lambda path: {"model": "evil.code:Model"}
    )
    with pytest.raises(MismatchError, match=r"the class of the model .*evil.code:Model, expected two-tower"):
        build(run.space.directory, tmp_path / "bundles")


def test_what_is_wrong_is_said_when_the_recipe_is_read(shop, whole):
    with pytest.raises(ConfigError, match=r"source their_shop.sources:Trending: unknown option 'day'; did y"):
        Recipe.parse(own(whole, day=3))
    recipe = own(whole)
    recipe["cascade"][0]["sources"][1]["baseline"] = "popularity"
    with pytest.raises(ConfigError, match=r"is one of model, .*; found \['baseline', 'source'\]"):
        Recipe.parse(recipe)
