"""What `twotower.cascade.stage.Stage` promises, for every member."""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl
import pytest
import torch

from twotower.baselines.bm25 import BM25
from twotower.baselines.popularity import Popularity
from twotower.cascade.attributes import Attributes
from twotower.cascade.diversify import Diversify, Dpp, Mmr
from twotower.cascade.filter import Filter
from twotower.cascade.fuse import Fuse
from twotower.cascade.fusion import NormalisedScore
from twotower.cascade.lexical import RetrieveLexical
from twotower.cascade.own_source import RetrieveOwn
from twotower.cascade.rank import Rank
from twotower.cascade.retrieve import Retrieve, RetrieveFrom
from twotower.cascade.rules import Rules
from twotower.cascade.ruleset import RuleSet
from twotower.cascade.stage import Request, Stage
from twotower.data.spec import Column, FeatureSpec
from twotower.index.build import IndexConfig, build_index
from twotower.index.item_table import ItemTable
from twotower.models.base import Model
from twotower.models.catalogue import make_model
from twotower.types import NO_ITEM, Batch, Candidates, Ragged, Rep, RepSpec

SPEC = FeatureSpec(
    columns=(
        Column(name="user", kind="id", side="query", size=9),
        Column(name="past", kind="sequence", side="query", size=50, width=4, of="movie"),
        Column(name="movie", kind="id", side="item", size=50),
    )
)
Q, N = 6, 40
ITEMS = Batch(movie=torch.arange(N) + 2)
DIVERSIFIERS = {"mmr": Mmr(), "dpp": Dpp(), "dpp-window": Dpp(window=3)}
RETRIEVERS = ["exact", "faiss", "popularity", "own", "lexical", "fuse"]
RANKERS = ["dcn-v2", "two-tower", "prm", "filter", "boost", *DIVERSIFIERS]
STAGES = [*RETRIEVERS, *RANKERS]
PLACES = {"boost", *DIVERSIFIERS}  # whose score is the place, since their order is no order of scores


@dataclass(frozen=True)
class Member:
    """A stage and, for those that do not retrieve, a list as an earlier stage would hand it on."""

    stage: Stage
    given: Candidates | None

    def run(self, request: Request, k: int, given: Candidates | None = None) -> Candidates:
        return self.stage.run(request, given or self.given, k)

    @property
    def retrieves(self) -> bool:
        return self.given is None


def model_of(name: str, zero: bool) -> Model:
    torch.manual_seed(0)
    config = {
        "two-tower": {"embedding": 4, "layers": [6], "history": {"kind": "mean"}},
        "dcn-v2": {"embedding": 4, "crosses": 2, "layers": [8], "pair": ["first_score", "first_rank"]},
        "prm": {"embedding": 4, "dim": 8, "pair": ["first_score"], "position": "first_rank"},
    }[name]
    model = make_model(name, SPEC, config)
    if zero:
        for parameter in model.parameters():
            parameter.data.zero_()
    return model.eval()


@dataclass(frozen=True)
class Lottery:
    """A source of one's own: every item in any order, some of them twice."""

    zero: bool

    def search(self, request: Request, k: int) -> Candidates:
        user = request.query["user"][:, None]
        keys = (torch.arange(N + 3) * 7 + user) % N
        scores = ((keys * 7919 + user * 104729) % 997).float()
        return Candidates(keys, scores * (not self.zero))


