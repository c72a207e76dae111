"""Brute force: the memory budget changes nothing but memory."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from twotower.errors import ConfigError
from twotower.index.exact import ExactIndex
from twotower.types import Ragged


@pytest.mark.parametrize("memory_mb", [1e-3, 0.01, 16])
@pytest.mark.parametrize("k", [1, 7, 500])
def test_blocks_change_nothing(memory_mb: float, k: int) -> None:
    """Small whole numbers: sums are exact, and most scores are tied."""
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randint(-2, 3, (400, 4), generator=generator).float()
    query = torch.randint(-2, 3, (130, 4), generator=generator).float()
    exclude = Ragged.of([[row, row + 1, 399 - row] for row in range(130)])
    found = ExactIndex.build(vectors, memory_mb=memory_mb).search(query, k, exclude)
    scores = query @ vectors.T
    for row, gone in enumerate(exclude):
        scores[row, gone] = -torch.inf
    values, order = scores.sort(dim=1, descending=True, stable=True)
    n = min(k, 397)
    assert torch.equal(found.keys[:, :n], order[:, :n].masked_fill(values[:, :n] == -torch.inf, -1))
    assert torch.equal(found.scores[:, :n], values[:, :n])
    assert (found.keys[:, n:] == -1).all()


def test_a_bias_is_one_more_coordinate() -> None:
    vectors, bias = torch.tensor([[1.0], [2.0]]), torch.tensor([5.0, 1.0])
    index = ExactIndex.build(torch.cat([vectors, bias[:, None]], 1))
    assert index.search(torch.tensor([[3.0, 1.0]]), 2).scores.tolist() == [[8.0, 7.0]]


def test_keys_are_integers_of_any_width_and_nothing_else(tmp_path: Path) -> None:
    ExactIndex.build(torch.eye(3), torch.tensor([4, 2, 9], dtype=torch.int32)).save(tmp_path)
    assert ExactIndex.load(tmp_path).search(torch.eye(3)[:1], 1).keys.tolist() == [[4]]
    with pytest.raises(ConfigError, match=r"must be integers, found torch.float32"):
        ExactIndex.build(torch.eye(3), torch.tensor([4.0, 2.0, 9.0]))
