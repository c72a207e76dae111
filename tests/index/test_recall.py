"""Recall is measured against the truth, and only against it."""

from __future__ import annotations

import pytest
import torch

from twotower.errors import ConfigError
from twotower.index.exact import ExactIndex
from twotower.index.faiss_index import FaissIndex
from twotower.index.recall import recall


def test_an_exact_index_finds_all_even_when_k_exceeds_the_catalogue() -> None:
    index = ExactIndex.build(torch.randn(20, 4, generator=torch.Generator().manual_seed(0)))
    assert recall(index, index, torch.ones(3, 4), k=50) == 1.0


def test_an_approximate_index_is_no_truth() -> None:
    faiss_index = FaissIndex.build(torch.eye(4), factory="Flat")
    with pytest.raises(ConfigError, match="against an exact index"):
        recall(faiss_index, faiss_index, torch.ones(1, 4), k=1)
