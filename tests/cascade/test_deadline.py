"""A stage that is out of time hands on the order it was given, and says so."""

import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from random import Random
from types import SimpleNamespace

import polars as pl
import pytest
import torch

from twotower.cascade import arrange, deadline
from twotower.cascade import cascade as cascades
from twotower.cascade.attributes import Attributes
from twotower.cascade.cascade import Cascade
from twotower.cascade.deadline import Budget, Deadline, Late
from twotower.cascade.filter import Filter
from twotower.cascade.rank import Rank
from twotower.cascade.rules import Rules
from twotower.cascade.ruleset import RuleSet
from twotower.cascade.stage import Request, Stage, rank_pair
from twotower.data.spec import Column, FeatureSpec
from twotower.errors import ConfigError
from twotower.index.item_table import ItemTable
from twotower.models.catalogue import make_model
from twotower.types import Batch, Candidates

REQUEST = Request(Batch(user=torch.arange(2)))
FOREVER = 3_600_000.0


class First(Stage):
    """Retrieves 0 .. k-1, best first, after ``wait_ms``."""

    bytes_per_item = 0.0

    def __init__(self, k: int, wait_ms: float = 0.0) -> None:
        super().__init__("first", k)
        self.wait_ms = wait_ms

    def run(self, request, candidates, k):
        time.sleep(self.wait_ms / 1e3)
        keys = torch.arange(k).expand(len(request), k)
        return rank_pair(self.name, Candidates(keys, -keys.float()))


class Reverse(Stage):
    """Turns the list round, in pieces of a millisecond."""

    bytes_per_item = 0.0

    def __init__(self, name: str, k: int, pieces: int = 0, looks: bool = True, reads: tuple[str, ...] = ()):
        super().__init__(name, k)
        self.pieces, self.looks, self._reads, self.done = pieces, looks, reads, 0

    @property
    def reads(self):
        return self._reads

    def run(self, request, candidates, k):
        for _ in range(self.pieces):
            if self.looks:
                request.check_time()
            time.sleep(0.001)
            self.done += 1
        turned = Candidates(candidates.keys, candidates.keys.float(), candidates.pair)
        return rank_pair(self.name, turned.sorted().best(k))


def test_a_late_stage_hands_on_the_order_it_was_given():
    slow = Reverse("slow", 3, pieces=1000)
    cascade = (First(6) >> slow).within(Budget(stages={"slow": 5}))
    found, trace = cascade(REQUEST)
    assert found.keys.tolist() == [[0, 1, 2]] * 2
    assert trace.degraded == ("slow",)
    assert 0 < slow.done < 1000  # it was stopped on its way
    assert "degraded: 5.0 ms were not enough" in str(trace)
    assert cascade.degraded == {"slow": 2}  # two queries


class Slow(Counter):
    """Reads a count and lets others run before it writes."""

    def __getitem__(self, name):
        count = super().__getitem__(name)
        time.sleep(0.001)
        return count

    def get(self, name, default=None):
        count = super().get(name, default)
        time.sleep(0.001)
        return count


def test_a_search_of_the_rules_that_takes_too_long_leaves_the_list_it_began_with(monkeypatch):
    """Each step takes a millisecond on this clock, and there is no list to be found."""
    clock = SimpleNamespace(now=0.0, perf_counter=lambda: clock.now)
    monkeypatch.setattr(deadline, "time", clock)
    monkeypatch.setattr(cascades, "time", clock)

    def tick(search):
        clock.now += 0.001
        return choices(search)

    choices = arrange._Search._choices
    monkeypatch.setattr(arrange._Search, "_choices", tick)
    draw = Random(0)
    tags = [draw.sample("abcdefghijklmnop", 3) for _ in range(60)]
    spacing = RuleSet.parse({"rules": [{"kind": "spacing", "field": "tags", "within": 5}]})
    rules = Rules(spacing, Attributes(pl.DataFrame({"item": range(60), "tags": tags}), item="item"), k=20)
    plain = (First(60) >> rules)(REQUEST)[0]
    needed = clock.now
    _, trace = (First(60) >> rules).within(Budget(stages={"rules": 40}))(REQUEST)
    assert needed > 0.5
    assert clock.now - needed < 0.03  # half of the time, and what was left of it is for the rest
    assert trace.degraded == ()
    assert torch.equal(trace.steps[-1].output.keys, plain.keys)


