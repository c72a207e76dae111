"""Rules are data: read, checked, written again; a mistake is named by the rule's number and field."""

import json

import pytest
import yaml

from twotower.cascade.ruleset import MOST_RULES, RuleSet
from twotower.errors import ConfigError

ALL = {
    "rules": [
        {"kind": "block", "where": {"not": {"available": "stock"}}},
        {"kind": "pin", "places": {1: 318, 3: "b"}, "insert": True},
        {"kind": "quota", "field": "genre", "at_most": 2, "within": 10},
        {"kind": "quota", "where": {"field": "new", "in": [True]}, "at_least": 1},
        {"kind": "spacing", "field": "studio", "where": {"ids": [1]}, "within": 3},
        {"kind": "boost", "where": {"field": "price", "at_most": 20}, "plus": -0.5},
        {"kind": "freshness", "field": "released", "half_life_days": 30, "unit": "ms"},
    ]
}


def test_are_read_from_yaml_and_json_and_written_as_they_were_read(tmp_path):
    rules = RuleSet.parse(ALL)
    assert [rule.kind for rule in rules.rules] == [rule["kind"] for rule in ALL["rules"]]
    assert RuleSet.parse(rules.plain()) == rules
    for text in (json.dumps(rules.plain()), yaml.safe_dump(rules.plain())):
        (tmp_path / "rules.yaml").write_text(text)
        assert RuleSet.load(tmp_path / "rules.yaml") == rules


def test_no_rules_are_rules():
    assert RuleSet.parse({}).rules == ()


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ({"kind": "quoat"}, r"rules\.1.*'quota'"),
        ({"kind": "quota", "feild": "a", "at_most": 1}, "unknown key 'feild'; did you mean 'field'"),
        ({"kind": "quota", "field": "a", "at_most": "many"}, r"rules\.1\.at_most"),
        ({"kind": "quota", "at_most": 1}, r"rules\.1: name a field"),
        ({"kind": "quota", "field": "a"}, "needs at_least, at_most or both"),
        ({"kind": "quota", "field": "a", "at_least": 3, "at_most": 2}, "exclude each other"),
        ({"kind": "quota", "field": "a", "at_least": 3, "within": 2}, "2 places do not hold"),
        ({"kind": "spacing", "field": "a", "within": 1}, r"rules\.1\.within"),
        (
            {"kind": "block", "where": {"any": [{"idz": [1]}]}},
            r"rules\.1\.where\.any\.0: unknown key 'idz'",
        ),
        ({"kind": "boost", "where": {"ids": [1]}}, r"rules\.1\.plus: Field required"),
        ({"kind": "boost", "where": {"ids": [1]}, "plus": float("inf")}, r"rules\.1\.plus"),
        ({"kind": "freshness", "field": "a", "half_life_days": 0}, "half_life_days"),
        ({"kind": "pin", "places": {0: 5}}, "the first place is 1, found 0"),
        ({"kind": "pin", "places": {}}, "places"),
        ({"kind": "pin", "places": {2: 7}}, "rules 0 and 1 both pin an item to place 2"),
        ({"kind": "pin", "places": {1: "5"}}, "rules 0 and 1 both pin the item '5'"),
    ],
)
def test_a_mistake_is_named_by_number_and_field(rule, message):
    first = {"kind": "pin", "places": {2: 5}}
    with pytest.raises(ConfigError, match=message):
        RuleSet.parse({"rules": [first, rule]}, where="r.yaml")


def test_there_are_only_so_many_bits():
    with pytest.raises(ConfigError, match="rules"):
        RuleSet.parse({"rules": [{"kind": "block", "where": {"ids": []}}] * (MOST_RULES + 1)})
