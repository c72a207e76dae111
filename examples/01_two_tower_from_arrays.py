"""A two-tower model from your own tables: frames -> features -> model -> index -> search.

Run: python examples/01_two_tower_from_arrays.py
"""

import polars as pl
import torch

from twotower import Dataset, ExactIndex, Features, Field, Schema, TwoTower
from twotower.data.batches import EventBatches
from twotower.data.interactions import Interactions
from twotower.data.splits import split
from twotower.models.two_tower import TwoTowerConfig
from twotower.train.fit import fit
from twotower.train.objectives import FullSoftmaxConfig, make_objective
from twotower.train.settings import TrainSettings

# Events of 300 readers and 120 books: a reader of topic t mostly buys books of topic t.
draw = torch.Generator().manual_seed(0)
reader = torch.randint(300, (9000,), generator=draw)
strays = torch.rand(9000, generator=draw) < 0.2
topic = torch.where(strays, torch.randint(6, (9000,), generator=draw), reader % 6)
book = 6 * torch.randint(20, (9000,), generator=draw) + topic
events = pl.DataFrame({"reader": reader.numpy(), "book": book.numpy(), "time": range(9000)})
books = pl.DataFrame({"book": range(120), "topic": [f"topic {b % 6}" for b in range(120)]})

schema = Schema(
    query="reader",
    item="book",
    fields=(
        Field(name="reader", kind="id", role="query"),
        Field(name="book", kind="id", role="item"),
        Field(name="topic", kind="category", role="item"),
        Field(name="time", kind="number", role="time"),
    ),
)
dataset = Dataset.build("bookshop", schema, events, items=books)
parts = split(dataset)  # by time: 80 % train, 10 % valid, 10 % test
features = Features.fit(dataset, parts.train)
queries, items = features.encode_queries(dataset.queries), features.encode_items(dataset.items)
train = Interactions.of(parts.train, schema, dataset.query_catalogue, dataset.item_catalogue)
print(dataset, parts, sep="\n")

model = TwoTower(features.spec, TwoTowerConfig(embedding=16, layers=()))
counts = torch.bincount(train.item_keys, minlength=len(dataset.items))
objective = make_objective(FullSoftmaxConfig(), items, counts, seed=0)
batches = EventBatches(train, queries, batch_size=256, seed=0)
result = fit(model, batches, objective, TrainSettings(epochs=10, learning_rate=0.01))
print(f"trained {result.steps} steps")

with torch.inference_mode():
    index = ExactIndex.build(model.encode_item(items)["vector"], produced_by=model.item_digest())
    found = index.search(model.encode_query(queries)["vector"], k=10)
book_found = dataset.item_catalogue.ids(found.keys.flatten().numpy()).to_numpy().reshape(-1, 10)
own_topic = dataset.queries["reader"].to_numpy()[:, None] % 6
share = (book_found % 6 == own_topic).mean()
print(f"books of the reader's own topic among the 10 best: {share:.0%} (by chance 17%)")