def member(name: str, zero: bool = False) -> Member:
    """``zero`` makes all scores equal."""
    if name == "popularity":
        lists = [[0]] if zero else [[0, 1, 2], [1, 2], [2, 30], [7, 2]]
        source = Popularity().fit(Ragged.of([list(range(N))] if zero else lists), N)
        return Member(RetrieveFrom(source, k=5, name="it"), None)
    if name in ("exact", "faiss"):
        model = model_of("two-tower", zero)
        with torch.inference_mode():
            vectors = model.encode_item(ITEMS)["vector"].clone()
        index = build_index(IndexConfig(kind=name, factory="HNSW16"), vectors, produced_by=model.digest())
        return Member(Retrieve(model, index, k=5, name="it"), None)
    if name == "own":
        return Member(RetrieveOwn(Lottery(zero), N, k=5, name="it"), None)
    if name == "lexical":  # word 2 is in every document
        length = 1 if zero else torch.arange(N)[:, None] % 5 + 1
        words = torch.cat([torch.full((N, 1), 2), torch.arange(4) * 3 + torch.arange(N)[:, None] % 7 + 3], 1)
        documents = words * (torch.arange(5) < length)
        return Member(RetrieveLexical(BM25().fit(documents, 20), "words", k=5, name="it"), None)
    if name == "fuse":
        popular, tower = member("popularity", zero).stage, member("exact", zero).stage
        popular.name, tower.name, popular.k, tower.k = "popular", "tower", N, N
        return Member(Fuse([popular, tower], NormalisedScore(), k=5, name="it"), None)
    given = handed_on()
    if name in ("filter", *PLACES) and zero:
        equal = torch.zeros(given.keys.shape).masked_fill(~given.mask, -torch.inf)
        given = Candidates(given.keys, equal, given.pair).sorted()
    if name == "filter":
        return Member(Filter(torch.ones(N, dtype=torch.bool), k=5, name="it"), given)
    if name == "boost":
        items = pl.DataFrame({"movie": range(N), "genre": [i % 3 for i in range(N)]})
        boost = {"kind": "boost", "where": {"field": "genre", "in": [1]}, "plus": 0 if zero else 1}
        rules = RuleSet.parse({"rules": [boost]})
        return Member(Rules(rules, Attributes(items, item="movie"), k=5, name="it"), given)
    if name in DIVERSIFIERS:
        draw = torch.Generator().manual_seed(3)
        vectors = torch.ones(N, 4) if zero else torch.randn(N, 4, generator=draw)
        table = ItemTable(Rep(vector=vectors), (RepSpec("vector", (4,)),), "digest")
        return Member(Diversify(DIVERSIFIERS[name], table, k=5, name="it", pairs_at_once=20), given)
    model = model_of(name, zero)
    table = ItemTable.build(
        lambda keys: model.encode_item(ITEMS.take(keys)), N, model.item_specs(), model.digest()
    )
    return Member(Rank(model, table, k=5, name="it", pairs_at_once=20), handed_on())


def handed_on(width: int = 12) -> Candidates:
    """Different items per query, the last ones of some rows empty, with an earlier stage's score and rank."""
    draw = torch.Generator().manual_seed(1)
    keys = torch.stack([torch.randperm(N, generator=draw)[:width] for _ in range(Q)])
    keys[torch.arange(width) >= width - torch.arange(Q)[:, None]] = NO_ITEM
    scores = torch.randn(Q, width, generator=draw).sort(dim=1, descending=True).values
    pair = Batch(first_score=scores, first_rank=torch.arange(width).expand(Q, width).float())
    return Candidates(keys, scores.masked_fill(keys == NO_ITEM, -torch.inf), pair)


def request(exclude: Ragged | None = None, **depths: int) -> Request:
    draw = torch.Generator().manual_seed(2)
    past = torch.randint(2, N, (Q, 4), generator=draw) * (torch.arange(4) < torch.arange(Q)[:, None])
    words = torch.stack([torch.full((Q,), 2), torch.arange(Q) + 3], 1)
    query = Batch(user=torch.arange(Q) + 1, past=past, words=words)
    history = Ragged.of([[int(i) - 2 for i in row if i] for row in past])
    return Request(query, history, exclude, depths)


@pytest.fixture(params=STAGES)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.parametrize("k", [0, 1, 7, N, 1000])
def test_returns_no_more_than_asked_or_given_and_no_less(name: str, k: int) -> None:
    made = member(name)
    out = made.run(request(), k)
    available = torch.full((Q,), N) if made.given is None else made.given.counts
    assert out.counts.tolist() == available.clamp(max=k).tolist()
    assert out.keys.shape[0] == Q
    assert out.keys.shape[1] <= k


def test_invents_no_item_and_repeats_none(name: str) -> None:
    made = member(name)
    out = made.run(request(), 9)
    for row in range(Q):
        keys = out.keys[row][out.mask[row]].tolist()
        known = range(N) if made.given is None else made.given.keys[row].tolist()
        assert len(set(keys)) == len(keys)
        assert set(keys) <= set(known)


def test_best_first_and_empty_slots_last(name: str) -> None:
    out = member(name).run(request(), 1000)
    assert torch.equal(out.keys, out.sorted().keys)
    assert (out.scores[~out.mask] == -torch.inf).all()
    assert out.scores[out.mask].isfinite().all()
    assert out.scores.dtype == torch.float32


def test_equal_scores_stand_in_the_order_of_rising_keys(name: str) -> None:
    out = member(name, zero=True).run(request(), 1000)
    assert name in PLACES or len(out.scores[out.mask].unique()) == 1
    for row in range(Q):
        keys = out.keys[row][out.mask[row]].tolist()
        assert keys == sorted(keys)


def test_the_best_k_are_the_first_k_of_all(name: str) -> None:
    made = member(name)
    few, many = made.run(request(), 4), made.run(request(), 12)
    assert torch.equal(few.keys, many.keys[:, :4])