def test_time_that_passed_before_the_first_stage_counts_where_it_is_known():
    cascade = (First(6) >> Reverse("last", 3)).within(Budget(total_ms=FOREVER))
    assert cascade(REQUEST)[1].degraded == ()
    now = time.perf_counter()
    assert cascade(replace(REQUEST, began=now - FOREVER / 2e3))[1].degraded == ()
    found, trace = cascade(replace(REQUEST, began=now - FOREVER / 1e3))
    assert trace.steps[0].late
    assert trace.degraded == ("last",)
    assert found.keys.tolist() == [[0, 1, 2]] * 2


def test_threads_lose_no_count():
    cascade = (First(6) >> Reverse("never", 3)).within(Budget(stages={"never": 0}))
    cascade.degraded = Slow()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: cascade(REQUEST), range(24)))
    assert (cascade.asked, dict(cascade.degraded)) == (48, {"never": 48})


def test_without_a_budget_nothing_is_stopped():
    cascade = First(6) >> Reverse("slow", 3, pieces=20)
    found, trace = cascade(REQUEST)
    assert found.keys.tolist() == [[5, 4, 3]] * 2
    assert trace.degraded == ()
    assert not cascade.degraded


def test_a_stage_that_never_looks_at_the_clock_is_not_believed_either():
    cascade = (First(6) >> Reverse("deaf", 3, pieces=20, looks=False)).within(Budget(stages={"deaf": 1}))
    found, trace = cascade(REQUEST)
    assert found.keys.tolist() == [[0, 1, 2]] * 2
    assert trace.degraded == ("deaf",)


def test_the_first_stage_runs_to_its_end_and_is_marked_late():
    cascade = (First(4, wait_ms=10) >> Reverse("next", 2)).within(Budget(total_ms=5))
    found, trace = cascade(REQUEST)
    assert found.keys.tolist() == [[0, 1]] * 2
    assert trace.steps[0].late
    assert "first: catalogue -> 8" in str(trace)
    assert cascade.overran == {"first": 2}
    assert trace.degraded == ("next",)  # nothing was left for it


def test_who_reads_a_degraded_stage_is_degraded_too_and_others_are_not():
    stages = (
        First(6),
        Reverse("slow", 5, pieces=1000),
        Reverse("reader", 4, reads=("first_score", "slow_score")),
        Reverse("other", 3, reads=("first_rank",)),
    )
    found, trace = Cascade(*stages, budget=Budget(stages={"slow": 2}))(REQUEST)
    assert trace.degraded == ("slow", "reader")
    assert trace.steps[2].degraded == "needs slow_score"
    assert found.keys.tolist() == [[3, 2, 1]] * 2  # `other` turned what `first` gave, cut to four


def test_a_stage_that_no_time_is_left_for_says_so():
    cascade = (First(6, wait_ms=3) >> Reverse("next", 3)).within(Budget(total_ms=1))
    assert cascade(REQUEST)[1].steps[1].degraded == "no time was left"


@pytest.mark.parametrize(
    "budget",
    [
        Budget(total_ms=5),
        Budget(stages={"filter": 1e-6, "rules": 1e-6}),
        Budget(stages={"filter": 1e-6}),
        Budget(stages={"rules": 1e-6}),
    ],
)
def test_however_late_nothing_forbidden_is_shown(budget):
    items = pl.DataFrame({"item": range(8), "kind": ["a", "a", "b", "b", "c", "c", "c", "c"]})
    block = {"kind": "block", "where": {"field": "kind", "in": ["b"]}}
    rules = Rules(RuleSet.parse({"rules": [block]}), Attributes(items, item="item"), k=3)
    allow = torch.tensor([False, True, True, True, True, True, True, True])
    cascade = Cascade(First(8), Reverse("slow", 8, pieces=8), Filter(allow), rules, budget=budget)
    found, trace = cascade(Request(REQUEST.query, allow=torch.arange(8) != 4))
    late = trace.degraded
    assert set(late) == ({"slow", "filter", "rules"} if budget.total_ms else set(budget.stages))
    assert found.keys.tolist() == [[1, 5, 6] if "slow" in late else [7, 6, 5]] * 2  # 0, 2, 3, 4 are forbidden
    assert {"filter_score", "filter_rank", "rules_score", "rules_rank", "rules_given"} < set(found.pair)
    assert cascade.degraded == dict.fromkeys(late, 2)


def test_a_stage_behind_a_late_filter_may_read_what_it_hands_on():
    stages = First(6), Filter(torch.arange(6) != 0), Reverse("reader", 2, reads=("filter_rank",))
    found, trace = Cascade(*stages, budget=Budget(stages={"filter": 1e-6}))(REQUEST)
    assert trace.degraded == ("filter",)
    assert found.keys.tolist() == [[5, 4]] * 2


