"""BM25's first hundred of every judged query, as lists to learn from and to re-rank; and word vectors."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import polars as pl
import torch
from torch import Tensor

from twotower.baselines.bm25 import BM25
from twotower.data.batches import Examples
from twotower.data.beir import Beir
from twotower.data.cranfield import Cranfield
from twotower.data.dataset import Dataset
from twotower.data.features import Features
from twotower.data.spec import FeatureSpec
from twotower.metrics.ranking import evaluate
from twotower.optional import require
from twotower.schema import Field, Schema
from twotower.types import UNKNOWN, Batch, Candidates, Ragged

DEPTH, DIM = 100, 64  # of BM25's list; of a word's vector
LENGTHS = {"query_text": 16, "text": 80}  # stems that models read; BM25 reads all
QUERIES, SHOWN, POSITIVES = 12, 12, 6  # of a batch; candidates of each; relevant ones among them at most
FOLDS = 5
PAIR = "lexical_score"


@dataclass(frozen=True)
class Collection:
    """A collection with BM25's first hundred of every judged query."""

    name: str
    spec: FeatureSpec
    queries: Batch
    items: Batch
    found: Candidates  # by query key
    gains: Tensor  # (Q, DEPTH)
    judged: Ragged  # by query key, and what each is worth:
    worth: Tensor
    part: Mapping[str, Tensor]  # name -> query keys

    def ndcg(self, keys: Tensor, order: Tensor) -> Tensor:
        """nDCG@10 of queries whose lists stand in this order; the ideal is that of all judged documents."""
        judged = self.judged.take(keys)
        places = torch.arange(len(self.worth))
        worth = self.worth[Ragged(places, self.judged.offsets).take(keys).values]
        return evaluate(order, judged, ["nDCG@10"], worth)["nDCG@10"]


@cache
def collection(name: str, fold: int = 0) -> Collection:
    root = Path(os.environ["TWOTOWER_DATA"]) / name
    reader = Beir() if name == "nfcorpus" else Cranfield(folds=FOLDS, fold=fold)
    dataset = reader.read(root)
    dataset = replace(dataset, schema=schema(dataset.schema))
    train = dataset.events.filter(pl.col("part") == "train")
    features = Features.fit(dataset, train, use=["query_text", "text", "query_stems", "stems"])
    queries = features.encode_queries(dataset.queries)
    items = features.encode_items(dataset.items)
    bm25 = BM25().fit(items.pop("stems"), features.spec["stems"].size)
    found = bm25.search(queries.pop("query_stems"), DEPTH)
    spec = FeatureSpec(columns=(features.spec["query_text"], features.spec["text"]))
    judged, worth, part = judgements(dataset)
    gains = torch.zeros(len(found.keys), DEPTH)
    row = judged.row_of_value()
    place = found.keys[row] == judged.values[:, None]
    hit, column = place.nonzero().unbind(1)
    gains[row[hit], column] = worth[hit].float()
    return Collection(name, spec, queries, items, found, gains, judged, worth, part)


def schema(plain: Schema) -> Schema:
    """Stems of both texts, cut for the models; and a second time whole, for BM25."""
    fields = [
        Field.parse({**f.plain(), "tokenizer": "stems", "max_length": LENGTHS[f.name]})
        if f.name in LENGTHS
        else f
        for f in plain.fields
    ]
    for name, role, of in (("query_stems", "query", "query_text"), ("stems", "item", "text")):
        whole = {"name": name, "kind": "text", "role": role, "of": of, "tokenizer": "stems"}
        fields.append(Field.parse({**whole, "max_length": 10_000}))
    return Schema(query=plain.query, item=plain.item, fields=tuple(fields))


def judgements(dataset: Dataset) -> tuple[Ragged, Tensor, dict[str, Tensor]]:
    """Documents judged relevant by query key, their grades, and the queries of each part that have one."""
    events = dataset.events.filter(pl.col("grade") >= 1)
    query = torch.from_numpy(dataset.query_catalogue.keys(events["query"]).copy())
    item = torch.from_numpy(dataset.item_catalogue.keys(events["doc"]).copy())
    order = query.argsort(stable=True)
    counts = torch.bincount(query, minlength=len(dataset.queries))
    judged = Ragged(item[order], torch.cat([counts.new_zeros(1), counts.cumsum(0)]))
    parts = {
        part: query[torch.from_numpy((events["part"] == part).to_numpy().copy())].unique()
        for part in ("train", "valid", "test")
    }
    return judged, torch.from_numpy(events["grade"].cast(pl.Float64).to_numpy().copy())[order], parts


@dataclass(frozen=True)
class Shown:
    """Batches of lists: some relevant documents of BM25's hundred, and some others."""

    data: Collection
    steps: int
    seed: int

    @property
    def steps_per_epoch(self) -> int:
        return self.steps

    def epoch(self, number: int, start_step: int = 0) -> Iterator[Examples]:
        draw = torch.Generator().manual_seed(1000 * self.seed + number)
        keys = self.data.part["train"]
        keys = keys[(self.data.gains[keys] > 0).any(1)]
        for step in range(self.steps):
            rows = keys[torch.randperm(len(keys), generator=draw)[:QUERIES]]
            chance = torch.rand(len(rows), DEPTH, generator=draw)
            if step < start_step:
                continue
            relevant = self.data.gains[rows] > 0
            rank = chance.masked_fill(~relevant, -1).argsort(1, descending=True).argsort(1)
            chance = chance + 2 * (relevant & (rank < POSITIVES)) - 2 * (relevant & (rank >= POSITIVES))
            chance = chance.masked_fill(~self.data.found.mask[rows], -9)
            at = chance.topk(SHOWN, dim=1).indices
            scores = self.data.found.scores[rows].gather(1, at)
            yield Examples(
                query=self.data.queries.take(rows),
                items=self.data.found.keys[rows].gather(1, at),
                query_keys=rows,
                labels=self.data.gains[rows].gather(1, at),
                pair=Batch({PAIR: scores.clamp(min=0)}),  # an empty slot's is minus infinity
            )


@cache
def word_vectors(name: str, fold: int) -> Tensor:
    """(V, DIM) unit vectors: singular vectors of the documents' PPMI within five words, times sqrt(s)."""
    sparse, linalg = require("scipy.sparse", "stats"), require("scipy.sparse.linalg", "stats")
    data = collection(name, fold)
    tokens, size = data.items["text"], data.spec["text"].size
    pairs = [torch.stack([tokens[:, :-n].flatten(), tokens[:, n:].flatten()]) for n in range(1, 6)]
    a, b = (side.numpy() for side in torch.cat(pairs, 1))
    known = (a > UNKNOWN) & (b > UNKNOWN)
    a, b = np.r_[a[known], b[known]], np.r_[b[known], a[known]]
    counts = sparse.coo_matrix((np.ones(len(a)), (a, b)), (size, size)).tocsr().tocoo()
    seen = np.asarray(counts.sum(1)).ravel()
    smooth = seen**0.75 / (seen**0.75).sum()  # Levy, Goldberg and Dagan, TACL 2015
    pmi = np.log(counts.data / (seen[counts.row] * smooth[counts.col]))
    ppmi = sparse.coo_matrix((np.maximum(pmi, 0), (counts.row, counts.col)), (size, size)).tocsr()
    start = np.random.default_rng(0).standard_normal(size)
    left, strength, _ = linalg.svds(ppmi, k=DIM, v0=start)
    vectors = torch.from_numpy((left * np.sqrt(strength)).astype(np.float32))
    return torch.nn.functional.normalize(vectors, dim=-1)
