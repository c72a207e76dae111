"""A user's own source answers as it likes; the stage around it keeps what every stage promises."""

from __future__ import annotations

import sys

import pytest
import torch

from twotower.cascade.own_source import (
    RetrieveOwn,
    check_source,
    load_source,
    make_source,
    save_source,
    source_class,
)
from twotower.cascade.stage import Request
from twotower.errors import ConfigError, DataError, StorageError
from twotower.types import NO_ITEM, Batch, Candidates, Ragged

N = 8


class Fixed:
    """The same list for everybody: items N-1, N-2, ... with whole scores, twice over and unsorted."""

    def __init__(self, step: int = 1, scores: float = 0.0) -> None:
        self.step, self.shift, self.asked = step, scores, list[int]()

    def fit(self, dataset, positives):
        return self

    def search(self, request, k):
        self.asked.append(k)
        keys = torch.arange(N - 1, -1, -self.step)[:k].expand(len(request), -1)
        both = torch.cat([keys, keys.flip(1)], 1)
        return Candidates(both, torch.cat([keys, keys.flip(1) - 0.5], 1).float() + self.shift)

    def state(self):
        return {"words": ["a", "b"], "weights": torch.arange(3.0), "step": self.step}

    def restore(self, state):
        self.restored = dict(state)


def request(queries: int = 2, **more) -> Request:
    return Request(Batch(user=torch.arange(queries)), Ragged.of([[]] * queries), **more)


def run(k: int, source=None, **more) -> list[list[int]]:
    return RetrieveOwn(source or Fixed(), N, name="own").run(request(**more), None, k).keys.tolist()


def test_items_come_once_and_best_first():
    found = RetrieveOwn(Fixed(), N, name="own").run(request(), None, 3)
    assert found.keys.tolist() == [[7, 6, 5]] * 2
    assert found.scores.tolist() == [[7.0, 6.0, 5.0]] * 2
    assert sorted(found.pair) == ["own_rank", "own_score"]


def test_equal_scores_stand_by_rising_key():
    class Equal(Fixed):
        def search(self, request, k):
            keys = torch.tensor([[5, 2, NO_ITEM, 4]]).expand(len(request), -1)
            return Candidates(keys, torch.ones(keys.shape).masked_fill(keys < 0, -torch.inf))

    assert [row[:3] for row in run(4, Equal())] == [[2, 4, 5]] * 2


def test_k_come_back_whenever_there_are_k_that_may_be_shown():
    assert run(2, exclude=Ragged.of([[7, 6, 5], []])) == [[4, 3], [7, 6]]
    allow = torch.tensor([True, True, True, False, False, False, False, False])
    assert run(3, allow=allow) == [[2, 1, 0]] * 2
    both = run(2, allow=allow, exclude=Ragged.of([[2], [0]]))
    assert both == [[1, 0], [2, 1]]
    short = run(3, Fixed(step=4), allow=allow)  # it knows 7 and 3 only
    assert [[key for key in row if key != NO_ITEM] for row in short] == [[], []]


class Repeating(Fixed):
    """Honest about k, but every item stands ``step`` times; for ever where ``step`` is 0."""

    def search(self, request, k):
        self.asked.append(k)
        keys = torch.arange(N).repeat_interleave(self.step) if self.step else torch.zeros(k).long()
        keys = keys[:k].expand(len(request), -1)
        return Candidates(keys, -torch.arange(float(keys.shape[1])).expand(keys.shape))


@pytest.mark.parametrize("times", [1, 2, 5])
def test_items_said_several_times_cost_no_place(times):
    assert run(3, Repeating(times)) == [[0, 1, 2]] * 2
    assert run(2, Repeating(times), exclude=Ragged.of([[0, 1, 2], []])) == [[3, 4], [0, 1]]
    even = torch.arange(N) % 2 == 0
    assert run(4, Repeating(times), allow=even) == [[0, 2, 4, 6]] * 2
    assert run(3, Repeating(times), allow=even, exclude=Ragged.of([[0], []])) == [[2, 4, 6], [0, 2, 4]]


