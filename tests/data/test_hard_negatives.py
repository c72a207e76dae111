"""Mined negatives against a loop over pairs."""

from __future__ import annotations

import pytest
import torch

from twotower.data.full_stage import Role
from twotower.data.hard_negatives import HardNegatives, Judged, Mining, mine
from twotower.errors import ConfigError, DataError
from twotower.types import NO_ITEM, Candidates, Ragged

N, Q, K = 40, 12, 15


def drawn(seed: int) -> tuple[Judged, Candidates, torch.Tensor, torch.Tensor]:
    """Positives, lists of different length that hold some of them, and a teacher's scores of both."""
    draw = torch.Generator().manual_seed(seed)
    query = torch.randint(0, 3 * Q, (30,), generator=draw).sort().values
    judged = Judged.of(query, torch.randint(0, N, (30,), generator=draw), N)
    queries = judged.lists()[0]
    keys = torch.stack([torch.randperm(N, generator=draw)[:K] for _ in queries])
    keys[torch.arange(K) >= torch.randint(0, K + 1, (len(keys), 1), generator=draw)] = NO_ITEM
    served = Candidates(keys, -torch.arange(float(K)).expand(keys.shape))
    positive = torch.randn(len(judged), generator=draw) + 0.5
    return judged, served, torch.randn(keys.shape, generator=draw), positive


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize(
    "how",
    [
        Mining(window=99),
        Mining(skip=2, window=3),
        Mining(guard=0.8, window=4),
        Mining(margin=0.3, guard=0.9, skip=1),
    ],
)
def test_it_is_the_loop(seed: int, how: Mining, monkeypatch: pytest.MonkeyPatch) -> None:
    judged, served, scores, positive = drawn(seed)
    queries, own = judged.lists()
    expected = []
    for pair, query in enumerate(judged.query_keys.tolist()):
        row = queries.tolist().index(query)
        found = []
        for place, key in enumerate(served.keys[row].tolist()):
            best, score = float(positive[pair]), float(scores[row, place])
            near = how.guard is not None and score > best - (1 - how.guard) * abs(best) + 1e-6
            near = near or (how.margin is not None and score > best - how.margin)
            if key != NO_ITEM and key not in own[row].tolist() and not near:
                found.append(key)
        expected.append(found[how.skip : how.skip + how.window])
    mined = mine(judged, served, how, scores=scores, positive_scores=positive)
    assert [row.tolist() for row in mined.lists] == expected
    said = {
        (q, int(key)): float(s)
        for q, row, of in zip(queries.tolist(), served.keys, scores, strict=True)
        for key, s in zip(row, of, strict=True)
    }
    taught = mined.samples()
    for pair, query in enumerate(judged.query_keys.tolist()):
        assert taught.teacher[pair, 0] == positive[pair]
        for key, score in zip(
            taught.items[pair, 1:].tolist(), taught.teacher[pair, 1:].tolist(), strict=True
        ):
            assert key == NO_ITEM or score == said[query, key]
    monkeypatch.setattr("twotower.data.hard_negatives.CELLS_AT_ONCE", 3 * K)
    again = mine(judged, served, how, scores=scores, positive_scores=positive)
    assert torch.equal(again.lists.values, mined.lists.values)


def test_by_hand_with_several_positives() -> None:
    judged = Judged.of(torch.tensor([4, 4, 9, 4]), torch.tensor([6, 1, 0, 6]), 10)
    assert judged.query_keys.tolist() == [4, 4, 9]
    assert judged.item_keys.tolist() == [1, 6, 0]
    served = Candidates(torch.tensor([[6, 3, 5, 1, 8], [7, 2, -1, -1, -1]]), -torch.arange(5.0).expand(2, 5))
    mined = mine(judged, served, Mining(skip=1))
    assert [row.tolist() for row in mined.lists] == [[5, 8], [5, 8], [2]]
    # a guard is by the pair: 3 scores above 0.9 times the one positive, and below 0.9 times the other
    scores = torch.tensor([[1.0, 0.8, 0.2, 0.5, 0.1], [0.9, 0.3, 0, 0, 0]])
    mined = mine(
        judged, served, Mining(guard=0.9), scores=scores, positive_scores=torch.tensor([0.5, 1.0, 0.2])
    )
    assert [row.tolist() for row in mined.lists] == [[5, 8], [3, 5, 8], []]
    assert str(mined) == "3 pairs with 1.7 hard negatives each; 1 pairs have none"


