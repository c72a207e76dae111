"""What a list looks like after the rules, on lists small enough to read."""

from itertools import permutations

import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from twotower.cascade.attributes import Attributes
from twotower.cascade.rules import Rules
from twotower.cascade.ruleset import RuleSet
from twotower.cascade.stage import Request
from twotower.errors import ConfigError, MismatchError
from twotower.types import NO_ITEM, Batch, Candidates, Ragged

N, DAY = 8, 86_400
TABLE = {
    "item": [f"i{key}" for key in range(N)],
    "kind": ["a", "a", "a", "b", "b", "c", None, "a"],
    "tags": [["x"], ["x", "y"], ["y"], [], ["z"], ["x", "z"], None, ["y", "z"]],
    "new": [False, False, True, False, True, None, False, False],
    "day": [0.0, 10.0, 20.0, 30.0, None, 40.0, 20.0, 0.0],
    "year": [1970, 1971, 1972, None, 1970, 1970, 1970, 1970],
}
ATTRIBUTES = Attributes(pl.DataFrame(TABLE), item="item")


def stage(*rules: dict, **rest) -> Rules:
    return Rules(RuleSet.parse({"rules": rules}), ATTRIBUTES, **rest)


def listed(*keys: list[int], scores: list[list[float]] | None = None) -> Candidates:
    tensor = torch.tensor(keys, dtype=torch.int64).reshape(len(keys), -1)
    falling = 1.0 - torch.arange(tensor.shape[1]).expand(tensor.shape)
    values = falling if scores is None else torch.tensor(scores)
    return Candidates(
        tensor,
        values.masked_fill(tensor == NO_ITEM, -torch.inf),
        Batch(first=tensor.float(), wide=tensor[..., None]),
    )


def ask(queries: int = 1, **rest) -> Request:
    return Request(Batch(user=torch.arange(queries)), **rest)


def shown(out: Candidates, row: int = 0) -> list[int]:
    return out.keys[row][out.mask[row]].tolist()


A, NEW = {"field": "kind", "in": ["a"]}, {"field": "new", "in": [True]}
QUOTA = {"kind": "quota", "field": "kind", "at_most": 1, "within": 2}
BLOCK_5 = {"kind": "block", "where": {"ids": ["i5"]}}
SPACING = {"kind": "spacing", "field": "kind", "within": 2}


@pytest.mark.parametrize(
    ("rules", "k", "wanted", "broken"),
    [
        ([], 8, [0, 1, 2, 3, 4, 5, 6, 7], {}),
        ([{"kind": "block", "where": A}], 8, [3, 4, 5, 6], {}),
        ([QUOTA], 4, [0, 3, 1, 2], {}),
        ([SPACING], 5, [0, 3, 1, 4, 2], {}),
        ([SPACING], 8, [0, 3, 1, 4, 2, 5, 6, 7], {}),
        ([{"kind": "spacing", "field": "tags", "within": 2}], 3, [0, 2, 3], {}),
        ([{"kind": "quota", "where": NEW, "at_least": 2, "within": 4}], 5, [0, 1, 2, 4, 3], {}),
        ([{"kind": "quota", "where": NEW, "at_least": 2, "within": 2}], 3, [2, 4, 0], {}),
        ([{"kind": "quota", "field": "kind", "at_least": 1, "within": 3}], 4, [0, 3, 5, 1], {}),
        ([{"kind": "quota", "where": A, "at_most": 0}], 4, [3, 4, 5, 6], {}),
        ([{"kind": "quota", "where": A, "at_most": 0}], 5, [3, 4, 5, 6, 0], {0: 1}),
        ([{"kind": "quota", "where": {"ids": []}, "at_least": 1}], 3, [0, 1, 2], {0: 1}),
        ([{"kind": "pin", "places": {1: "i5", 3: "i0"}}], 4, [5, 1, 0, 2], {}),
        ([{"kind": "pin", "places": {9: "i5", 1: "nobody"}}], 9, [0, 1, 2, 3, 4, 5, 6, 7], {0: 1}),
        ([{"kind": "pin", "places": {9: "i5"}}], 5, [0, 1, 2, 3, 4], {}),
        ([{"kind": "pin", "places": {1: "i0", 2: "i1"}}, SPACING], 4, [0, 1, 3, 2], {1: 1}),
        ([SPACING, {"kind": "pin", "places": {3: "i2"}}], 5, [0, 3, 2, 4, 1], {}),
        ([BLOCK_5, {"kind": "pin", "places": {1: "i5"}}], 2, [0, 1], {1: 1}),
        ([{"kind": "boost", "where": {"field": "kind", "in": ["c"]}, "plus": 100}], 3, [5, 0, 1], {}),
        ([{"kind": "boost", "where": A, "plus": -100}], 8, [3, 4, 5, 6, 0, 1, 2, 7], {}),
    ],
)  # fmt: skip
def test_examples(rules, k, wanted, broken):
    made = stage(*rules)
    out = made.run(ask(), listed(list(range(N))), k)
    assert shown(out) == wanted
    assert made.report(out) == {f"rules.{n}.{rules[n]['kind']}": count for n, count in broken.items()}


