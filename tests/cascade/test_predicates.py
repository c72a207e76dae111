"""Predicates are data: read, checked, written again."""

import json

import pytest
import yaml

from twotower.cascade.predicates import Predicate
from twotower.errors import ConfigError

EVERY_FORM = [
    {"field": "genre", "in": ["a", "b"]},
    {"field": "year", "in": [1, 2.5, True, "x"]},
    {"field": "price", "at_least": 1.5, "at_most": 20.0},
    {"field": "price", "at_most": 0.0},
    {"available": "stock"},
    {"missing": "price"},
    {"ids": [3, "four"]},
    {"ids": []},
    {"not": {"any": [{"ids": [1]}, {"all": [{"missing": "a"}, {"not": {"available": "b"}}]}]}},
]


@pytest.mark.parametrize("plain", EVERY_FORM)
def test_is_written_as_it_was_read(plain):
    assert Predicate.parse(plain).plain() == plain
    for text in (yaml.safe_dump(plain), json.dumps(plain)):
        assert Predicate.parse(yaml.safe_load(text)) == Predicate.parse(plain)


@pytest.mark.parametrize(
    ("plain", "message"),
    [
        ({}, "found none"),
        ({"ids": [1], "available": "a"}, "found ids and available"),
        ({"field": "a"}, "'field' goes with"),
        ({"at_least": 3}, "found none"),
        ({"ids": [3], "in": [3]}, "'field' goes with"),
        ({"field": "a", "in": [1], "at_most": 2}, "join two predicates by all"),
        ({"field": "a", "at_least": 3, "at_most": 2}, "no number is at least 3 and at most 2"),
        ({"field": "a", "at_least": float("nan")}, "no number"),
        ({"field": "a", "in": []}, "here: in: "),
        ({"all": []}, "here: all: "),
        (
            {"any": [{"ids": [1]}, {"field": "a", "inn": [1]}]},
            r"any\.1: unknown key 'inn'; did you mean 'in'",
        ),
        ({"not": {"all": [{"field": 3, "in": [1]}]}}, r"not\.all\.0\.field"),
    ],
)
def test_a_mistake_is_named_with_its_place(plain, message):
    with pytest.raises(ConfigError, match=message):
        Predicate.parse(plain, where="here")
