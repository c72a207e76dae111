"""The stage: an order that says something new, from the score of the stage before and a table of items."""

import pytest
import torch

from twotower.cascade.deadline import Late
from twotower.cascade.diversify import Diversify, Diversity, Dpp, Mmr, relative
from twotower.cascade.dpp import dpp
from twotower.cascade.likeness import by_angle, by_values
from twotower.cascade.mmr import mmr
from twotower.cascade.stage import Request
from twotower.config import Config
from twotower.errors import ConfigError, DataError
from twotower.index.item_table import ItemTable
from twotower.types import NO_ITEM, Batch, Candidates, Rep, RepSpec

Q, N, K = 6, 40, 12
DRAW = torch.Generator().manual_seed(0)
TABLE = ItemTable(
    Rep(vector=torch.randn(N, 5, generator=DRAW), genres=torch.randint(0, 6, (N, 3), generator=DRAW)),
    (RepSpec("vector", (5,)), RepSpec("genres", (3,), "int64")),
    "digest",
)
REQUEST = Request(Batch(user=torch.arange(Q)))
WAYS = [Mmr(relevance=0.4), Dpp(relevance=0.4), Dpp(relevance=0.4, strength=0.9, window=3)]


@pytest.fixture(params=WAYS, ids=str)
def how(request):
    return request.param


def served():
    """Row r has r empty slots at its end, and two equal scores."""
    keys = torch.stack([torch.randperm(N, generator=DRAW)[:K] for _ in range(Q)])
    scores = torch.randn(Q, K, generator=DRAW)
    scores[:, 1] = scores[:, 0]
    empty = torch.arange(K) >= K - torch.arange(Q)[:, None]
    keys, scores = keys.masked_fill(empty, NO_ITEM), scores.masked_fill(empty, -torch.inf)
    return Candidates(keys, scores, Batch(rank_score=scores.clamp(min=-9), hint=torch.rand(Q, K, 2))).sorted()


@pytest.mark.parametrize("tensor", ["vector", "genres"])
@pytest.mark.parametrize("pairs_at_once", [1, 30, 10_000])
def test_is_the_algorithm_on_relative_scores_and_the_table(how, tensor, pairs_at_once):
    given = served()
    out = Diversify(how, TABLE, tensor=tensor, pairs_at_once=pairs_at_once).run(REQUEST, given, 7)
    items = TABLE.take(given.keys)[tensor]
    likeness = by_angle(items) if tensor == "vector" else by_values(items)
    relevance = relative(given.scores, given.mask)
    if isinstance(how, Mmr):
        order = mmr(relevance, likeness, 7, weight=0.4, mask=given.mask)
    else:
        options = {"strength": how.strength, "window": how.window, "mask": given.mask}
        order = dpp(relevance, likeness, 7, weight=0.4, **options)
    assert torch.equal(out.keys, given.keys.gather(1, order))
    assert not torch.equal(out.keys, given.keys[:, :7])


def test_score_is_minus_the_rank_and_what_was_known_travels_with_its_item(how):
    given = served()
    out = Diversify(how, TABLE, name="it").run(REQUEST, given, K)
    assert torch.equal(out.scores[0], -torch.arange(K).float())
    assert torch.equal(out.pair["it_score"][out.mask], out.scores[out.mask])
    assert torch.equal(out.keys, out.sorted().keys)
    assert out.scores.dtype == torch.float32
    for row in range(Q):
        known = dict(zip(given.keys[row].tolist(), given.pair["hint"][row].tolist(), strict=True))
        for key, hint in zip(out.keys[row].tolist(), out.pair["hint"][row].tolist(), strict=True):
            assert key == NO_ITEM or known[key] == hint


@pytest.mark.parametrize("k", [0, 1, 7, K, 1000])
def test_returns_all_it_may_and_invents_and_repeats_nothing(how, k):
    given = served()
    out = Diversify(how, TABLE).run(REQUEST, given, k)
    assert out.counts.tolist() == given.counts.clamp(max=k).tolist()
    assert out.keys.shape[1] <= k
    for row in range(Q):
        keys = out.keys[row][out.mask[row]].tolist()
        assert len(set(keys)) == len(keys)
        assert set(keys) <= set(given.keys[row].tolist())


def test_a_query_is_answered_the_same_in_any_company(how):
    given, stage = served(), Diversify(how, TABLE)
    together = stage.run(REQUEST, given, 8)
    for row in range(Q):
        part = slice(row, row + 1)
        pair = Batch((name, t[part]) for name, t in given.pair.items())
        alone = stage.run(
            REQUEST.rows(row, row + 1), Candidates(given.keys[part], given.scores[part], pair), 8
        )
        assert torch.equal(alone.keys[0], together.keys[row])


