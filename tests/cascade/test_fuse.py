"""A stage of stages: what it asks its sources for, and what it tells the stages after it."""

from __future__ import annotations

import time

import pytest
import torch

from twotower.baselines.popularity import Popularity
from twotower.cascade.cascade import Cascade
from twotower.cascade.deadline import Budget, Deadline
from twotower.cascade.fuse import Fuse
from twotower.cascade.fusion import NormalisedScore, Quota, ReciprocalRank
from twotower.cascade.rank import Rank
from twotower.cascade.retrieve import Retrieve, RetrieveFrom
from twotower.cascade.sources import RetrieveGiven
from twotower.cascade.stage import Request, Stage, rank_pair
from twotower.data.spec import Column, FeatureSpec
from twotower.errors import ConfigError
from twotower.index.exact import ExactIndex
from twotower.index.item_table import ItemTable
from twotower.models.catalogue import make_model
from twotower.types import NO_ITEM, Batch, Candidates, Ragged

POPULAR = Popularity().fit(Ragged.of([[0, 1, 2, 3], [0, 1, 2], [0, 1], [0]]), 6)  # the order is the key's

SPEC = FeatureSpec(
    columns=(
        Column(name="user", kind="id", side="query", size=9),
        Column(name="movie", kind="id", side="item", size=8),
    )
)


def given(*lists: list[int], k: int = 3, name: str = "picks") -> tuple[RetrieveGiven, Request]:
    rows = Ragged.of(list(lists))
    request = Request(Batch({name: rows.padded(NO_ITEM)}), Ragged.of([[] for _ in lists]))
    return RetrieveGiven(name, k, name), request


def both(**options: object) -> tuple[Fuse, Request]:
    picks, request = given([5, 0], [])
    return Fuse([RetrieveFrom(POPULAR, 2, "popular"), picks], **options), request  # popular has 0 and 1


def test_scores_ranks_and_origin_are_handed_on():
    fuse, request = both()
    out = fuse.run(request, None, 4)
    assert out.keys.tolist() == [[0, 5, 1, -1], [0, 1, -1, -1]]
    assert out.scores[0, :3].tolist() == pytest.approx([1 / 61 + 1 / 62, 1 / 61, 1 / 62])
    pair = {name: tensor.tolist() for name, tensor in out.pair.items()}
    assert pair["popular_score"] == [[4.0, 0.0, 3.0, 0.0], [4.0, 3.0, 0.0, 0.0]]
    assert pair["popular_rank"] == [[0.0, 2.0, 1.0, 2.0], [0.0, 1.0, 2.0, 2.0]]
    assert pair["from_popular"] == [[1.0, 0.0, 1.0, 0.0], [1.0, 1.0, 0.0, 0.0]]
    assert pair["picks_score"] == [[0.5, 1.0, 0.0, 0.0], [0.0] * 4]
    assert pair["picks_rank"] == [[1.0, 0.0, 3.0, 3.0], [3.0] * 4]
    assert pair["from_picks"] == [[1.0, 1.0, 0.0, 0.0], [0.0] * 4]
    assert pair["retrieve_rank"] == [[0.0, 1.0, 2.0, 3.0]] * 2
    assert pair["retrieve_score"][1] == [*out.scores[1, :2].tolist(), 0.0, 0.0]


def test_weights_are_by_name():
    fuse, request = both(by=ReciprocalRank(weights={"picks": 9}))
    assert fuse.run(request, None, 2).keys[0].tolist() == [0, 5]
    fuse, request = both(by=Quota(weights={"picks": 0.1}))
    assert fuse.run(request, None, 3).keys[0].tolist() == [0, 1, 5]


@pytest.mark.parametrize("k", [0, 1, 2, 3, 99])
def test_no_more_than_asked_and_no_less_than_the_sources_hold(k):
    fuse, request = both()
    assert fuse.run(request, None, k).counts.tolist() == [min(k, 3), min(k, 2)]


def test_a_request_sets_the_depth_of_a_source():
    fuse, request = both(k=9)
    deeper = Request(request.query, request.history, depths={"popular": 4, "retrieve": 5})
    out, trace = Cascade(fuse)(deeper)
    assert out.counts.tolist() == [5, 4]
    assert out.pair["popular_rank"].max() == 4
    assert trace.steps[0].asked == 5
    with pytest.raises(ConfigError, match=r"a depth is for .*poplar"):
        Cascade(fuse)(Request(request.query, request.history, depths={"poplar": 4}))