def test_the_search_finds_what_the_greedy_fill_misses_and_a_list_is_full_anyway():
    given_list = listed([3, 0, 1])  # b a a: greedy starts with b
    found = stage(SPACING).run(ask(), given_list, 3)
    assert shown(found) == [0, 3, 1]
    greedy = stage(SPACING, steps=0)
    out = greedy.run(ask(), given_list, 3)
    assert shown(out) == [3, 0, 1]
    assert greedy.report(out) == {"rules.0.spacing": 1}
    assert out.pair["rules_broken"].tolist() == [[0, 0, 1]]
    hopeless = stage(SPACING)
    out = hopeless.run(ask(2), listed([0, 1, 2], [0, 3, NO_ITEM]), 3)
    assert (shown(out), shown(out, 1)) == ([0, 1, 2], [0, 3])
    assert hopeless.broken_by(out).tolist() == [[True], [False]]


def test_quotas_stand_above_spacing_and_pins_above_both():
    least = {"kind": "quota", "where": {"field": "kind", "in": ["a"]}, "at_least": 2, "within": 2}
    made = stage(SPACING, least)
    out = made.run(ask(), listed([3, 0, 1, 5]), 4)
    assert shown(out)[:2] == [0, 1]
    assert made.report(out) == {"rules.0.spacing": 1}
    pinned = stage(SPACING, least, {"kind": "pin", "places": {1: "i3"}})
    out = pinned.run(ask(), listed([3, 0, 1, 5]), 4)
    assert shown(out) == [3, 0, 5, 1]
    assert pinned.report(out) == {"rules.1.quota": 1}


def test_boosts_add_to_standardised_scores_of_any_sign():
    keys, scores = [0, 1, 2, 3], [-10.0, -12.0, -14.0, -16.0]  # deviation sqrt(5): steps of .894
    boost = {"kind": "boost", "where": {"ids": ["i3"]}}
    for plus, wanted in ((0.89, [0, 1, 2, 3]), (0.90, [0, 1, 3, 2]), (2.69, [3, 0, 1, 2])):
        for shift, factor in ((0, 1), (100, 1), (13, 1000), (0, 1e-3)):
            changed = [[factor * score + shift for score in scores]]
            out = stage({**boost, "plus": plus}).run(ask(), listed(keys, scores=changed), 4)
            assert shown(out) == wanted
            assert sorted(out.pair["rules_given"][0].tolist()) == sorted(torch.tensor(changed)[0].tolist())


def test_equal_scores_are_told_apart_by_boosts_and_else_by_rising_keys():
    equal = listed([4, 2, 6, 3], scores=[[2.0] * 4])
    assert shown(stage().run(ask(), equal, 4)) == [2, 3, 4, 6]
    assert shown(stage({"kind": "boost", "where": {"ids": ["i4"]}, "plus": 0.1}).run(ask(), equal, 4))[0] == 4


