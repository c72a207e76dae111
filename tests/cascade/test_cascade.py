"""Stages compose into one value; a trace says what each did."""

from dataclasses import replace

import polars as pl
import pytest
import torch

from twotower.cascade.attributes import Attributes
from twotower.cascade.cascade import Cascade
from twotower.cascade.filter import Filter, both_allow
from twotower.cascade.rules import Rules
from twotower.cascade.ruleset import RuleSet
from twotower.cascade.sources import RetrieveGiven
from twotower.cascade.stage import Request, Stage, rank_pair
from twotower.errors import ConfigError
from twotower.types import Batch, Candidates

REQUEST = Request(Batch(user=torch.arange(2)))


class Numbers(Stage):
    """Retrieves the items 0 .. k-1, with falling scores."""

    bytes_per_item = 8.0

    def run(self, request, candidates, k):
        keys = torch.arange(k).expand(len(request), k)
        return rank_pair(self.name, Candidates(keys, -keys.float()))


class Odd(Stage):
    """Keeps the best odd items."""

    bytes_per_item = 0.0

    def run(self, request, candidates, k):
        odd = candidates.keys % 2 == 1
        kept = Candidates(
            candidates.keys.masked_fill(~odd, -1),
            candidates.scores.masked_fill(~odd, -torch.inf),
            candidates.pair,
        )
        return rank_pair(self.name, kept.sorted().best(k))


def test_stages_and_cascades_compose():
    one, two, three = Numbers("a", 8), Odd("b", 4), Odd("c", 2)
    for cascade in (one >> two >> three, one >> (two >> three), Cascade(one) >> Cascade(two, three)):
        assert isinstance(cascade, Cascade)
        assert repr(cascade) == "a(8) >> b(4) >> c(2)"
        assert cascade(REQUEST)[0].keys.tolist() == [[1, 3], [1, 3]]


def test_composing_leaves_the_parts_as_they_were():
    first = Cascade(Numbers("a", 8))
    _ = first >> Odd("b", 4)
    assert repr(first) == "a(8)"


def test_trace_counts_what_went_in_and_out():
    found, trace = (Numbers("a", 8) >> Odd("b", 3))(REQUEST)
    first, second = trace.steps
    assert (first.n_in, first.n_out, first.asked) == (None, 16, 8)
    assert (second.n_in, second.n_out, second.asked) == (16, 6, 3)
    assert torch.equal(second.output.keys, found.keys)
    assert trace.took_ms == pytest.approx(first.took_ms + second.took_ms)
    assert str(trace).splitlines()[0].startswith("a: catalogue -> 16 in ")
    assert str(trace).splitlines()[1].startswith("b: 16 -> 6 in ")


def test_trace_says_who_dropped_an_item():
    _, trace = (Numbers("a", 8) >> Odd("b", 3))(REQUEST)
    assert [trace.dropped_by(0, key) for key in (1, 2, 7, 99)] == [None, "b", "b", "a"]


def test_what_a_stage_adds_was_dropped_by_none():
    pins = RuleSet.parse({"rules": [{"kind": "pin", "places": {1: 9, 2: 4}, "insert": True}]})
    items = Attributes(pl.DataFrame({"item": range(12)}), item="item")
    found, trace = (Numbers("a", 8) >> Odd("b", 3) >> Rules(pins, items, k=3) >> Odd("c", 3))(REQUEST)
    assert found.keys[0].tolist() == [9, 1, -1]
    assert [trace.dropped_by(0, key) for key in (9, 1, 3, 4, 2, 11)] == [None, None, "rules", "c", "b", "a"]


def test_depths_hold_for_one_request_only():
    cascade = Numbers("a", 8) >> Odd("b", 3)
    deeper = Request(REQUEST.query, depths={"a": 12, "b": 6})
    assert cascade(deeper)[0].keys.shape == (2, 6)
    assert cascade(REQUEST)[0].keys.shape == (2, 3)
    assert cascade(Request(REQUEST.query, depths={"a": 0}))[0].counts.tolist() == [0, 0]


def test_an_unknown_depth_is_an_error_that_names_the_stages():
    with pytest.raises(ConfigError, match=r"'prerank'.*a\(8\) >> b\(3\)"):
        (Numbers("a", 8) >> Odd("b", 3))(Request(REQUEST.query, depths={"prerank": 3}))


def test_a_negative_depth_is_an_error():
    with pytest.raises(ConfigError, match="negative"):
        (Numbers("a", 8) >> Odd("b", 3))(Request(REQUEST.query, depths={"b": -1}))


def test_names_must_differ_and_there_must_be_a_stage():
    with pytest.raises(ConfigError, match=r"\['a'\]"):
        Numbers("a", 8) >> Odd("a", 3)
    with pytest.raises(ConfigError, match="no stages"):
        Cascade()


def given_lists(*rows, **asked):
    return Request(Batch(given=torch.tensor(rows)), **asked)


def odd(size):
    return torch.arange(size) % 2 == 1


def test_what_a_filter_will_drop_is_not_retrieved():
    cascade = RetrieveGiven("given", k=3) >> Filter(odd(8), k=3)
    found, trace = cascade(given_lists(list(range(8)), [6, 0, 4, 2, 7, 5, 1, 3]))
    assert found.keys.tolist() == [[1, 3, 5], [7, 5, 1]]  # not what is odd of the first three
    assert [(step.n_out, step.asked) for step in trace.steps] == [(6, 3), (6, 3)]


def test_the_masks_of_all_stages_and_of_the_request_hold_together():
    blocks = RuleSet.parse({"rules": [{"kind": "block", "where": {"ids": [3]}}]})
    items = Attributes(pl.DataFrame({"item": range(8)}), item="item")
    cascade = RetrieveGiven("given", k=2) >> Filter(odd(8), k=2) >> Rules(blocks, items, k=2)
    asked = given_lists(list(range(8)), list(range(8)))
    assert cascade(asked)[0].keys.tolist() == [[1, 5], [1, 5]]
    each = torch.ones(2, 8, dtype=torch.bool)
    each[1, 1] = False
    assert cascade(replace(asked, allow=each))[0].keys.tolist() == [[1, 5], [5, 7]]
    assert cascade(replace(asked, allow=torch.arange(8) > 5))[0].keys.tolist() == [[7, -1], [7, -1]]


def test_without_masks_a_request_stays_as_it_is():
    asked = given_lists([0, 1])
    assert Cascade(RetrieveGiven("given")).narrowed(asked) is asked
    items = Attributes(pl.DataFrame({"item": range(8)}), item="item")
    spacing = RuleSet.parse({"rules": [{"kind": "spacing", "field": "item", "within": 2}]})
    assert (RetrieveGiven("given") >> Filter() >> Rules(spacing, items)).narrowed(asked) is asked


def test_items_beyond_the_shorter_of_two_masks_are_not_allowed():
    short, long = torch.tensor([True, False]), torch.tensor([[True, True, True], [False, True, True]])
    assert both_allow(short, long).tolist() == both_allow(long, short).tolist()
    assert both_allow(short, long).tolist() == [[True, False], [False, False]]
    assert both_allow(None, short) is short
    assert both_allow(short, None) is short
    assert both_allow(None, None) is None
