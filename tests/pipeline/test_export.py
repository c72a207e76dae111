"""Exported vectors score as the retriever does."""

import numpy as np
import polars as pl
import pytest
import torch

from twotower.cascade.stage import Request
from twotower.errors import ConfigError
from twotower.pipeline.export import export_vectors
from twotower.pipeline.pipeline import Pipeline
from twotower.pipeline.recipe import Recipe

PLAIN = {
    "name": "tiny",
    "data": {"reader": "synthetic", "n_queries": 60, "n_items": 60},
    "positive": {"label": "click"},
    "models": {
        "towers": {
            "model": "two-tower",
            "config": {"embedding": 4, "layers": [8, 4], "history": {"kind": "mean"}},
            "batches": "events",
            "objective": {"kind": "in-batch"},
            "train": {"epochs": 1, "batch_size": 256},
        }
    },
    "cascade": [{"stage": "retrieve", "model": "towers", "k": 10}],
}


def test_inner_products_of_the_exported_vectors_are_the_scores(tmp_path):
    pipeline = Pipeline(Recipe.parse(PLAIN), tmp_path / "run")
    pipeline.prepare()
    pipeline.train()
    files = export_vectors(tmp_path / "run", tmp_path / "out")
    items, queries = (pl.read_parquet(files[name][0]) for name in ("items", "queries"))
    prepared, cascade = pipeline.prepared, pipeline.cascade()
    assert cascade is not None
    assert items["item"].to_list() == prepared.dataset.item_catalogue.all_ids().to_list()
    keys = torch.arange(len(queries))
    found, _ = cascade(Request(prepared.request_columns(keys, prepared.dataset.events)))
    scores = np.array(queries["vector"].to_list()) @ np.array(items["vector"].to_list()).T
    expected = np.take_along_axis(scores, found.keys.numpy(), axis=1)
    np.testing.assert_allclose(found.scores.numpy(), expected, rtol=1e-4, atol=1e-5)
    assert (scores.max(1) <= found.scores[:, 0].numpy() + 1e-4).all()


def test_a_run_without_a_cascade_has_nothing_to_export(tmp_path):
    recipe = Recipe.parse(PLAIN | {"cascade": []})
    Pipeline(recipe, tmp_path).prepare()
    with pytest.raises(ConfigError, match="no cascade"):
        export_vectors(tmp_path, tmp_path / "out")