def test_what_is_no_number_stands_last():
    odd = listed([0, 1, 2, 3], scores=[[float("nan"), 1.0, -torch.inf, 2.0]])
    boost = {"kind": "boost", "where": {"ids": ["i1"]}, "plus": 0.1}
    assert shown(stage(boost).run(ask(), odd, 4)) == [3, 1, 0, 2]
    assert shown(stage().run(ask(), odd, 4)) == [3, 1, 0, 2]


def test_freshness_halves_with_each_half_life():
    fresh = {"kind": "freshness", "field": "day", "half_life_days": 10, "plus": 4, "unit": "days"}
    now = torch.tensor([20 * DAY])
    # 3 is not out yet, 2 is of today, 1 of a half-life ago, 0 of two, and nobody knows when 4 came out
    tied = listed([0, 1, 2, 3, 4], scores=[[1.0] * 5])
    assert shown(stage(fresh).run(ask(time=now), tied, 5)) == [2, 3, 1, 0, 4]
    gap = listed([0, 1], scores=[[1.0, -1.0]])  # two deviations apart; freshness gives 1 one more, and two
    assert shown(stage({**fresh, "plus": 7.9}).run(ask(time=now), gap, 2)) == [0, 1]
    assert shown(stage({**fresh, "plus": 8.1}).run(ask(time=now), gap, 2)) == [1, 0]
    years = {**fresh, "field": "year", "unit": "year"}
    in_1972 = ask(time=torch.tensor([2 * 366 * DAY]))
    assert shown(stage(years).run(in_1972, listed([0, 1, 2, 3], scores=[[0.0] * 4]), 4)) == [2, 1, 0, 3]
    with pytest.raises(ConfigError, match=r"'day'.*Request\(time="):
        stage(fresh).run(ask(), tied, 5)


@pytest.mark.parametrize(("k", "wanted"), [(2, [7, 0]), (3, [7, 0, 1]), (5, [7, 0, 1])])
def test_a_pin_may_insert_one_item_and_only_where_it_may_be_shown(k, wanted):
    pin = {"kind": "pin", "places": {1: "i7"}, "insert": True}
    made, short = stage(pin), listed([0, 1])
    out = made.run(ask(), short, k)
    assert shown(out) == wanted
    assert out.pair["first"][0, 0] == out.pair["rules_given"][0, 0] == 0
    assert shown(stage({**pin, "insert": False}).run(ask(), short, k)) == [0, 1]
    assert shown(made.run(ask(), listed([0, 7]), k)) == [7, 0]
    not_seven = torch.arange(N) != 7
    for request in (ask(exclude=Ragged.of([[7]])), ask(allow=not_seven), ask(allow=not_seven[None])):
        out = made.run(request, short, k)
        assert shown(out) == [0, 1]
        assert made.report(out) == {"rules.0.pin": 1}
    blocked = stage(pin, {"kind": "block", "where": {"ids": ["i7"]}})
    assert shown(blocked.run(ask(), short, k)) == [0, 1]
    deleted = stage(pin, there=not_seven)
    assert shown(deleted.run(ask(), short, k)) == [0, 1]
    assert deleted.report(deleted.run(ask(), short, k)) == {"rules.0.pin": 1}
    nothing = listed([])
    assert shown(made.run(ask(), nothing, k)) == [7]


def test_hands_on_a_falling_score_and_what_earlier_stages_knew():
    out = stage(SPACING).run(ask(2), listed([0, 1, 2, 3], [5, 1, NO_ITEM, NO_ITEM]), 3)
    assert torch.equal(out.sorted().keys, out.keys)
    assert out.scores.dtype == torch.float32
    assert out.scores.tolist() == [[0, -1, -2], [0, -1, -torch.inf]]
    assert out.keys.tolist() == [[0, 3, 1], [5, 1, NO_ITEM]]
    assert out.pair["first"].tolist() == [[0, 3, 1], [5, 1, 0]]
    assert out.pair["wide"].tolist() == [[[0], [3], [1]], [[5], [1], [0]]]
    assert out.pair["rules_given"].tolist() == [[1, -2, 0], [1, 0, 0]]
    assert out.pair["rules_rank"].tolist() == [[0, 1, 2]] * 2


