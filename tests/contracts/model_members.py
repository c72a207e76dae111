"""Every model with the options that change what it computes, and the entities that all of them score.

A new model is one more line in MODELS, or in LISTS where the company of a candidate may change its score.
"""

import torch

from twotower.data.features import Column, FeatureSpec
from twotower.types import Batch

SPEC = FeatureSpec(
    columns=(
        Column(name="user", kind="id", side="query", size=9, width=1, dropout=0.2),
        Column(name="age", kind="number", side="query", size=0, width=2),
        Column(name="device", kind="category", side="context", size=5, width=1),
        Column(name="history", kind="sequence", side="query", size=12, width=6, of="movie"),
        Column(name="movie", kind="id", side="item", size=12, width=1),
        Column(name="genres", kind="bag", side="item", size=7, width=3),
        Column(name="poster.v", kind="vector", side="item", size=0, width=4),
        Column(name="asked", kind="text", side="query", size=15, width=5, tokenizer="words"),
        Column(name="body", kind="text", side="item", size=15, width=7, tokenizer="words"),
    )
)
MEAN, ATTENTION = {"kind": "mean"}, {"kind": "attention", "blocks": 2, "heads": 2}
TRANSFORMER = {"kind": "transformer", "dim": 8, "blocks": 1, "heads": 2}
TABLE = {"kind": "table", "dim": 6}
CROSSES = [["user", "genres"], ["device", "movie"]]
MODELS = [
    ("click-rate", {"strength": 3.0}),
    ("logistic-regression", {"buckets": 64}),
    ("logistic-regression", {"crosses": [["user", "movie"]], "sparse": False, "pair": ["retrieve_score"]}),
    ("logistic-regression", {"crosses": []}),
    ("two-tower", {"embedding": 8, "layers": [16, 6], "dropout": 0.3}),
    (
        "two-tower",
        {"embedding": 8, "layers": [16, 6], "similarity": "cosine", "norm": "layer", "bias": False},
    ),
    ("two-tower", {"embedding": 8, "layers": [], "history": ATTENTION}),
    ("two-tower", {"embedding": 8, "layers": [6], "history": {"kind": "pooling"}}),
    ("two-tower", {"embedding": 8, "layers": [6], "norm": "batch", "history": MEAN, "sparse": True}),
    ("dat", {"embedding": 4, "layers": [16, 6], "dropout": 0.3, "category": "genres"}),
    ("dat", {"embedding": 4, "layers": [6], "similarity": "cosine", "mimic": 0, "history": ATTENTION}),
    ("dat", {"embedding": 4, "layers": [6], "norm": "batch", "bias": False, "sparse": True}),
    ("dat", {"embedding": 4, "layers": [6], "augment": False}),
    ("int-tower", {"embedding": 4, "layers": [9, 8, 7], "heads": 2, "head_dim": 5, "dropout": 0.3}),
    ("int-tower", {"embedding": 4, "layers": [8], "gate": "senet", "scale": False, "bias": False, "cir": 0}),
    ("int-tower", {"embedding": 4, "layers": [8, 6], "fe_layers": "last", "norm": "batch", "history": MEAN}),
    ("int-tower", {"embedding": 4, "layers": [8, 6], "fe": False, "gate": "none", "history": ATTENTION}),
    ("fit", {"embedding": 4, "layers": [9, 7], "heads": 3, "head_dim": 5, "dropout": 0.3}),
    ("fit", {"embedding": 4, "layers": [8], "norm": "batch", "bias": False, "metas": 1}),
    ("fit", {"embedding": 4, "layers": [8], "norm": "layer", "history": MEAN, "hidden": 5}),
    ("mol", {"embedding": 4, "layers": [9], "dim": 5, "query_vectors": 3, "item_vectors": 2, "dropout": 0.3}),
    ("mol", {"embedding": 8, "layers": [], "cross": 6, "query_id": "user", "history": ATTENTION}),
    ("mol", {"embedding": 4, "layers": [8], "norm": "batch", "bias": False, "history": MEAN, "sparse": True}),
    ("dcn-v2", {"embedding": 4, "crosses": 2, "layers": [8, 5]}),
    (
        "dcn-v2",
        {"embedding": 4, "crosses": 3, "rank": 2, "layers": [8], "norm": "batch", "store": "embeddings"},
    ),
    ("dcn-v2", {"embedding": 4, "layers": [8], "store": "ids", "history": MEAN}),
    ("dcn-v2", {"embedding": 4, "layers": [8], "pair": ["retrieve_score", "retrieve_rank"]}),
    ("fscd", {"embedding": 4, "layers": [8, 5], "history": MEAN}),
    ("fscd", {"embedding": 4, "layers": [8], "norm": "batch", "pair": ["retrieve_score"], "store": "ids"}),
    ("fscd", {"embedding": 4, "layers": [8], "gate": False, "keep": ["user", "genres", "poster.v"]}),
    ("cold", {"embedding": 4, "layers": [8, 5], "crosses": CROSSES, "buckets": 64, "history": MEAN}),
    ("cold", {"embedding": 4, "layers": [8], "crosses": CROSSES, "gate": True, "pair": ["retrieve_score"]}),
    (
        "cold",
        {"embedding": 4, "layers": [8], "crosses": CROSSES, "keep": ["history", "poster.v", "user x genres"]}
        | {"history": MEAN, "norm": "none", "pair": ["retrieve_score"]},
    ),
    ("wide-and-deep", {"embedding": 4, "layers": [8, 5]}),
    (
        "wide-and-deep",
        {"embedding": 4, "layers": [8], "crosses": [["user", "genres"], ["history", "movie"]], "buckets": 50},
    ),
    (
        "wide-and-deep",
        {"embedding": 4, "layers": [8], "store": "embeddings", "crosses": [["device", "genres"]]},
    ),
    (
        "wide-and-deep",
        {
            "embedding": 4,
            "layers": [8],
            "store": "ids",
            "sparse": True,
            "crosses": [["device", "movie"]],
            "history": MEAN,
            "pair": ["retrieve_score"],
        },
    ),
    ("deepfm", {"embedding": 4, "layers": [8, 5]}),
    ("deepfm", {"embedding": 4, "layers": [8], "store": "embeddings", "history": MEAN, "sparse": True}),
    ("deepfm", {"embedding": 4, "layers": [8], "store": "ids", "norm": "batch", "pair": ["retrieve_score"]}),
    ("dcn", {"embedding": 4, "crosses": 3, "layers": [8, 5]}),
    ("dcn", {"embedding": 4, "crosses": 1, "layers": [8], "store": "embeddings", "history": MEAN}),
    ("dcn", {"embedding": 4, "layers": [8], "store": "ids", "norm": "layer", "pair": ["retrieve_rank"]}),
    ("autoint", {"embedding": 4, "heads": 2, "head_dim": 3, "layers": [8, 5]}),
    ("autoint", {"embedding": 4, "blocks": 1, "layers": [], "store": "embeddings", "history": MEAN}),
    ("autoint", {"embedding": 4, "head_dim": 3, "layers": [8], "store": "ids", "pair": ["retrieve_score"]}),
    ("din", {"embedding": 4, "attention": 5, "layers": [8, 5]}),
    ("din", {"embedding": 4, "layers": [8], "store": "embeddings", "weighting": "linear", "history": MEAN}),
    ("din", {"embedding": 4, "layers": [8], "store": "ids", "weighting": "softmax", "activation": "prelu"}),
    ("din", {"embedding": 4, "layers": [8], "activation": "relu", "pair": ["retrieve_score"]}),
    ("dual-encoder", {"text": TABLE}),
    ("dual-encoder", {"text": TABLE | {"sparse": True}, "share": "ade", "similarity": "dot"}),
    ("dual-encoder", {"text": TRANSFORMER, "share": "ade-spl", "projection": 5, "pool": "max"}),
    (
        "dual-encoder",
        {"text": TRANSFORMER, "share": "ade-ste", "pool": "first", "fields": True, "embedding": 4},
    ),
    ("dual-encoder", {"text": TRANSFORMER, "share": "ade-fte", "projection": 6}),
    ("colbert", {"text": TABLE, "dim": 5, "query_length": 4, "skip": [3, 8]}),
    ("colbert", {"text": TRANSFORMER, "dim": 5, "query_length": 9}),
    ("colbert", {"text": TRANSFORMER, "dim": 5, "augment": False}),
    ("knrm", {"text": TABLE, "kernels": 5}),
    ("knrm", {"text": TRANSFORMER, "kernels": 5, "tanh": True, "pair": ["retrieve_score", "retrieve_rank"]}),
    ("knrm", {"tokens": "fields", "embedding": 4, "kernels": 5, "sparse": True}),
    ("conv-knrm", {"text": TABLE, "kernels": 5, "filters": 4}),
    ("conv-knrm", {"text": TRANSFORMER, "kernels": 5, "filters": 4, "ngrams": 2, "pair": ["retrieve_score"]}),
    ("drmm", {"text": TABLE, "bins": 5}),
    ("drmm", {"text": TRANSFORMER, "bins": 5, "gate": "vector", "layers": [], "pair": ["retrieve_score"]}),
    ("drmm", {"tokens": "fields", "fields": ["history", "movie", "genres"], "embedding": 4, "bins": 5}),
    ("match-pyramid", {"text": TABLE, "channels": [3, 2], "grid": [2, 3], "layers": [5]}),
    (
        "match-pyramid",
        {"tokens": "fields", "embedding": 4, "channels": [2], "kernel": [2, 4], "pair": ["retrieve_score"]},
    ),
    ("cross-encoder", {"text": TRANSFORMER}),
    ("cross-encoder", {"text": TRANSFORMER, "max_length": 9, "pair": ["retrieve_score"]}),
]
PLACED = {"pair": ["retrieve_score"], "position": "retrieve_rank"}
LISTS = [
    ("prm", {"embedding": 4, "dim": 6, "list_length": 8, "history": MEAN, **PLACED}),
    ("prm", {"embedding": 4, "dim": 6, "list_length": 5, "blocks": 1, "store": "ids", **PLACED}),
    ("prm", {"embedding": 4, "dim": 9, "heads": 3, "pair": [], "position": "retrieve_rank"}),
    ("prm", {"embedding": 4, "dim": 4, "pair": ["retrieve_rank"], "position": None, "store": "embeddings"}),
    ("prm", {"embedding": 4, "dim": 4, "heads": 1, "pair": [], "position": None, "sparse": True}),
]
Q, C = 5, 8