def test_a_score_that_is_no_number_is_no_negative() -> None:
    judged = Judged.of(torch.tensor([0]), torch.tensor([0]), 4)
    served = Candidates(torch.tensor([[1, 2]]), torch.tensor([[2.0, 1.0]]))
    scores = torch.tensor([[torch.nan, 0.1]])
    mined = mine(judged, served, Mining(guard=1.0), scores=scores, positive_scores=torch.tensor([1.0]))
    assert mined.lists.values.tolist() == [2]


def test_draws_are_different_negatives_of_the_pair_and_follow_the_seed() -> None:
    judged = Judged.of(torch.tensor([1, 2, 2]), torch.tensor([0, 0, 5]), 9)
    mined = HardNegatives(judged, Ragged.of([[3, 4, 6], [7], []]))
    query, item = torch.tensor([2, 1, 2, 1, 8]), torch.tensor([0, 0, 5, 7, 0])
    found = mined.draw(query, item, 2, torch.Generator().manual_seed(0))
    assert sorted(found[0].tolist()) == [-1, 7]
    assert set(found[1].tolist()) < {3, 4, 6}
    assert len(set(found[1].tolist())) == 2
    assert found[2:].tolist() == [[-1, -1]] * 3  # an empty list, and no such pairs
    assert torch.equal(found, mined.draw(query, item, 2, torch.Generator().manual_seed(0)))
    seen = [mined.draw(query[1:2], item[1:2], 1, torch.Generator().manual_seed(s)).item() for s in range(30)]
    assert set(seen) == {3, 4, 6}


def test_judged_pairs_are_known_for_shared_and_own_candidates() -> None:
    judged = Judged.of(torch.tensor([1, 3]), torch.tensor([8, 0]), 9)
    query = torch.tensor([1, 3, 0])
    assert judged.contains(query, torch.tensor([0, 8, -1])).tolist() == [
        [False, True, False],
        [True, False, False],
        [False, False, False],
    ]
    assert judged.contains(query, torch.tensor([[8], [8], [8]])).tolist() == [[True], [False], [False]]


def test_samples_are_lists_for_full_stage_objectives() -> None:
    judged = Judged.of(torch.tensor([1, 2]), torch.tensor([0, 5]), 9)
    said = torch.tensor([0.3, 0.2, 0.1]), torch.tensor([1.0, 0.9])
    samples = HardNegatives(judged, Ragged.of([[3, 4], [7]]), *said).samples()
    assert samples.items.tolist() == [[0, 3, 4], [5, 7, -1]]
    assert samples.counts()["exposed_positive"] == 2
    assert samples.gains.tolist() == [[1, 0, 0]] * 2
    assert samples.roles.tolist() == [[Role.EXPOSED_POSITIVE, Role.RANKED, Role.RANKED], [0, 2, -1]]
    torch.testing.assert_close(
        samples.teacher, torch.tensor([[1.0, 0.3, 0.2], [0.9, 0.1, torch.nan]]), equal_nan=True
    )
    assert torch.isnan(HardNegatives(judged, Ragged.of([[], []])).samples().teacher).all()


def test_what_is_missing_is_named() -> None:
    judged, served, scores, _ = drawn(0)
    with pytest.raises(ConfigError, match="compares a teacher's scores"):
        mine(judged, served, Mining(guard=0.9), scores=scores)
    with pytest.raises(ConfigError, match="lists were served for"):
        mine(judged, Candidates(served.keys[1:], served.scores[1:]), Mining())
    with pytest.raises(DataError, match="no positive to mine for"):
        Judged.of(torch.zeros(0).long(), torch.zeros(0).long(), 3)
    empty = Candidates(served.keys[:, :0], served.scores[:, :0])
    assert len(mine(judged, empty, Mining()).lists.values) == 0
