"""Three ways to make one list of several, against loops over dicts."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from twotower.cascade.fusion import AnyFusion, Fusion, Merged, NormalisedScore, Quota, ReciprocalRank
from twotower.errors import ConfigError
from twotower.types import NO_ITEM, Candidates

Row = list[tuple[int, float]]  # (key, score), best first: one list of one query


def lists_of(queries: Sequence[Sequence[Row]]) -> list[Candidates]:
    """One `Candidates` for each source, from one row for each source of each query."""
    found = []
    for rows in zip(*queries, strict=True):
        width = max(map(len, rows))
        keys = [[key for key, _ in row] + [NO_ITEM] * (width - len(row)) for row in rows]
        scores = [[score for _, score in row] + [-math.inf] * (width - len(row)) for row in rows]
        shape = (len(rows), width)
        found.append(
            Candidates(torch.tensor(keys).long().reshape(shape), torch.tensor(scores).float().reshape(shape))
        )
    return found


def fused(by: Fusion, rows: Sequence[Sequence[Row]], weights: Sequence[float]) -> list[Row]:
    merged = Merged.of(lists_of(rows))
    out = Candidates(merged.keys, by.scores(merged, weights).float()).sorted()
    return [
        [(k, s) for k, s in zip(keys, scores, strict=True) if k != NO_ITEM]
        for keys, scores in zip(out.keys.tolist(), out.scores.tolist(), strict=True)
    ]


def best_first(scores: dict[int, float]) -> Row:
    rounded = {key: float(np.float32(score)) for key, score in scores.items()}
    return sorted(rounded.items(), key=lambda item: (-item[1], item[0]))


def naive_reciprocal_rank(rows: Sequence[Row], weights: Sequence[float]) -> Row:
    total: dict[int, float] = {}
    for row, weight in zip(rows, weights, strict=True):
        for rank, (key, _) in enumerate(row, start=1):
            total[key] = total.get(key, 0.0) + weight / (60 + rank)
    return best_first(total)


def naive_score(rows: Sequence[Row], weights: Sequence[float], scale: str) -> Row:
    total = {key: 0.0 for row in rows for key, _ in row}
    for row, weight in zip(rows, weights, strict=True):
        scores = np.array([score for _, score in row if math.isfinite(score)])
        if not len(row):
            continue
        flat = not len(scores) or scores.max() == scores.min()
        lowest, highest = 0.0, 0.0 if scale == "z" else 1.0
        if not len(scores):
            scaled = scores
        elif scale == "min-max":
            span = scores.max() - scores.min()
            scaled = np.ones(len(scores)) if flat else (scores - scores.min()) / span
        else:
            scaled = np.zeros(len(scores)) if flat else (scores - scores.mean()) / scores.std()
            lowest, highest = scaled.min(), scaled.max()
        values = iter(scaled.tolist())
        said = {
            key: next(values) if math.isfinite(score) else highest if score == math.inf else lowest
            for key, score in row
        }
        for key in total:
            total[key] += weight * said.get(key, lowest)
    return best_first(total)


def naive_quota(rows: Sequence[Row], weights: Sequence[float]) -> Row:
    """Turn by turn: of the sources' next items of their own, the one whose source is furthest behind."""
    owner: dict[int, tuple[float, int]] = {}
    for source, (row, weight) in enumerate(zip(rows, weights, strict=True)):
        for place, (key, _) in enumerate(row, start=1):
            if key not in owner or weight / place > owner[key][0]:
                owner[key] = (weight / place, source)
    own = [[key for key, _ in row if owner[key][1] == source] for source, row in enumerate(rows)]
    given = [0] * len(rows)
    out = []
    while any(given[s] < len(own[s]) for s in range(len(rows))):
        bids = [
            (-weights[s] / (given[s] + 1), own[s][given[s]], s)
            for s in range(len(rows))
            if given[s] < len(own[s])
        ]
        bid, key, source = min(bids)
        out.append((key, float(np.float32(-bid))))
        given[source] += 1
    return out


@st.composite
def several_queries(draw: st.DrawFn) -> tuple[list[list[Row]], list[float]]:
    sources = draw(st.integers(1, 4))
    row = st.lists(st.integers(0, 12), unique=True, max_size=8)
    score = st.one_of(st.integers(-3, 3).map(float), st.sampled_from([math.nan, -math.inf, math.inf]))

    def one() -> Row:
        rows = [(key, draw(score)) for key in draw(row)]
        return sorted(rows, key=lambda item: (math.inf if math.isnan(item[1]) else -item[1], item[0]))

    queries = [[one() for _ in range(sources)] for _ in range(draw(st.integers(1, 3)))]
    return queries, [draw(st.sampled_from([1.0, 2.0, 0.5, 3.0])) for _ in range(sources)]