def queries(rows: int = Q, seed: int = 0) -> Batch:
    draw = torch.Generator().manual_seed(seed)
    length = torch.arange(rows) * 3 % 7  # an empty history, and a full one
    history = torch.randint(1, 12, (rows, 6), generator=draw)
    return Batch(
        user=torch.randint(1, 9, (rows,), generator=draw),
        age=torch.randn(rows, 2, generator=draw),
        device=torch.randint(1, 5, (rows,), generator=draw),
        history=history * (torch.arange(6) < length[:, None]),
        asked=torch.randint(1, 15, (rows, 5), generator=draw) * (torch.arange(5) < length[:, None]),
    )


def items(rows: int = C, seed: int = 1) -> Batch:
    draw = torch.Generator().manual_seed(seed)
    length = torch.arange(rows) * 5 % 8  # an empty text, and a full one
    return Batch(
        movie=torch.randint(1, 12, (rows,), generator=draw),
        genres=torch.randint(0, 7, (rows, 3), generator=draw),
        **{"poster.v": torch.randn(rows, 4, generator=draw)},
        body=torch.randint(1, 15, (rows, 7), generator=draw) * (torch.arange(7) < length[:, None]),
    )


def pairs(Q: int = Q, K: int = C) -> Batch:
    draw = torch.Generator().manual_seed(2)
    return Batch(
        retrieve_score=torch.randn(Q, K, generator=draw),
        retrieve_rank=torch.arange(K).expand(Q, K).float(),
    )


def full(batch: Batch) -> Batch:
    """The most that entities cost: every list is as long as its column allows, all of known values."""
    return Batch((n, t if t.dtype.is_floating_point else torch.full_like(t, 2)) for n, t in batch.items())