def test_a_requests_own_budget_goes_before_the_cascades():
    cascade = (First(6) >> Reverse("slow", 3, pieces=10)).within(Budget(total_ms=FOREVER))
    hurried = Request(REQUEST.query, budget=Budget(total_ms=3))
    assert cascade(hurried)[1].degraded == ("slow",)
    assert cascade(REQUEST)[1].degraded == ()


@pytest.mark.parametrize("total_ms", [0.5, 10.0, 5000.0])
@pytest.mark.parametrize("own_ms", [None, 0.1, 1e6])
def test_inner_deadlines_lie_strictly_inside_the_outer_one(total_ms, own_ms):
    budget = Budget(total_ms=total_ms, stages={} if own_ms is None else {"a": own_ms})
    for now in (0.0, 0.001, 10.0):
        assert budget.of("a", 0.0, now).at < total_ms / 1e3
    assert Budget().of("a", 0.0, 0.0) is None


def test_a_budget_for_no_stage_is_an_error():
    with pytest.raises(ConfigError, match=r"the budget is for \['rank'\].*first\(4\)"):
        Cascade(First(4)).within(Budget(stages={"rank": 1}))
    with pytest.raises(ConfigError, match="the budget"):
        Cascade(First(4))(Request(REQUEST.query, budget=Budget(stages={"rank": 1})))
    with pytest.raises(ValueError, match="greater than or equal to 0"):
        Budget(total_ms=-1)


def test_no_time_at_all_leaves_every_stage_out_but_the_first():
    found, trace = (First(4) >> Reverse("last", 2)).within(Budget(total_ms=0))(REQUEST)
    assert found.keys.tolist() == [[0, 1]] * 2
    assert (trace.steps[0].late, trace.degraded) == (True, ("last",))


def test_a_cascade_keeps_its_budget_when_it_grows():
    cascade = Cascade(First(4), budget=Budget(total_ms=7)) >> Reverse("b", 2)
    assert cascade.budget.total_ms == 7


class TestRank:
    """The stage of a real model."""

    SPEC = FeatureSpec(
        columns=(
            Column(name="user", kind="id", side="query", size=9),
            Column(name="movie", kind="id", side="item", size=3000),
        )
    )

    def stage(self, k: int = 50) -> Rank:
        torch.manual_seed(0)
        config = {"embedding": 4, "crosses": 1, "layers": [8], "pair": ["first_score"]}
        model = make_model("dcn-v2", self.SPEC, config).eval()
        items = Batch(movie=torch.arange(2000) + 2)
        table = ItemTable.build(
            lambda keys: model.encode_item(items.take(keys)), 2000, model.item_specs(), model.item_digest()
        )
        return Rank(model, table, k)

    def test_scoring_in_pieces_gives_the_same(self):
        whole = (First(1500) >> self.stage())(REQUEST)[0]
        pieces = (First(1500) >> self.stage()).within(Budget(total_ms=FOREVER))(REQUEST)[0]
        assert torch.equal(whole.keys, pieces.keys)
        torch.testing.assert_close(whole.scores, pieces.scores)

    def test_no_time_at_all(self):
        stage = self.stage()
        timed = Request(REQUEST.query, deadline=Deadline(time.perf_counter() - 1))
        with pytest.raises(Late):
            stage.run(timed, First(1500).run(REQUEST, None, 1500), 50)
        found, trace = (First(1500) >> stage).within(Budget(stages={"rank": 1e-6}))(REQUEST)
        assert found.keys.tolist() == [list(range(50))] * 2
        assert trace.degraded == ("rank",)
        assert stage.reads == ("first_score",)

    @pytest.mark.parametrize("k", [0, 5, 5000])
    def test_an_empty_list_has_all_the_time_it_needs(self, k):
        cascade = (First(0) >> self.stage()).within(Budget(total_ms=FOREVER))
        found, _ = cascade(Request(REQUEST.query, depths={"rank": k}))
        assert found.counts.tolist() == [0, 0]


def test_what_was_asked_is_counted_and_what_is_refused_is_not():
    cascade = Cascade(First(4), Reverse("last", 2, pieces=3))
    tight = cascade.within(Budget(stages={"last": 0.5}))
    for _ in range(3):
        tight(REQUEST)
    assert (tight.asked, tight.degraded) == (3 * len(REQUEST), {"last": 3 * len(REQUEST)})
    assert (cascade.asked, cascade.degraded) == (0, {})
    with pytest.raises(ConfigError):
        tight(replace(REQUEST, depths={"rerank": 3}))
    assert tight.asked == 3 * len(REQUEST)
