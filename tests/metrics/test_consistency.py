"""Set measures of a pre-ranker against sets, one query at a time."""

import math

import pytest
import torch

from twotower.errors import DataError
from twotower.metrics.consistency import (
    auc_of_lists,
    measure_served,
    ndcg_by_reference,
    ranking_consistency,
    share_kept,
)
from twotower.types import Candidates, Ragged

Q, K, N = 12, 9, 30


def orders(seed=0):
    """The same candidates in two orders, short lists and an empty one among them, and held-out items."""
    g = torch.Generator().manual_seed(seed)
    keys = torch.rand(Q, N, generator=g).argsort(1)[:, :K]
    lengths = torch.randint(1, K + 1, (Q,), generator=g)
    lengths[0] = 0
    one, other = keys.clone(), keys.clone()
    for q, n in enumerate(lengths.tolist()):
        one[q, n:] = other[q, n:] = -1
        other[q, :n] = one[q, :n][torch.randperm(n, generator=g)]
    rows = [
        torch.randperm(N, generator=g)[: int(n)].tolist() for n in torch.randint(0, 15, (Q,), generator=g)
    ]
    scores = torch.randint(-9, -4, (Q, K), generator=g).sort(1, descending=True).values.float()  # with ties
    return Candidates(one, scores), other, Ragged.of(rows), rows


def real(keys):
    return [key for key in keys.tolist() if key >= 0]


@pytest.mark.parametrize("depth", [1, 4, 50])
def test_share_kept_is_of_what_was_served(depth):
    served, _, relevant, rows = orders()
    for q, value in enumerate(share_kept(served.keys, relevant, depth).tolist()):
        reached = set(rows[q]) & set(real(served.keys[q]))
        kept = set(rows[q]) & set(real(served.keys[q])[:depth])
        assert value == len(kept) / len(reached) if reached else math.isnan(value)


@pytest.mark.parametrize(("k", "depth"), [(1, 1), (3, 5), (5, 3), (50, 50)])
def test_consistency_is_the_hit_rate_of_the_rankers_best(k, depth):
    served, reference, _, _ = orders()
    for q, value in enumerate(ranking_consistency(served.keys, reference, k, depth).tolist()):
        best, kept = real(reference[q])[:k], set(real(served.keys[q])[:depth])
        assert value == len(kept & set(best)) / len(best) if best else math.isnan(value)


def test_ndcg_gains_fall_with_the_rankers_rank():
    served, reference, _, _ = orders()
    k = 4
    for q, value in enumerate(ndcg_by_reference(served.keys, reference, k).tolist()):
        gain = {key: k - place for place, key in enumerate(real(reference[q])[:k])}
        if not gain:
            assert math.isnan(value)
            continue
        dcg = sum(gain.get(key, 0) / math.log2(p + 2) for p, key in enumerate(real(served.keys[q])[:k]))
        ideal = sum(g / math.log2(p + 2) for p, g in enumerate(sorted(gain.values(), reverse=True)))
        assert value == pytest.approx(dcg / ideal)
    assert ndcg_by_reference(reference, reference, k)[1:].tolist() == [1.0] * (Q - 1)


def test_a_relevant_item_outside_the_catalogue_is_no_item_of_another_query():
    served = Candidates(torch.tensor([[4, 9], [4, 9]]), torch.tensor([[2.0, 1.0], [2.0, 1.0]]))
    assert auc_of_lists(served, Ragged.of([[4], [-1, 4]])).tolist() == [1.0, 1.0]
    nothing = auc_of_lists(served, Ragged.of([[], [-1]]))
    assert nothing.isnan().all()


def test_auc_of_lists_counts_pairs():
    served, _, relevant, rows = orders()
    for q, value in enumerate(auc_of_lists(served, relevant).tolist()):
        scores = dict(zip(real(served.keys[q]), served.scores[q].tolist(), strict=False))
        good = [s for key, s in scores.items() if key in rows[q]]
        bad = [s for key, s in scores.items() if key not in rows[q]]
        pairs = [(g > b) + 0.5 * (g == b) for g in good for b in bad]
        assert value == pytest.approx(sum(pairs) / len(pairs)) if pairs else math.isnan(value)


def test_nothing_served_has_no_value():
    nothing = Candidates(torch.empty(2, 0, dtype=torch.int64), torch.empty(2, 0))
    values = measure_served(nothing, Ragged.of([[1], []]), nothing.keys)
    assert all(value.isnan().all() and value.shape == (2,) for value in values.values())


def test_names_and_the_ranker_itself():
    served, _, relevant, _ = orders()
    assert list(measure_served(served, relevant, depths=[2, 4])) == ["kept@2", "kept@4", "GAUC"]
    itself = measure_served(served, relevant, served.keys, depths=[3], k=2)
    assert list(itself) == ["kept@3", "GAUC", "Overlap@2", "RCS@2@3", "nDCG@2 by ranker"]
    for name in ("Overlap@2", "RCS@2@3", "nDCG@2 by ranker"):
        assert itself[name][1:].tolist() == [1.0] * (Q - 1)


def test_orders_of_different_candidates_are_refused():
    served, reference, relevant, _ = orders()
    with pytest.raises(DataError, match="different candidates"):
        measure_served(served, relevant, reference.clamp(max=N - 2).flip(0))
