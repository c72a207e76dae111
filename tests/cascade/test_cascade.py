"""Stages compose into one value; a trace says what each did."""

import pytest
import torch

from twotower.cascade.cascade import Cascade
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