@settings(max_examples=150, deadline=None)
@given(several_queries())
def test_each_equals_its_loop(case):
    queries, weights = case
    assert fused(ReciprocalRank(), queries, weights) == [naive_reciprocal_rank(q, weights) for q in queries]
    assert fused(Quota(), queries, weights) == [naive_quota(q, weights) for q in queries]
    for scale in ("min-max", "z"):
        found = fused(NormalisedScore(scale=scale), queries, weights)
        for row, query in zip(found, queries, strict=True):
            truth = dict(naive_score(query, weights, scale))
            assert dict(row) == pytest.approx(truth, abs=1e-6)
            assert row == best_first(dict(row))


@settings(max_examples=60, deadline=None)
@given(several_queries())
def test_any_fusion_keeps_every_item_once_and_no_other(case):
    queries, weights = case
    for by in (ReciprocalRank(), NormalisedScore(), NormalisedScore(scale="z"), Quota()):
        for row, query in zip(fused(by, queries, weights), queries, strict=True):
            assert sorted(key for key, _ in row) == sorted({key for source in query for key, _ in source})


def test_reciprocal_ranks_by_hand():
    """Item 8 is second in one list and first in the other."""
    lists = [[[(7, 0.9), (8, 0.1)], [(8, 5.0), (9, 4.0)]]]
    (row,) = fused(ReciprocalRank(), lists, [1, 1])
    assert [key for key, _ in row] == [8, 7, 9]
    assert [score for _, score in row] == pytest.approx([1 / 62 + 1 / 61, 1 / 61, 1 / 62])


def test_equal_ranks_in_another_order_are_equal_scores():
    """Three sources give 4 and 5 the ranks 1, 2, 3 in different orders: the sum must not see the order."""
    ranks = [[5, 4, 6], [6, 5, 4], [4, 6, 5]]
    (row,) = fused(ReciprocalRank(), [[[(key, 0.0) for key in keys] for keys in ranks]], [1, 1, 1])
    assert [key for key, _ in row] == [4, 5, 6]
    assert len({score for _, score in row}) == 1


def test_min_max_by_hand():
    lists = [[[(1, 10.0), (2, 5.0), (3, 0.0)], [(3, -1.0), (4, -1.0)]]]
    assert fused(NormalisedScore(), lists, [1, 2]) == [[(3, 2.0), (4, 2.0), (1, 1.0), (2, 0.5)]]


def test_z_by_hand_and_scores_that_differ_by_rounding_only():
    lists = [[[(1, 4.0), (2, 2.0)], [(2, 0.1), (3, 0.1), (4, 0.1)]]]
    assert fused(NormalisedScore(scale="z"), lists, [1, 1]) == [[(1, 1.0), (2, -1.0), (3, -1.0), (4, -1.0)]]


@pytest.mark.parametrize("bad", [math.nan, -math.inf])
@pytest.mark.parametrize(("scale", "worst"), [("min-max", 0.0), ("z", -1.0)])
def test_a_score_that_is_no_number_spoils_no_other(bad, scale, worst):
    """Item 3 counts as the worst that the source named, and the order of 1 and 2 is what it was."""
    lists = [[[(1, 4.0), (2, 2.0), (3, bad)]]]
    assert fused(NormalisedScore(scale=scale), lists, [1]) == [[(1, 1.0), (2, worst), (3, worst)]]


def test_quota_by_hand():
    """Weights 3 to 1; item 1 belongs to the source that shows it sooner; who runs dry is filled up for."""
    first = [(key, 0.0) for key in (10, 11, 12, 13, 1)]
    second = [(key, 0.0) for key in (1, 2)]
    (row,) = fused(Quota(), [[first, second]], [3, 1])
    assert [key for key, _ in row] == [10, 11, 1, 12, 13, 2]
    assert [score for _, score in row] == pytest.approx([3, 1.5, 1, 1, 0.75, 0.5])
    (row,) = fused(Quota(), [[first[:1], second]], [3, 1])
    assert [key for key, _ in row] == [10, 1, 2]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=4), st.integers(1, 40))
def test_quota_gives_each_source_the_whole_part_of_its_share(weights, k):
    rows = [[(100 * source + place, 0.0) for place in range(40)] for source in range(len(weights))]
    (row,) = fused(Quota(), [rows], [float(weight) for weight in weights])
    for source, weight in enumerate(weights):
        held = sum(key // 100 == source for key, _ in row[:k])
        assert held >= k * weight // sum(weights)


def test_nothing_to_merge():
    for by in (ReciprocalRank(), NormalisedScore(), NormalisedScore(scale="z"), Quota()):
        assert fused(by, [[[], []], [[], []]], [1, 1]) == [[], []]
        nobody = [Candidates(torch.empty(0, 3).long(), torch.empty(0, 3))] * 2
        assert by.scores(Merged.of(nobody), [1, 1]).shape == (0, 6)


def test_a_config_is_told_apart_by_its_kind():
    read = TypeAdapter(AnyFusion).validate_python
    assert read({"kind": "score", "scale": "z"}) == NormalisedScore(scale="z")
    assert read(Quota(weights={"a": 2}).plain()) == Quota(weights={"a": 2})
    with pytest.raises(ConfigError, match="greater than 0"):
        ReciprocalRank.parse({"weights": {"a": 0}})
