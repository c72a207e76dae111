"""Models of the interaction matrix in a recipe: over the words of a collection, behind BM25."""

from __future__ import annotations

import pytest

from twotower.pipeline.pipeline import Pipeline
from twotower.pipeline.recipe import Recipe


@pytest.mark.parametrize("model", ["knrm", "drmm"])
def test_a_matrix_model_ranks_what_words_find(collection, tmp_path, model):
    recipe = {
        "name": "matrix",
        "data": {"reader": "beir"},
        "split": {"kind": "predefined"},
        "history": None,
        "fields": {"query_text": {"tokenizer": "words"}, "text": {"tokenizer": "words"}},
        "models": {
            "ranker": {
                "model": model,
                "features": ["query_text", "text"],
                "config": {"text": {"kind": "table", "dim": 8}, "pair": ["bm25_score"]},
                "objective": {"kind": "lists", "share": 0.5},
                "train": {"epochs": 1, "batch_size": 8},
            }
        },
        "cascade": [
            {"stage": "retrieve", "k": 20, "sources": [{"name": "bm25", "k": 20, "lexical": {}}]},
            {"stage": "rank", "model": "ranker", "k": 10},
        ],
        "evaluate": {"measures": ["nDCG@10"], "requests_timed": 2, "samples": 100},
        "threads": 1,
    }
    pipeline = Pipeline(Recipe.parse(recipe), tmp_path, data=collection)
    before, after = pipeline.run().experiment.stages
    assert after.values["nDCG@10"].mean() >= 0.9 * before.values["nDCG@10"].mean()  # begins with BM25's order
