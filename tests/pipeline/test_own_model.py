"""A user's own model comes by import path, and is then one like any other."""

import sys

import pytest

from twotower.errors import ConfigError
from twotower.pipeline.answerer import Answerer
from twotower.pipeline.learning import train_model
from twotower.pipeline.pipeline import Pipeline
from twotower.pipeline.prepared import Prepared
from twotower.pipeline.recipe import Recipe

SOURCE = '''
from torch import nn

from twotower.config import Config
from twotower.models.base import Model, masked
from twotower.nn.embedding import Embeddings
from twotower.scores.dot import dot
from twotower.types import Rep, RepSpec


class Factors(Model):
    """Matrix factorisation."""

    kind = "dot"

    class Config(Config):
        size: int = 4

    def __init__(self, spec, config):
        super().__init__()
        self.spec, self.config = spec, config
        self.embeddings = Embeddings(spec.columns, config.size)

    def encode_query(self, query):
        return Rep(vector=self.embeddings(query, self.spec.side("query")).sum(-2))

    def encode_item(self, item):
        return Rep(vector=self.embeddings(item, self.spec.side("item")).sum(-2))

    def score(self, query, item, pair=None, mask=None):
        return masked(dot(query["vector"], item["vector"]), mask)

    @property
    def flops_per_pair(self) -> int:
        return 2 * self.config.size

    def item_specs(self):
        return (RepSpec("vector", (self.config.size,)),)


class Counts(Factors):
    """Its `update` counts for itself; it learns by gradients all the same."""

    def update(self, items, labels, times, weights=None):
        self.updates = len(labels)


class Reads(Factors):
    """Tells of its pair fields only when it is made."""

    def __init__(self, spec, config):
        super().__init__(spec, config)
        self.pair_fields = ("retrieve_score",)


class Crosses(Factors):
    kind = "joint"
'''
CHANGES = (
    "models.retriever.model=our_shop.models:Factors",
    "models.retriever.config={size: 6}",
    "models.retriever.features=[user, country, item, category]",
    "models.retriever.train.epochs=1",
)


@pytest.fixture
def shop(tmp_path, monkeypatch):
    (tmp_path / "our_shop").mkdir()
    (tmp_path / "our_shop/models.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for name in ("our_shop", "our_shop.models"):
        sys.modules.pop(name, None)


def test_it_trains_retrieves_and_answers(shop, tiny, tmp_path):
    pipeline = Pipeline(Recipe.parse(tiny(*CHANGES)), tmp_path / "run")
    pipeline.prepare()
    model = pipeline.train()["retriever"]
    assert (type(model).__name__, model.bytes_per_item) == ("Factors", 24)
    assert pipeline.model("retriever").digest() == model.digest()
    assert len(Answerer.open(tmp_path / "run").answer(features={"country": "de"}, k=3).items) == 3


def test_its_config_is_checked_like_any_other(shop, tiny):
    with pytest.raises(ConfigError, match=r"models.retriever.config: unknown key 'sise'; did you mean 's"):
        Recipe.parse(tiny(*CHANGES, "models.retriever.config={sise: 6}"))


def test_a_module_or_class_that_is_not_there_is_named(shop, tiny):
    with pytest.raises(ConfigError, match=r"cannot import the model 'our_shop.models:Factor'"):
        Recipe.parse(tiny(*CHANGES, "models.retriever.model=our_shop.models:Factor"))


@pytest.mark.parametrize("objective", ["pointwise", "full-softmax"])
def test_a_method_called_update_makes_no_counter_of_it(shop, tiny, objective):
    change = "models.retriever.model=our_shop.models:Counts"
    plain = tiny(*CHANGES, change, f"models.retriever.objective={{kind: {objective}}}")
    assert Recipe.parse(plain).models["retriever"].objective.kind == objective


def test_its_class_is_asked_what_it_can_learn(shop, tiny):
    plain = tiny()
    plain["models"]["m"] = {"model": "our_shop.models:Crosses", "objective": {"kind": "in-batch"}}
    with pytest.raises(ConfigError, match=r"'m': our_shop.models:Crosses \(joint\) cannot rank the whole"):
        Recipe.parse(plain)
    plain["models"]["m"] = {"model": "our_shop.models:Factors", "objective": {"kind": "counts"}}
    with pytest.raises(ConfigError, match=r"'m': our_shop\.models:Factors learns by gradients"):
        Recipe.parse(plain)


def test_what_only_the_model_itself_can_tell_is_found_when_it_is_made(shop, tiny):
    recipe = Recipe.parse(tiny(*CHANGES, "models.retriever.model=our_shop.models:Reads"))
    with pytest.raises(ConfigError, match=r"Reads \(dot\) cannot rank the .* \(its pair fields, retrieve_sc"):
        train_model(Prepared.make(recipe, None, "raise"), "retriever")