@pytest.mark.parametrize("width", [0, 3])
def test_works_on_an_empty_list(how, width):
    empty = Candidates(
        torch.full((Q, width), NO_ITEM),
        torch.full((Q, width), -torch.inf),
        Batch(rank_score=torch.zeros(Q, width)),
    )
    out = Diversify(how, TABLE).run(REQUEST, empty, 5)
    assert out.counts.tolist() == [0] * Q
    assert {"rank_score", "diversify_score", "diversify_rank"} <= out.pair.keys()
    none = Candidates(torch.empty(0, 3, dtype=torch.int64), torch.empty(0, 3))
    assert len(Diversify(how, TABLE).run(REQUEST.rows(0, 0), none, 5).keys) == 0


@pytest.mark.parametrize("how", [Mmr(relevance=1), Dpp(relevance=1), Dpp(relevance=1, window=2)])
def test_with_all_weight_on_relevance_nothing_moves(how):
    given = served()
    assert torch.equal(Diversify(how, TABLE).run(REQUEST, given, 5).keys, given.keys[:, :5])


def test_equals_stand_by_rising_key(how):
    table = ItemTable(Rep(vector=torch.ones(N, 2)), (RepSpec("vector", (2,)),), "digest")
    given = Candidates(torch.randperm(N, generator=DRAW)[None, :9], torch.zeros(1, 9)).sorted()
    out = Diversify(how, table).run(REQUEST.rows(0, 1), given, 9)
    assert out.keys[0].tolist() == sorted(given.keys[0].tolist())


def test_scores_that_are_not_finite_do_no_harm(how):
    scores = torch.tensor([[torch.inf, 2.0, 1.0, torch.nan, -torch.inf]])
    keys = torch.arange(5)[None]
    out = Diversify(how, TABLE).run(REQUEST.rows(0, 1), Candidates(keys, scores), 5)
    assert sorted(out.keys[0].tolist()) == [0, 1, 2, 3, 4]
    assert out.scores.isfinite().all()


def test_looks_at_the_clock_before_every_pick(how):
    looks = []

    class Timed(Request):
        def check_time(self):
            looks.append(1)
            if len(looks) == 4:
                raise Late

    with pytest.raises(Late):
        Diversify(how, TABLE).run(Timed(REQUEST.query), served(), 7)
    assert len(looks) == 4  # of seven


def test_only_the_leading_numbers_of_a_vector_may_count(how):
    short = ItemTable(Rep(vector=TABLE.stored["vector"][:, :3]), (RepSpec("vector", (3,)),), "digest")
    given, stage = served(), Diversify(how, TABLE, dims=3)
    assert torch.equal(stage.run(REQUEST, given, 9).keys, Diversify(how, short).run(REQUEST, given, 9).keys)
    assert stage.bytes_per_item == 12
    assert Diversify(how, TABLE, tensor="genres").bytes_per_item == 24


def test_relative_scores():
    low, inf = -torch.inf, torch.inf
    scores = torch.tensor(
        [[3.0, 2.0, 1.0], [5.0, 5.0, low], [inf, 1.0, 0.0], [inf, torch.nan, low], [7.0] * 3]
    )
    mask = torch.ones(5, 3, dtype=torch.bool)
    mask[4, 0] = False
    expected = [[1, 0.5, 0], [1, 1, 0], [1, 1, 0], [1, 0, 0], [0, 1, 1]]
    assert relative(scores, mask).tolist() == expected
    assert relative(scores, torch.zeros_like(mask)).tolist() == [[0, 0, 0]] * 5


def test_configs_are_told_apart_by_their_kind():
    class Recipe(Config):
        how: Diversity

    assert Recipe.parse({"how": {"kind": "mmr"}}).how == Mmr()
    assert Recipe.parse({"how": {"kind": "dpp", "window": 10}}).how == Dpp(window=10)
    with pytest.raises(ConfigError, match="did you mean 'window'"):
        Recipe.parse({"how": {"kind": "dpp", "windw": 10}})
    for wrong in ({"kind": "dpp", "window": 1}, {"kind": "mmr", "relevance": 1.5}):
        with pytest.raises(ConfigError):
            Recipe.parse({"how": wrong})


def test_what_is_wrong_is_said():
    with pytest.raises(ConfigError, match="did you mean 'vector'"):
        Diversify(Mmr(), TABLE, tensor="vectr")
    for tensor, dims in (("vector", 6), ("vector", 0), ("genres", 4)):
        with pytest.raises(ConfigError, match=f"first {dims}"):
            Diversify(Mmr(), TABLE, tensor=tensor, dims=dims)
    with pytest.raises(ConfigError, match="stands first"):
        Diversify(Mmr(), TABLE).run(REQUEST, None, 5)
    broken = ItemTable(Rep(vector=torch.full((N, 2), torch.nan)), (RepSpec("vector", (2,)),), "digest")
    with pytest.raises(DataError, match="NaN"):
        Diversify(Mmr(), broken).run(REQUEST, served(), 5)