def test_a_source_is_not_asked_for_ever():
    endless = Repeating(0)
    found = RetrieveOwn(endless, N).run(request(), None, 3)
    assert found.counts.tolist() == [1, 1]
    assert max(endless.asked) <= 4 * N


@pytest.mark.parametrize("k", [0, 1, N, 3 * N])
def test_never_more_than_asked_and_none_of_nobody(k):
    found = RetrieveOwn(Fixed(), N).run(request(), None, k)
    assert found.counts.tolist() == [min(k, N)] * 2
    assert RetrieveOwn(Fixed(), N).run(request(0), None, k).keys.shape[0] == 0


@pytest.mark.parametrize(
    ("answer", "error", "message"),
    [
        ([1, 2], ConfigError, r"Bad.search returned list, expected"),
        (Candidates(torch.zeros(3, 1, dtype=torch.int64), torch.zeros(3, 1)), ConfigError, r"for 2 queries"),
        (Candidates(torch.full((2, 1), N), torch.zeros(2, 1)), DataError, r"8 to 8, the catalogue has 8"),
        (Candidates(torch.ones(2, 1, dtype=torch.int64), torch.full((2, 1), torch.nan)), DataError, "NaN"),
    ],
)
def test_a_wrong_answer_is_said(answer, error, message):
    class Bad(Fixed):
        def search(self, request, k):
            return answer

    with pytest.raises(error, match=message):
        run(2, Bad())


@pytest.fixture
def module(tmp_path, monkeypatch):
    (tmp_path / "my_sources.py").write_text(
        "class Half:\n    def fit(self, dataset, positives): ...\n    def search(self, request, k): ...\n"
        "class Whole(Half):\n    def __init__(self, days, *, top=1): self.days = days\n"
        "    def state(self): return {}\n    def restore(self, state): ...\n"
        "Number = 3\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("my_sources", None)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("trending", r"no source 'trending'; expected package.module:Class"),
        ("my_source:Whole", r"cannot import the source 'my_source:Whole': .*on the PYTHONPATH\?"),
        ("my_sources:Whol", r"my_sources has no class 'Whol'; did you mean 'Whole'\?"),
        ("my_sources:Number", r"my_sources has no class 'Number'"),
        ("my_sources:Half", r"has no state, restore; .*own_source.OwnSource"),
    ],
)
def test_a_path_that_is_no_source_is_named_with_what_to_do(module, path, message):
    with pytest.raises(ConfigError, match=message):
        source_class(path)


def test_options_are_checked_before_anything_is_fitted(module):
    assert make_source("my_sources:Whole", {"days": 3, "top": 2}).days == 3
    with pytest.raises(ConfigError, match=r"unknown option 'dais'; did you mean 'days'"):
        check_source("my_sources:Whole", {"dais": 3})
    with pytest.raises(ConfigError, match=r"missing a required .*'days'"):
        check_source("my_sources:Whole", {})


def test_what_was_learnt_is_kept_as_tensors_and_json(tmp_path):
    path, fresh = tmp_path / "deep" / "own.safetensors", Fixed()
    save_source(Fixed(step=2), path)
    assert load_source(fresh, path) == 12
    assert fresh.restored.pop("weights").tolist() == [0, 1, 2]
    assert fresh.restored == {"words": ["a", "b"], "step": 2}
    path.write_bytes(b"nothing")
    with pytest.raises(StorageError, match=r"no readable source .*train the run again"):
        load_source(fresh, path)


def test_a_state_that_no_file_can_hold_is_said(tmp_path):
    class Odd(Fixed):
        def state(self):
            return {"when": {1, 2}}

    with pytest.raises(ConfigError, match=r"Odd.state\(\): .*set.* give tensors, or what JSON can hold"):
        save_source(Odd(), tmp_path / "own.safetensors")
