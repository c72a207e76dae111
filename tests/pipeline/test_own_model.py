"""A user's own model comes by import path, and is then one like any other."""

import sys

import pytest

from twotower.errors import ConfigError
from twotower.pipeline.answerer import Answerer
from twotower.pipeline.pipeline import Pipeline
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