EVERYTHING = [
    {"kind": "block", "where": {"ids": ["i6"]}},
    {"kind": "pin", "places": {2: "i1"}},
    {"kind": "quota", "field": "tags", "at_most": 2, "at_least": 1, "within": 5},
    SPACING,
    {"kind": "boost", "where": {"available": "new"}, "plus": 1},
    {"kind": "freshness", "field": "day", "half_life_days": 9, "unit": "days"},
]


def test_many_queries_are_answered_as_each_alone_in_pieces_of_any_size():
    draw = torch.Generator().manual_seed(0)
    keys = torch.stack([torch.randperm(N, generator=draw)[:6] for _ in range(9)])
    keys[torch.arange(6) >= 6 - torch.arange(9)[:, None] % 7] = NO_ITEM
    times = torch.arange(9) * 7 * DAY
    whole = stage(*EVERYTHING).run(ask(9, time=times), listed(*keys.tolist()), 5)
    pieces = stage(*EVERYTHING, pairs_at_once=13).run(ask(9, time=times), listed(*keys.tolist()), 5)
    assert torch.equal(pieces.keys, whole.keys)
    assert torch.equal(pieces.pair["rules_broken"], whole.pair["rules_broken"])
    for row in range(9):
        alone = stage(*EVERYTHING).run(ask(time=times[row : row + 1]), listed(keys[row].tolist()), 5)
        assert shown(alone) == shown(whole, row)


@pytest.mark.parametrize("k", [0, 1, 100])
@pytest.mark.parametrize("keys", [[[]], [[NO_ITEM, NO_ITEM]], [[6, NO_ITEM]]])
def test_lists_with_nothing_to_show(k, keys):
    made = stage(*EVERYTHING)
    out = made.run(ask(time=torch.tensor([0])), listed(*keys), k)
    assert shown(out) == []
    assert out.keys.shape[1] <= k
    assert made.report(out) == {}


def test_nobody_asks():
    nobody = Candidates(torch.empty(0, 3).long(), torch.empty(0, 3))
    assert stage(*EVERYTHING).run(ask(0, time=torch.empty(0)), nobody, 5).keys.shape == (0, 3)


def test_mistakes_are_named():
    with pytest.raises(
        ConfigError, match=r"rules\.1\.quota\.field: no item field 'kinds'; did you mean 'kind'"
    ):
        stage(SPACING, {**QUOTA, "field": "kinds"})
    with pytest.raises(ConfigError, match=r"rules\.0\.boost\.where\.any\.0\.field: no item field 'x1'"):
        stage({"kind": "boost", "plus": 1, "where": {"any": [{"field": "x1", "in": [1]}]}})
    with pytest.raises(ConfigError, match=r"rules\.0\.freshness\.field: 'kind' must be a number"):
        stage({"kind": "freshness", "field": "kind", "half_life_days": 1})
    with pytest.raises(ConfigError, match="stands first"):
        stage().run(ask(), None, 3)
    with pytest.raises(MismatchError, match="item key 8"):
        stage().run(ask(), listed([8]), 3)


def test_says_its_memory():
    assert stage().bytes_per_item == 1
    assert stage(*EVERYTHING).bytes_per_item == 1 + 8 * (2 + 1) + 16


LIMITS = st.one_of(
    st.builds(
        lambda field, n, within: {"kind": "quota", "field": field, "at_most": n, "within": within},
        st.sampled_from(["kind", "tags", "new"]), st.integers(0, 2), st.integers(1, 4),
    ),
    st.builds(
        lambda value, n, within: {"kind": "quota", "where": {"field": "tags", "in": [value]},
                                  "at_least": min(n, within), "within": within},
        st.sampled_from("xyz"), st.integers(1, 2), st.integers(1, 4),
    ),
    st.builds(
        lambda field, within: {"kind": "spacing", "field": field, "within": within},
        st.sampled_from(["kind", "tags", "new"]), st.integers(2, 3),
    ),
)  # fmt: skip


