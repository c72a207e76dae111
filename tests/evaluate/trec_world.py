"""Files and random runs for the tests of TREC files."""

from __future__ import annotations

import polars as pl
import torch

from twotower.data.catalogue import Catalogue
from twotower.types import Candidates, Ragged


def write(path, text):
    path.write_text(text)
    return path


def random_run(seed, n_queries=30, n_items=50, k=20):
    """Many tied scores, graded gains, empty lists, and ids whose order as text is not that of the keys."""
    g = torch.Generator().manual_seed(seed)
    keys = torch.rand(n_queries, n_items, generator=g).argsort(1)[:, :k]
    length = torch.randint(0, k + 1, (n_queries, 1), generator=g)
    keys = keys.masked_fill(torch.arange(k) >= length, -1)
    scores = torch.randint(-2, 3, (n_queries, k), generator=g).float().masked_fill(keys < 0, -torch.inf)
    rows = [torch.randperm(n_items, generator=g)[: 1 + q % 9].tolist() for q in range(n_queries)]
    relevant = Ragged.of(rows)
    gains = torch.randint(1, 4, relevant.values.shape, generator=g).double()
    items = Catalogue(pl.Series("item", torch.randperm(1000, generator=g)[:n_items].tolist()))
    return (
        Candidates(keys, scores).sorted(),
        relevant,
        gains,
        items,
        pl.Series("user", range(100, 100 + n_queries)),
    )
