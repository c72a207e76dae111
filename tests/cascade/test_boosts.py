"""Scores in standard deviations, and what is added to them."""

import polars as pl
import pytest
import torch

from twotower.cascade.attributes import Attributes
from twotower.cascade.boosts import Boosts
from twotower.cascade.ruleset import RuleSet

DAY = 86_400
ITEMS = pl.DataFrame({"id": [10, 11, 12, 13], "day": [0.0, 10.0, None, 99.0]})
KEYS, REAL = torch.tensor([[0, 1, 2, 3]]), torch.ones(1, 4, dtype=torch.bool)


def boosts(*rules: dict) -> Boosts:
    return Boosts(RuleSet.parse({"rules": rules}).rules, Attributes(ITEMS, item="id"))


PLUS = {"kind": "boost", "where": {"ids": [11, 12]}, "plus": 0.5}


def test_without_rules_scores_stay():
    scores = torch.tensor([[3.0, -1.0, float("nan"), torch.inf]])
    assert boosts().scores(KEYS, scores, REAL, None).tolist() == [[3.0, -1.0, -torch.inf, torch.inf]]
    assert boosts().bytes_per_item == 0


def test_scores_are_standardised_over_the_real_candidates_and_boosts_add_up():
    scores = torch.tensor([[4.0, 2.0, 0.0, 1e9]])
    real = torch.tensor([[True, True, True, False]])
    out = boosts(PLUS, {**PLUS, "where": {"ids": [12]}, "plus": -2}).scores(KEYS, scores, real, None)
    unit = 1.5**0.5
    assert out[0, :3].tolist() == pytest.approx([unit, 0.5, -unit - 1.5])


def test_equal_and_infinite_scores_give_no_nan():
    assert boosts(PLUS).scores(KEYS, torch.full((1, 4), 7.0), REAL, None).tolist() == [[0, 0.5, 0.5, 0]]
    odd = torch.tensor([[-torch.inf, 1.0, 3.0, float("nan")]])
    assert boosts(PLUS).scores(KEYS, odd, REAL, None).tolist() == [[-torch.inf, -0.5, 1.5, -torch.inf]]
    nothing = boosts(PLUS).scores(KEYS, odd, torch.zeros(1, 4, dtype=torch.bool), None)
    assert not nothing.isnan().any()


@pytest.mark.parametrize(("unit", "factor"), [("s", DAY), ("ms", 1000 * DAY), ("days", 1)])
def test_freshness_in_each_unit(unit, factor):
    items = ITEMS.with_columns(pl.col("day") * factor)
    rule = {"kind": "freshness", "field": "day", "half_life_days": 10, "plus": 8, "unit": unit}
    made = Boosts(RuleSet.parse({"rules": [rule]}).rules, Attributes(items, item="id"))
    out = made.scores(KEYS.expand(2, 4), torch.zeros(2, 4), REAL.expand(2, 4), torch.tensor([20, 30]) * DAY)
    assert out.tolist() == [pytest.approx([2, 4, 0, 8]), pytest.approx([1, 2, 0, 8])]
    assert made.bytes_per_item == 16
