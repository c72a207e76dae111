"""A cascade as a value: stages composed with >>, depths chosen per request, and a trace of what happened.

Run: python examples/02_cascade.py
"""

import tempfile
from dataclasses import replace

import torch
import yaml

from twotower import ItemTable, Pipeline, Rank, Recipe, Retrieve, RetrieveFrom
from twotower.baselines.popularity import Popularity
from twotower.evaluate.experiment import request_of
from twotower.index.build import load_index

RECIPE = """
name: cascade
data: {reader: synthetic, n_queries: 1000, n_items: 400}
positive: {label: click}
models:
  retriever:
    model: two-tower
    config: {embedding: 16, layers: [32]}
    objective: {kind: in-batch}
    train: {epochs: 4, batch_size: 256, learning_rate: 0.003}
  ranker: {model: dcn-v2, config: {embedding: 8, layers: [32]}, objective: {kind: pointwise}}
cascade:
  - {stage: retrieve, model: retriever, k: 100}
  - {stage: rank, model: ranker, k: 10}
"""

with tempfile.TemporaryDirectory() as directory:
    pipeline = Pipeline(Recipe.parse(yaml.safe_load(RECIPE)), directory)
    prepared, models = pipeline.prepare(), pipeline.train()
    space, task = pipeline.space, prepared.task("test")

    # pipeline.cascade(), built by hand: each stage refuses an index or table of another model
    retrieve = Retrieve(models["retriever"], load_index(space.index("retriever")), k=100)
    rank = Rank(models["ranker"], ItemTable.load(space.table("ranker")), k=10)
    cascade = retrieve >> rank
    print(cascade)

    request = request_of(task).rows(0, 1)
    best, trace = cascade(request)
    print(trace)
    print("the first held-out item was lost by:", trace.dropped_by(0, int(task.relevant[0][0])))

    _, trace = cascade(replace(request, depths={"retrieve": 300, "rank": 5}))
    print(trace)

    # any source of candidates may stand first
    popular = Popularity().fit(prepared.history(prepared.split.train, "positive").lists(), prepared.n_items)
    other, trace = (RetrieveFrom(popular, k=50) >> rank)(request)
    print(trace)
    print(f"{torch.isin(other.keys, best.keys).double().mean():.0%} of its items are in the first answer too")
