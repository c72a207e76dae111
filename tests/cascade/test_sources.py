"""Candidates from content and from lists made elsewhere."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from twotower.cascade.sources import RetrieveGiven, RetrieveListed, RetrieveSimilar
from twotower.cascade.stage import Request
from twotower.errors import ConfigError, DataError
from twotower.index.build import IndexConfig, build_index
from twotower.index.delta import DeltaIndex
from twotower.index.delta_table import DeltaTable
from twotower.index.item_table import ItemTable
from twotower.types import NO_ITEM, Batch, Ragged, Rep, RepSpec

# genres of five films; the last has none
FILMS = torch.tensor([[1.0, 0.0, 0.0], [1.0, 1.0, 0.0], [0.0, 2.0, 0.0], [0.0, 0.0, 5.0], [0.0, 0.0, 0.0]])


def asked(*history: list[int], **options: object) -> Request:
    return Request(Batch(), Ragged.of(list(history)), **options)


def test_similar_is_the_mean_cosine_with_the_history():
    out = RetrieveSimilar(FILMS).run(asked([0, 2], [3]), None, 5)
    half = 0.5**0.5
    assert out.keys.tolist() == [[1, 0, 2, 3, 4], [3, 0, 1, 2, 4]]
    torch.testing.assert_close(out.scores, torch.tensor([[half, 0.5, 0.5, 0, 0], [1.0, 0, 0, 0, 0]]))


def test_similar_equals_the_loop():
    draw = torch.Generator().manual_seed(0)
    vectors = torch.randn(40, 6, generator=draw)
    histories = [torch.randint(0, 40, (n,), generator=draw).tolist() for n in (1, 5, 12)]
    out = RetrieveSimilar(vectors).run(asked(*histories), None, 40)
    for row, history in enumerate(histories):
        cosines = torch.stack([F.cosine_similarity(vectors[key], vectors, dim=1) for key in history]).mean(0)
        torch.testing.assert_close(out.scores[row], cosines[out.keys[row]])


def test_who_says_nothing_is_told_nothing():
    out = RetrieveSimilar(FILMS).run(asked([], [NO_ITEM, 77], [4], [0]), None, 3)
    assert out.counts.tolist() == [0, 0, 0, 3]
    assert (out.pair["similar_score"][:3] == 0).all()


def test_unknown_items_of_a_history_do_not_dilute_it():
    both = RetrieveSimilar(FILMS).run(asked([0, 99, NO_ITEM], [0]), None, 5)
    assert torch.equal(both.scores[0], both.scores[1])


def test_similar_honours_what_a_request_forbids():
    allow = torch.tensor([True, False, True, False, True])
    request = asked([0], [0], exclude=Ragged.of([[0], []]), allow=allow)
    assert RetrieveSimilar(FILMS).run(request, None, 2).keys.tolist() == [[2, 4], [0, 2]]


def test_similar_by_a_table_without_its_last_numbers():
    with_bias = torch.cat([FILMS, torch.full((5, 1), 9.0)], 1)
    specs = [RepSpec("vector", (4,))]
    table = ItemTable.build(lambda keys: Rep(vector=with_bias[keys]), 5, specs, "digest")
    stage = RetrieveSimilar.of_table(table, dims=3)
    plain = RetrieveSimilar(FILMS)
    assert torch.equal(stage.run(asked([1]), None, 5).scores, plain.run(asked([1]), None, 5).scores)
    assert stage.bytes_per_item == plain.bytes_per_item == 3 * 4 + 8
    with pytest.raises(ConfigError, match=r"compares 'vektor', the item table has \['vector'\]"):
        RetrieveSimilar.of_table(table, tensor="vektor")


def test_similar_by_an_approximate_index():
    stage = RetrieveSimilar(FILMS, index=IndexConfig(kind="faiss", factory="Flat"))
    assert stage.run(asked([1]), None, 1).keys.tolist() == [[1]]


def test_similar_needs_histories_and_finite_vectors():
    with pytest.raises(ConfigError, match="'similar' retrieves from histories"):
        RetrieveSimilar(FILMS).run(Request(Batch(user=torch.arange(2))), None, 2)
    with pytest.raises(DataError, match="NaN"):
        RetrieveSimilar(torch.tensor([[torch.nan]]))


LISTS = Ragged.of([[], [3], [8, 2, 8, 5], [9]])


def countries(*values: int, **options: object) -> Request:
    return Request(Batch(country=torch.tensor(values)), **options)


def test_a_list_by_the_value_of_a_column():
    out = RetrieveListed("country", LISTS).run(countries(2, 1, 0, 4, 3, -1), None, 3)
    assert out.keys.tolist() == [[8, 2, 5], [3, -1, -1], [-1] * 3, [-1] * 3, [9, -1, -1], [-1] * 3]
    assert out.scores[0].tolist() == pytest.approx([1, 1 / 2, 1 / 4])
    assert out.pair["listed_rank"][1].tolist() == [0, 1, 2]


def test_a_list_with_scores_is_ordered_by_them():
    scores = torch.tensor([0.5, -1.0, 4.0, 3.0, 2.0, 0.0])  # of 3; 8, 2, 8, 5; 9
    out = RetrieveListed("country", LISTS, scores).run(countries(2, 1), None, 9)
    assert out.keys.tolist() == [[2, 8, 5, -1], [3, -1, -1, -1]]
    assert out.scores[0, :3].tolist() == [4, 3, 2]


def test_what_is_wrong_with_lists_is_said():
    with pytest.raises(ConfigError, match=r"6 listed items, scores \(5,\)"):
        RetrieveListed("country", LISTS, torch.zeros(5))
    with pytest.raises(DataError, match="'listed': a score is NaN"):
        RetrieveListed("country", LISTS, torch.full((6,), torch.nan))
    with pytest.raises(ConfigError, match=r"column 'country'; the request has \['city'\]"):
        RetrieveListed("country", LISTS).run(Request(Batch(city=torch.arange(2))), None, 2)
    with pytest.raises(
        ConfigError, match=r"'country' is torch.int64 \(2, 1\), expected whole numbers \(Q,\)"
    ):
        RetrieveListed("country", LISTS).run(Request(Batch(country=torch.zeros(2, 1).long())), None, 2)


def brought(keys: list[list[int]], **options: object) -> Request:
    return Request(Batch(picks=Ragged.of(keys).padded(NO_ITEM)), **options)


def test_lists_that_come_with_the_request():
    out = RetrieveGiven("picks").run(brought([[7, 1, 7], [], [4]]), None, 2)
    assert out.keys.tolist() == [[7, 1], [-1, -1], [4, -1]]
    assert out.scores[0].tolist() == [1, 0.5]


def test_a_hole_in_a_list_keeps_the_places_of_the_others():
    out = RetrieveGiven("picks").run(brought([[NO_ITEM, 1], [5, 1]], exclude=Ragged.of([[], [5]])), None, 2)
    assert out.keys[:, 0].tolist() == [1, 1]
    assert out.scores[:, 0].tolist() == [0.5, 0.5]


def test_given_scores_order_the_list_and_ties_go_by_key():
    request = brought([[7, 1, 3, 7]])
    query = request.query.join(Batch(picks_score=torch.tensor([[1.0, 1.0, 2.0, 3.0]])))
    out = RetrieveGiven("picks").run(Request(query), None, 9)
    assert out.keys.tolist() == [[7, 3, 1, -1]]
    assert out.scores[0, :3].tolist() == [3, 2, 1]


def test_scores_of_empty_places_may_be_anything_and_others_may_not():
    keys = torch.tensor([[3, NO_ITEM]])
    nan = torch.tensor([[1.0, torch.nan]])
    stage = RetrieveGiven("picks")
    assert stage.run(Request(Batch(picks=keys, picks_score=nan)), None, 2).keys.tolist() == [[3, -1]]
    with pytest.raises(DataError, match="'given': a score is NaN"):
        stage.run(Request(Batch(picks=keys, picks_score=nan.flip(1))), None, 2)
    with pytest.raises(ConfigError, match=r"items \(1, 2\), scores \(1, 1\)"):
        stage.run(Request(Batch(picks=keys, picks_score=nan[:, :1])), None, 2)
    with pytest.raises(ConfigError, match=r"expected whole numbers \(Q, L\)"):
        stage.run(Request(Batch(picks=keys.float())), None, 2)


@pytest.mark.parametrize("per_query", [False, True])
def test_lists_honour_a_mask_and_what_it_does_not_reach_is_not_shown(per_query):
    allow = torch.tensor([True, False, True])
    request = brought([[1, 2, 0], [2, 9]], allow=allow.expand(2, 3) if per_query else allow)
    assert RetrieveGiven("picks").run(request, None, 3).keys.tolist() == [[2, 0, -1], [2, -1, -1]]


@pytest.mark.parametrize("k", [0, 1, 99])
def test_no_list_is_longer_than_asked(k):
    assert RetrieveGiven("picks").run(brought([[1, 2], [3]]), None, k).counts.tolist() == [
        min(k, 2),
        min(k, 1),
    ]
    listed = RetrieveListed("country", LISTS).run(countries(2, 1), None, k)
    assert listed.counts.tolist() == [min(k, 3), min(k, 1)]
    assert RetrieveSimilar(FILMS).run(asked([0], [1]), None, k).counts.tolist() == [min(k, 5)] * 2


def test_nobody_asks():
    assert len(RetrieveGiven("picks").run(brought([[1]]).rows(0, 0), None, 3).keys) == 0
    assert len(RetrieveListed("country", LISTS).run(countries(1).rows(0, 0), None, 3).keys) == 0
    assert len(RetrieveSimilar(FILMS).run(asked([1]).rows(0, 0), None, 3).keys) == 0


def test_over_an_index_and_a_table_that_change_it_finds_what_it_would_afresh():
    draw = torch.Generator().manual_seed(3)
    vectors = torch.randint(-3, 4, (30, 5), generator=draw).float()
    specs = (RepSpec("vector", (5,)),)
    base = ItemTable.build(lambda keys: Rep(vector=vectors[keys]), 20, specs, "model")
    table, units = DeltaTable(base), F.normalize(vectors[:20], dim=-1)
    index = DeltaIndex(build_index(IndexConfig(), units))
    stage = RetrieveSimilar.of_table(table, index=index)
    alive = torch.arange(30) < 20
    now = vectors[:20]
    for step in range(40):
        size = len(now)
        keys = torch.randint(0, min(size + 1, 30), (3,), generator=draw).unique()
        if step % 4 == 3:
            index.delete(keys)
            alive[keys] = False
        else:
            new = torch.randint(-3, 4, (len(keys), 5), generator=draw).float()
            table.upsert(keys, Rep(vector=new))
            index.upsert(keys, F.normalize(new, dim=-1))
            now = torch.cat([now, torch.zeros(int(keys.max() >= size), 5)])
            now[keys] = new
            alive[keys] = True
        request = asked([0, 3, 19], [int(keys[0]), 77], [])
        fresh = RetrieveSimilar(now).run(replace(request, allow=alive[: len(now)]), None, 12)
        found = stage.run(request, None, 12)
        assert found.counts.tolist() == fresh.counts.tolist()
        torch.testing.assert_close(found.scores, fresh.scores)
        same = found.keys == fresh.keys  # but for equal scores, whose last bits may differ
        assert (same | (found.scores - fresh.scores).abs().le(1e-6)).all()