def test_what_a_request_forbids_no_source_returns():
    fuse, request = both()
    allow = torch.tensor([[False, True, True, True, True, True], [True, False, True, True, True, False]])
    exclude = Ragged.of([[5], [2]])
    out = fuse.run(Request(request.query, request.history, exclude, allow=allow), None, 9)
    assert out.keys[:, :3].tolist() == [[1, 2, -1], [0, 3, -1]]


def test_a_union_is_a_source_too():
    inner, request = both(name="inner")
    more, wanted = given([4], [4], name="more")
    request = Request(request.query.join(wanted.query), request.history)
    out, _ = Cascade(Fuse([inner, more]))(Request(request.query, request.history, depths={"popular": 1}))
    assert sorted(out.keys[0][out.mask[0]].tolist()) == [0, 4, 5]
    assert {"inner_rank", "more_score", "from_inner"} < set(out.pair)
    assert "popular_score" not in out.pair


def test_a_ranker_after_it_reads_where_candidates_come_from():
    items = Batch(movie=torch.arange(6) + 2)
    tower = make_model("two-tower", SPEC, {"embedding": 4, "layers": []}).eval()
    fields = ["tower_score", "popular_rank", "from_picks"]
    ranker = make_model("dcn-v2", SPEC, {"embedding": 4, "layers": [4], "pair": fields}).eval()
    with torch.inference_mode():
        vectors = tower.encode_item(items)["vector"].clone()
    index = ExactIndex.build(vectors, produced_by=tower.item_digest())
    digest = ranker.item_digest()
    table = ItemTable.build(lambda keys: ranker.encode_item(items.take(keys)), 6, ranker.item_specs(), digest)
    picks, wanted = given([5], [NO_ITEM])
    sources = [Retrieve(tower, index, 3, "tower"), RetrieveFrom(POPULAR, 2, "popular"), picks]
    request = Request(Batch(user=torch.tensor([2, 3])).join(wanted.query), wanted.history)
    united = Fuse(sources).run(request, None, 6)
    out, _ = Cascade(Fuse(sources, k=6), Rank(ranker, table, k=6))(request)
    assert out.counts.tolist() == united.counts.tolist()
    assert out.scores[out.mask].isfinite().all()
    at_five = out.keys[0] == 5
    assert torch.equal(out.pair["from_picks"][0], at_five.float())
    with torch.inference_mode():  # the tower scores what others found as well
        own = tower.encode_query(request.query)["vector"] @ vectors.T
    assert (out.pair["from_tower"] == 0)[out.mask].any()
    torch.testing.assert_close(
        out.pair["tower_score"][out.mask], own.gather(1, out.keys.clamp(min=0))[out.mask]
    )


class Foreign:
    """An index of a user's own, which names no vectors."""

    produced_by, exact, dim = "", True, 4

    def search(self, query: torch.Tensor, k: int, exclude: Ragged | None = None) -> Candidates:
        return Candidates(torch.zeros(len(query), 1, dtype=torch.int64), torch.full((len(query), 1), 7.0))


def test_a_source_that_cannot_score_others_items_says_nothing_of_them():
    tower = make_model("two-tower", SPEC, {"embedding": 4, "layers": []}).eval()
    index = Foreign()
    index.produced_by = tower.item_digest()
    picks, wanted = given([5], [NO_ITEM])
    request = Request(Batch(user=torch.tensor([2, 3])).join(wanted.query), wanted.history)
    out = Fuse([Retrieve(tower, index, 1, "tower"), picks]).run(request, None, 2)
    scores = dict(zip(out.keys[0].tolist(), out.pair["tower_score"][0].tolist(), strict=True))
    assert scores == {0: 7.0, 5: 0.0}


def test_a_query_is_encoded_once_for_each_answer():
    tower = make_model("two-tower", SPEC, {"embedding": 4, "layers": []}).eval()
    asked = []
    encode = tower.encode_query
    tower.encode_query = lambda query: asked.append(len(query["user"])) or encode(query)
    with torch.inference_mode():
        vectors = tower.encode_item(Batch(movie=torch.arange(6) + 2))["vector"].clone()
    index = ExactIndex.build(vectors, produced_by=tower.item_digest())
    cascade = Cascade(Fuse([Retrieve(tower, index, 2, "a"), Retrieve(tower, index, 3, "b")], k=3))
    request = Request(Batch(user=torch.tensor([2, 3])))
    first, again = cascade(request)[0], cascade(request)[0]
    assert asked == [2, 2]
    assert torch.equal(first.scores, again.scores)
    one = cascade(request.rows(1, 2))[0]
    assert torch.equal(one.scores, first.scores[1:])


