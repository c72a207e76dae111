"""ItemKNN against the formula, written with loops."""

from __future__ import annotations

import math

import pytest
import torch

from twotower.baselines import item_knn
from twotower.baselines.item_knn import ItemKNN
from twotower.errors import ConfigError, MismatchError
from twotower.types import Ragged

pytest.importorskip("scipy")


def naive(rows: list[list[int]], n: int, k: int, shrinkage: float, history: list[int]) -> list[float]:
    users = [{u for u, row in enumerate(rows) if i in row} for i in range(n)]
    scores = []
    for i in range(n):
        similar = {
            j: len(users[i] & users[j]) / (math.sqrt(len(users[i]) * len(users[j])) + shrinkage)
            for j in range(n)
            if j != i and users[i] & users[j]
        }
        nearest = sorted(similar, key=lambda j: (-similar[j], j))[:k]
        scores.append(sum(similar[j] for j in nearest if j in history))
    return scores


@pytest.mark.parametrize("block", [1, 3, 1024])
@pytest.mark.parametrize(("k", "shrinkage"), [(1, 0.0), (2, 10.0), (3, 0.5), (100, 2.0)])
def test_equals_the_formula(block: int, k: int, shrinkage: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(item_knn, "ITEMS_AT_ONCE", block)
    generator = torch.Generator().manual_seed(k)
    rows = [row.unique().tolist() for row in torch.randint(9, (20, 4), generator=generator)]
    model = ItemKNN(k, shrinkage).fit(Ragged.of(rows), n_items=10)  # item 9 was never seen
    histories = [[0, 1], [2], [], [3, 4, 5, 6]]
    expected = [naive(rows, 10, k, shrinkage, history) for history in histories]
    torch.testing.assert_close(model.scores(Ragged.of(histories)), torch.tensor(expected))


def test_items_without_a_neighbour_in_the_history_are_not_found() -> None:
    """Items 0, 1 and 2 stand together, 3 stands alone: the tail of a list is no find."""
    model = ItemKNN(shrinkage=0).fit(Ragged.of([[0, 1], [1, 2], [3]]), n_items=5)
    assert model.search(Ragged.of([[0], [3], []]), k=3).keys.tolist() == [[1, -1, -1], [-1] * 3, [-1] * 3]


def test_settings_are_checked() -> None:
    with pytest.raises(ConfigError, match="neighbours must be at least 1"):
        ItemKNN(neighbours=0)
    with pytest.raises(ConfigError, match="shrinkage at least 0"):
        ItemKNN(shrinkage=-1)


@pytest.mark.parametrize(
    ("name", "values"), [("indices", [2, 0, 3]), ("indices", [-1, 0, 1]), ("indptr", [0, 2, 1, 3])]
)
def test_similarities_of_items_that_do_not_exist_are_refused(name: str, values: list[int]) -> None:
    """They would read memory that is none of theirs."""
    state = ItemKNN(neighbours=1).fit(Ragged.of([[0, 1], [0, 1], [1, 2]]), n_items=3).state()
    state[name] = torch.tensor(values, dtype=state[name].dtype)
    with pytest.raises(MismatchError, match="no similarities of 3 items"):
        ItemKNN(neighbours=1).restore(3, state)
