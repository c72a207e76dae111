"""A model of your own, named in a recipe by its import path: package.module:Class."""

import tempfile

import yaml
from torch import Tensor

from twotower import Batch, Model, Pipeline, Recipe
from twotower.config import Config
from twotower.data.spec import FeatureSpec
from twotower.models.base import masked
from twotower.nn.embedding import Embeddings
from twotower.scores.dot import dot
from twotower.types import Rep, RepSpec


class Factors(Model):
    """Each side is the sum of its fields' vectors; the score is their inner product (LightFM, Kula 2015)."""

    kind = "dot"  # one vector per item and an inner product: it may retrieve

    class Config(Config):
        dim: int = 16

    def __init__(self, spec: FeatureSpec, config: "Factors.Config") -> None:
        super().__init__()
        self.spec, self.config = spec, config
        self.embeddings = Embeddings([*spec.side("query"), *spec.side("item")], config.dim)

    def encode_query(self, query: Batch) -> Rep:
        return Rep(vector=self.embeddings(query, self.spec.side("query")).sum(-2))

    def encode_item(self, item: Batch) -> Rep:
        return Rep(vector=self.embeddings(item, self.spec.side("item")).sum(-2))

    def score(self, query: Rep, item: Rep, pair: Batch | None = None, mask: Tensor | None = None) -> Tensor:
        return masked(dot(query["vector"], item["vector"]), mask)

    @property
    def flops_per_pair(self) -> int:
        return 2 * self.config.dim

    def item_specs(self) -> tuple[RepSpec, ...]:
        return (RepSpec("vector", (self.config.dim,)),)


RECIPE = """
name: own-model
data: {reader: synthetic, n_queries: 1000, n_items: 400}
positive: {label: click}
history: null
models:
  factors:
    model: 03_your_own_model:Factors
    config: {dim: 8}
    objective: {kind: full-softmax}
    train: {epochs: 12, batch_size: 256, learning_rate: 0.01, patience: 2}
cascade: [{stage: retrieve, model: factors, k: 50}]
baselines: [{name: popularity}, {name: ease}]
"""

if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as directory:
        print(Pipeline(Recipe.parse(yaml.safe_load(RECIPE)), directory).run().text())