def test_nobody_asks():
    fuse, request = both()
    out = fuse.run(request.rows(0, 0), None, 5)
    assert len(out.keys) == 0
    assert "popular_score" in out.pair


def test_bytes_are_those_of_all_sources():
    fuse, _ = both()
    assert fuse.bytes_per_item == sum(source.bytes_per_item for source in fuse.sources)


def test_names_must_be_told_apart():
    popular = RetrieveFrom(POPULAR, 2, "popular")
    with pytest.raises(ConfigError, match="found: none"):
        Fuse([])
    with pytest.raises(ConfigError, match="names of their own, found: popular, popular"):
        Fuse([popular, popular])
    with pytest.raises(ConfigError, match="found: popular"):
        Fuse([popular], name="popular")
    with pytest.raises(ConfigError, match="weights 'poplar', which is no source; did you mean 'popular'"):
        Fuse([popular], ReciprocalRank(weights={"poplar": 2}))
    with pytest.raises(ConfigError, match="popular"):
        Cascade(Fuse([popular]), RetrieveFrom(POPULAR, 2, "popular"))


class Source(Stage):
    """Finds one item after ``wait_ms``; looks at the clock, as a source of one's own may; knows all items."""

    bytes_per_item = 0.0

    def __init__(self, name: str, key: int, wait_ms: float = 0.0) -> None:
        super().__init__(name, 3)
        self.key, self.wait_ms, self.asked = key, wait_ms, 0

    def run(self, request: Request, candidates: Candidates | None, k: int) -> Candidates:
        time.sleep(self.wait_ms / 1e3)
        request.check_time()
        self.asked += 1
        keys = torch.full((len(request), 1), self.key)
        return rank_pair(self.name, Candidates(keys, torch.ones(len(request), 1)))

    def scores_of(self, request: Request, keys: torch.Tensor) -> torch.Tensor:
        return torch.ones(keys.shape)


def test_a_source_that_time_has_passed_before_is_left_out_and_said():
    sources = [Source("a", 7, wait_ms=10), Source("b", 8), Source("c", 9)]
    request = Request(Batch(user=torch.arange(2)))
    cascade = Cascade(Fuse(sources, k=5), budget=Budget(total_ms=5))
    out, trace = cascade(request)
    assert [source.asked for source in sources] == [1, 0, 0]  # the first ran to its end
    assert out.keys[:, 0].tolist() == [7, 7]
    assert out.counts.tolist() == [1, 1]
    assert "degraded: no time was left for b, c" in str(trace)
    assert (trace.degraded, trace.steps[0].late) == (("retrieve",), True)
    assert cascade.degraded == cascade.overran == {"retrieve": 2}
    pair = {name: tensor[0, 0].item() for name, tensor in out.pair.items()}
    assert (pair["from_a"], pair["a_score"], pair["a_rank"]) == (1, 1, 0)
    assert (pair["from_b"], pair["b_score"], pair["b_rank"]) == (0, 0, 3)  # as of a source that found nothing
    out, trace = cascade.within(Budget(total_ms=3_600_000))(request)
    assert (out.counts.tolist(), trace.degraded, trace.steps[0].late) == ([3, 3], (), False)
    assert out.pair["b_score"][0].tolist() == [1, 1, 1]


@pytest.mark.parametrize("by", [ReciprocalRank(), NormalisedScore(), Quota()])
def test_a_union_within_a_union_leaves_sources_out_too(by):
    inner = Fuse([Source("a", 7), Source("b", 8)], by, name="inner")
    request = Request(Batch(user=torch.arange(2)), deadline=Deadline(time.perf_counter() - 1))
    out, left_out = Fuse([inner, Source("c", 9)], by).retrieve(request, 5)
    assert left_out == ("b", "c")
    assert out.keys[out.mask].tolist() == [7, 7]
    assert out.scores[out.mask].isfinite().all()