def test_a_query_is_answered_the_same_in_any_company(name: str) -> None:
    made, whole = member(name), request(Ragged.of([[row, row + 3] for row in range(Q)]))
    together = made.run(whole, 8)
    for row in range(Q):
        given = made.given
        if given is not None:
            pair = Batch((n, t[row : row + 1]) for n, t in given.pair.items())
            given = Candidates(given.keys[row : row + 1], given.scores[row : row + 1], pair)
        alone = made.run(whole.rows(row, row + 1), 8, given)
        assert torch.equal(alone.keys[0], together.keys[row])
        torch.testing.assert_close(alone.scores[0], together.scores[row])


def test_nobody_asks_and_nobody_is_answered(name: str) -> None:
    made = member(name)
    none = None if made.given is None else Candidates(torch.empty(0, 3).long(), torch.empty(0, 3))
    assert len(made.run(request().rows(0, 0), 5, none).keys) == 0


def test_score_and_rank_are_handed_on_finite(name: str) -> None:
    out = member(name).run(request(), 1000)
    assert torch.equal(out.pair["it_score"][out.mask], out.scores[out.mask])
    assert (out.pair["it_score"][~out.mask] == 0).all()
    assert torch.equal(out.pair["it_rank"], torch.arange(out.keys.shape[1]).expand_as(out.keys).float())


def test_says_what_it_is_and_what_it_takes(name: str) -> None:
    stage = member(name).stage
    assert repr(stage) == "it(5)"
    assert stage.bytes_per_item >= 0
    assert (stage.depth(request()), stage.depth(request(it=2)), stage.depth(request(other=2))) == (5, 2, 5)


@pytest.mark.parametrize("name", RETRIEVERS)
def test_excluded_items_never_come_back_and_cost_no_place(name: str) -> None:
    gone = Ragged.of([list(range(row, row + 10)) for row in range(Q)])
    for k, there in ((25, 25), (30, 30), (35, 30)):
        out = member(name).run(request(gone), k)
        assert out.counts.tolist() == [there] * Q
        for row in range(Q):
            assert not set(out.keys[row].tolist()) & set(gone[row].tolist())


@pytest.mark.parametrize("name", RETRIEVERS)
def test_with_everything_excluded_nothing_is_left(name: str) -> None:
    out = member(name).run(request(Ragged.of([list(range(N))] * Q)), 5)
    assert out.counts.tolist() == [0] * Q


@pytest.mark.parametrize("name", RANKERS)
@pytest.mark.parametrize("width", [0, 3])
def test_works_on_an_empty_candidate_list(name: str, width: int) -> None:
    empty = Candidates(
        torch.full((Q, width), NO_ITEM),
        torch.full((Q, width), -torch.inf),
        Batch(first_score=torch.zeros(Q, width), first_rank=torch.zeros(Q, width)),
    )
    out = member(name).run(request(), 5, empty)
    assert out.counts.tolist() == [0] * Q
    assert "first_score" in out.pair


@pytest.mark.parametrize("name", RANKERS)
@pytest.mark.parametrize("k", [0, 7, 1000])
def test_without_time_the_order_it_was_given_stands_cut_to_k(name: str, k: int) -> None:
    made = member(name)
    assert made.given is not None
    out = made.stage.fallback(request(), made.given, k)
    assert torch.equal(out.keys, made.given.keys[:, :k])  # none of these forbids anything
    assert (out.scores[~out.mask] == -torch.inf).all()
    assert torch.equal(out.pair["first_score"][out.mask], made.given.pair["first_score"][:, :k][out.mask])


@pytest.mark.parametrize("name", ["filter", "boost"])
def test_what_a_stage_that_forbids_hands_on_does_not_depend_on_time(name: str) -> None:
    made = member(name)
    assert made.given is not None
    late, whole = made.stage.fallback(request(), made.given, 5), made.run(request(), 5)
    assert late.pair.keys() == whole.pair.keys()
    assert all(tensor.shape == whole.pair[field].shape for field, tensor in late.pair.items())


@pytest.mark.parametrize("name", RANKERS)
def test_what_earlier_stages_knew_travels_with_its_item(name: str) -> None:
    made = member(name)
    assert made.given is not None
    out = made.run(request(), 7)
    for row in range(Q):
        before = dict(
            zip(made.given.keys[row].tolist(), made.given.pair["first_score"][row].tolist(), strict=True)
        )
        for key, score in zip(out.keys[row].tolist(), out.pair["first_score"][row].tolist(), strict=True):
            assert key == NO_ITEM or before[key] == score
