"""AUC against the quadratic definition, log loss and calibration against numbers done by hand."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from twotower.errors import ConfigError, DataError
from twotower.metrics.rating import auc, calibration_error, calibration_ratio, grouped_auc, log_loss


def naive_auc(scores, labels):
    pos = [s for s, y in zip(scores, labels, strict=True) if y]
    neg = [s for s, y in zip(scores, labels, strict=True) if not y]
    wins = sum((p > n) + 0.5 * (p == n) for p in pos for n in neg)
    return wins / (len(pos) * len(neg)) if pos and neg else math.nan


rows = st.lists(st.tuples(st.integers(-3, 3), st.integers(0, 1), st.integers(0, 4)), min_size=1, max_size=40)


@given(rows)
def test_auc_with_ties_equals_the_pairwise_definition(rows):
    scores, labels, _ = zip(*rows, strict=True)
    ours = auc(torch.tensor(scores, dtype=torch.float32), torch.tensor(labels))
    assert ours == pytest.approx(naive_auc(scores, labels), abs=1e-12, nan_ok=True)


@given(rows)
def test_grouped_auc_equals_auc_of_each_group(rows):
    scores, labels, groups = (torch.tensor(column) for column in zip(*rows, strict=True))
    result = grouped_auc(scores.float(), labels, groups * 10**12)
    sizes = []
    for name, value, size in zip(result.groups, result.values, result.impressions, strict=True):
        inside = groups * 10**12 == name
        assert size == inside.sum()
        sizes.append(int(size))
        expected = naive_auc(scores[inside].tolist(), labels[inside].tolist())
        assert value.item() == pytest.approx(expected, abs=1e-12, nan_ok=True)
    assert sum(sizes) == len(rows)
    assert result.counted + result.left_out == len(result.groups)


@pytest.mark.parametrize("bad_from", [-8, 1])  # below every good one, among them
def test_auc_of_more_pairs_than_float32_can_count(bad_from):
    """4099 * 4111 pairs, twice, is no number of float32: a perfect order was worth more than 1."""
    g = torch.Generator().manual_seed(0)
    good = torch.randint(1, 9, (4099,), generator=g)
    bad = torch.randint(bad_from, bad_from + 8, (4111,), generator=g)
    twice = int(2 * (good[:, None] > bad).sum() + (good[:, None] == bad).sum())
    labels = torch.cat([torch.ones(4099), torch.zeros(4111)])
    assert auc(torch.cat([good, bad]).float(), labels) == twice / (2 * 4099 * 4111)


def test_grouped_auc_of_recbole():
    """Positives at ranks {1}, {1, 3}, {1, 3, 5} of lists of 2, 3, 5: RecBole weights by positives (MIT)."""
    sizes, ranks = [2, 3, 5], [{1}, {1, 3}, {1, 3, 5}]
    scores = torch.tensor([-float(r) for n in sizes for r in range(1, n + 1)])
    labels = torch.tensor(
        [int(r in pos) for n, pos in zip(sizes, ranks, strict=True) for r in range(1, n + 1)]
    )
    groups = torch.tensor([g for g, n in enumerate(sizes) for _ in range(n)])
    result = grouped_auc(scores, labels, groups)
    expected = [2 - 0 - 1, (3 - 0.5 - 2) / 1, (5 - 1 - 3) / 2]
    assert result.values.tolist() == expected
    assert result.by_positives == pytest.approx((1 * 1 + 2 * 0.5 + 3 * 0.5) / 6)
    assert result.by_impressions == pytest.approx((2 * 1 + 3 * 0.5 + 5 * 0.5) / 10)
    assert result.unweighted == pytest.approx((1 + 0.5 + 0.5) / 3)


def test_one_class_and_no_rows_have_no_auc():
    assert math.isnan(auc(torch.tensor([1.0, 2.0]), torch.tensor([1, 1])))
    assert math.isnan(auc(torch.tensor([]), torch.tensor([])))
    assert math.isnan(grouped_auc(torch.tensor([1.0]), torch.tensor([1]), torch.tensor([3])).by_impressions)


def test_auc_ignores_the_order_of_rows_and_the_scale_of_scores():
    g = torch.Generator().manual_seed(0)
    scores = torch.randn(500, generator=g)
    labels = (torch.rand(500, generator=g) < 0.3).long()
    order = torch.randperm(500, generator=g)
    assert auc(scores, labels) == auc(scores[order], labels[order]) == auc(scores * 8 - 2**10, labels)


def test_log_loss_is_exact_and_stable():
    logits = torch.tensor([0.3, -1.2, 25.0, -25.0])
    labels = torch.tensor([1, 0, 0, 1])
    probs = torch.sigmoid(logits.double())
    naive = -(labels * probs.log() + (1 - labels) * (1 - probs).log()).mean()
    assert log_loss(logits, labels) == pytest.approx(naive.item(), rel=1e-6)
    assert log_loss(torch.tensor([1e4, -1e4]), torch.tensor([0, 0])) == 5e3
    assert log_loss(torch.tensor([math.inf]), torch.tensor([1])) == 0


@pytest.mark.parametrize("equal", ["mass", "width"])
def test_calibration_error_by_hand(equal):
    probs = torch.tensor([0.1, 0.1, 0.3, 0.3, 0.8, 0.8, 0.9, 0.9])
    labels = torch.tensor([0, 0, 0, 1, 1, 1, 1, 0])
    # two bins of four: |0.8 - 1| / 8 and |3.4 - 3| / 8
    assert calibration_error(probs, labels, bins=2, equal=equal) == pytest.approx(0.2 / 8 + 0.4 / 8)
    assert calibration_ratio(probs, labels) == pytest.approx(4.2 / 4)


def test_calibration_error_depends_neither_on_row_order_nor_on_ties():
    g = torch.Generator().manual_seed(1)
    probs = torch.rand(200, generator=g).round(decimals=1)
    labels = (torch.rand(200, generator=g) < probs).long()
    order = torch.randperm(200, generator=g)
    for bins in (1, 7, 500):
        first = calibration_error(probs, labels, bins)
        assert first == pytest.approx(calibration_error(probs[order], labels[order], bins), abs=1e-12)
    distinct = torch.arange(200) / 200
    exact = calibration_error(distinct, labels, bins=10)
    gap = (distinct.double() - labels).view(10, 20).sum(1).abs().sum() / 200
    assert exact == pytest.approx(gap.item())


def test_extreme_probabilities_fall_into_the_outer_bins():
    for equal in ("mass", "width"):
        assert calibration_error(torch.tensor([0.0, 1.0]), torch.tensor([0, 1]), equal=equal) == 0


def test_bad_input_is_explained():
    one = torch.tensor([1])
    with pytest.raises(DataError, match="NaN"):
        auc(torch.tensor([math.nan]), one)
    with pytest.raises(DataError, match="0 or 1"):
        log_loss(torch.tensor([0.5]), torch.tensor([4]))
    with pytest.raises(DataError, match="shapes"):
        auc(torch.tensor([0.5, 0.5]), one)
    with pytest.raises(DataError, match="outside 0 to 1"):
        calibration_ratio(torch.tensor([1.5]), one)
    with pytest.raises(ConfigError, match="bins"):
        calibration_error(torch.tensor([0.5]), one, bins=0)
    assert math.isnan(calibration_ratio(torch.tensor([0.5]), torch.tensor([0])))