def broken(rules: list[dict], keys: list[int]) -> list[int]:
    """The numbers of the rules that a list breaks, by the words of the rules."""
    out = []
    for number, rule in enumerate(rules):
        if "where" in rule:
            count = sum(
                rule["where"]["in"][0] in (TABLE["tags"][key] or []) for key in keys[: rule["within"]]
            )
            bad = bool(keys) and count < rule["at_least"]
        else:
            raw = [TABLE[rule["field"]][key] for key in keys]
            own = [v if isinstance(v, list) else [] if v is None else [v] for v in raw]
            if rule["kind"] == "quota":
                seen = [v for values in own[: rule["within"]] for v in values]
                bad = any(seen.count(v) > rule["at_most"] for v in seen)
            else:
                pairs = [(p, q) for p in range(len(own)) for q in range(p) if p - q < rule["within"]]
                bad = any(set(own[p]) & set(own[q]) for p, q in pairs)
        out += [number] if bad else []
    return out


def possible(rules: list[dict], keys: list[int], k: int) -> list[list[int]]:
    """All unbroken lists, the best first."""
    return [list(p) for p in permutations(keys, min(k, len(keys))) if not broken(rules, list(p))]


@settings(max_examples=80, deadline=None)
@given(
    st.lists(LIMITS, max_size=3),
    st.permutations(range(N)), st.integers(0, 6), st.integers(0, 4),
)  # fmt: skip
def test_a_list_is_full_and_unbroken_wherever_one_can_be(rules, keys, candidates, k):
    keys = list(keys)[:candidates]
    made = stage(*rules, steps=100_000)
    out = made.run(ask(), listed(keys), k)
    best = possible(rules, keys, k)
    assert len(shown(out)) == min(k, candidates)
    assert len(set(shown(out))) == len(shown(out))
    assert set(shown(out)) <= set(keys)
    assert torch.nonzero(made.broken_by(out)[0]).flatten().tolist() == broken(rules, shown(out))
    assert (broken(rules, shown(out)) == []) == bool(best)
    if not best:  # then quotas hold at least, where they alone can
        quotas = [rule for rule in rules if rule["kind"] == "quota"]
        assert (broken(quotas, shown(out)) == []) == bool(possible(quotas, keys, k))
    if best and not any("where" in rule for rule in rules):
        assert shown(out) == best[0]  # item by item the best there is


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 2), st.integers(1, 4)), min_size=1, max_size=3),
    st.permutations(range(N)), st.integers(0, 6), st.integers(0, 4),
)  # fmt: skip
def test_maxima_over_one_field_of_single_values_need_no_search(bounds, keys, candidates, k):
    rules = [{"kind": "quota", "field": "kind", "at_most": n, "within": within} for n, within in bounds]
    keys = list(keys)[:candidates]
    best = possible(rules, keys, k)
    out = stage(*rules, steps=0).run(ask(), listed(keys), k)
    if best:
        assert shown(out) == best[0]


def test_without_time_blocked_and_deleted_items_go_and_the_order_stands():
    there = torch.arange(N) != 1
    boost = {"kind": "boost", "where": {"ids": ["i7"]}, "plus": 9}
    pin = {"kind": "pin", "places": {1: "i7", 2: "i6"}, "insert": True}
    rules = stage(BLOCK_5, SPACING, boost, pin, there=there)
    out = rules.fallback(ask(2), listed([5, 0, 1, 2, 3, 7], [5, 1, -1, -1, -1, -1]), 3)
    assert (shown(out), shown(out, 1)) == ([0, 2, 3], [])
    assert rules.report(out) == {"rules.1.spacing": 1, "rules.3.pin": 1}  # 0 and 2 are of a kind
    assert out.pair["rules_given"][0].tolist() == [0.0, -2.0, -3.0]
    assert out.pair["rules_score"][0].tolist() == [0.0, -1.0, -2.0]
    assert out.pair["rules_rank"][0].tolist() == [0.0, 1.0, 2.0]
