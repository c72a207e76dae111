"""Whole requests, and the lists drawn from them."""

import math
from dataclasses import replace

import polars as pl
import pytest
import torch

from twotower.data.catalogue import Catalogue
from twotower.data.full_stage import LOG_Q, FullStage, FullStageBatches, Role, StageSampling
from twotower.data.history import History, HistoryColumn
from twotower.data.interactions import Interactions
from twotower.errors import ConfigError, DataError
from twotower.types import Batch

NAN = float("nan")
USERS = Catalogue(pl.Series("user", ["a", "b", "c"]))
ITEMS = Catalogue(pl.Series("item", [100 + n for n in range(40)]))
QUERIES = Batch(user=torch.arange(3) + 2)
E, R, P, T = "exposed", "ranked", "preranked", "retrieved"


def log(rows):
    names = ["request", "user", "item", "stage", "gain", "teacher"]
    return pl.DataFrame(rows, schema=names, orient="row")


LOG = log(
    [
        (7, "b", 103, E, 2.0, 0.9),
        (7, "b", 101, E, 0.0, 0.8),
        (7, "b", 109, R, None, 0.5),
        (2, "a", 100, P, None, 0.4),
        (7, "b", 104, T, None, None),  # rows of a request need not stand together
        (2, "a", 102, E, 1.0, None),
    ]
)


def big(requests=30, seed=0):
    """Requests of 4 exposed, 6 ranked, 8 preranked and 12 retrieved items: 0..29 of a catalogue of 40."""
    g = torch.Generator().manual_seed(seed)
    items = torch.stack([torch.randperm(30, generator=g) for _ in range(requests)])
    roles = torch.tensor([0, 1, 1, 1] + [2] * 6 + [3] * 8 + [4] * 12, dtype=torch.int8).expand(requests, 30)
    gains = (roles == 0).float() * 3
    teacher = items.float().masked_fill(roles == 4, NAN)
    return FullStage(torch.arange(requests) % 3, items, roles, gains, teacher)


def batches(samples, sampling, **more):
    more = {"batch_size": 8, "seed": 5, **more}
    return FullStageBatches(samples, QUERIES, StageSampling(**sampling), torch.arange(40), **more)


def test_a_log_becomes_requests_with_roles():
    samples = FullStage.of_log(LOG, USERS, ITEMS)
    assert samples.query_keys.tolist() == [1, 0]
    assert samples.items.tolist() == [[3, 1, 9, 4], [0, 2, -1, -1]]
    assert samples.roles.tolist() == [
        [Role.EXPOSED_POSITIVE, Role.EXPOSED_NEGATIVE, Role.RANKED, Role.RETRIEVED],
        [Role.PRERANKED, Role.EXPOSED_POSITIVE, -1, -1],
    ]
    assert samples.gains.tolist() == [[2, 0, 0, 0], [0, 1, 0, 0]]
    known = torch.tensor([[0.9, 0.8, 0.5, -1], [0.4, -1, -1, -1]])
    torch.testing.assert_close(samples.teacher.nan_to_num(-1), known)
    assert samples.counts() == {
        "exposed_positive": 2,
        "exposed_negative": 1,
        "ranked": 1,
        "preranked": 1,
        "retrieved": 1,
        "random": 0,
    }
    ours = samples.taught_by(torch.zeros(2, 4))
    assert (ours.teacher == 0).all()
    assert torch.equal(ours.items, samples.items)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ((8, "c", 100, "reranked", None, None), r"unknown stages \['reranked'\]"),
        ((8, "c", 100, E, None, None), "exposed rows without a gain"),
        ((8, "z", 100, T, None, None), "ids outside the catalogues"),
        ((7, "c", 100, T, None, None), "two queries"),
    ],
)
def test_a_log_that_makes_no_sense_is_refused(row, message):
    with pytest.raises(DataError, match=message):
        FullStage.of_log(log([*LOG.rows(), row]), USERS, ITEMS)


def test_an_empty_log_is_no_request():
    assert len(FullStage.of_log(LOG.clear(), USERS, ITEMS)) == 0


def test_each_list_holds_so_many_of_each_role_and_none_twice():
    samples = big()
    sampling = {"exposed": 3, "ranked": 2, "preranked": 5, "retrieved": 4, "random": 6}
    by_query = {}
    for examples in batches(samples, sampling).epoch(0):
        for row in range(len(examples)):
            role, keys = examples.pair["role"][row], examples.items[row]
            real = keys >= 0
            assert [(role == r).sum().item() for r in range(5)] == [1, 2, 2, 5, 4]
            assert torch.equal(real, role >= 0)
            candidates = keys[real & (role < 5)]
            assert len(candidates.unique()) == len(candidates)
            assert not torch.isin(keys[role == 5], torch.arange(30)).any()  # every request holds all of 0..29
            assert (examples.labels[row] > 0).tolist() == (role == 0).tolist()
            scored = (role >= 0) & (role < 4)
            assert torch.equal(examples.pair["teacher_score"][row][scored], keys[scored].float())
            assert examples.pair["teacher_score"][row][~scored].isnan().all()
            by_query.setdefault(int(examples.query_keys[row]), 0)
            assert examples.query["user"][row] == examples.query_keys[row] + 2
    assert len(by_query) == 3


def test_drawn_candidates_are_those_of_the_request():
    samples = big()
    plain = batches(samples, {"random": 0}, shuffle=False, batch_size=10)
    for number, examples in enumerate(plain.epoch(0)):
        for row in range(10):
            request = number * 10 + row
            place = {int(key): column for column, key in enumerate(samples.items[request])}
            for key, role in zip(
                examples.items[row].tolist(), examples.pair["role"][row].tolist(), strict=True
            ):
                assert samples.roles[request, place[key]] == role


def test_positives_are_drawn_before_other_exposures():
    for examples in batches(big(), {"exposed": 1}).epoch(0):
        assert ((examples.pair["role"] == 0).sum(1) == 1).all()
        assert not (examples.pair["role"] == 1).any()


def test_all_exposures_are_the_default_and_roles_can_be_left_out():
    only = {"ranked": 0, "preranked": 0, "retrieved": 0, "random": 0}
    for examples in batches(big(), only).epoch(0):
        assert examples.items.shape[1] == 4


def drawn(source, epoch, start=0):
    return [(e.items, e.pair["role"]) for e in source.epoch(epoch, start)]


def same(one, other):
    return len(one) == len(other) and all(
        torch.equal(a, b) for x, y in zip(one, other, strict=True) for a, b in zip(x, y, strict=True)
    )


def test_epochs_draw_anew_and_a_resumed_one_draws_the_same():
    source = batches(big(), {"ranked": 2})
    assert source.steps_per_epoch == 4
    first = drawn(source, 0)
    assert same(first, drawn(batches(big(), {"ranked": 2}), 0))
    assert same(first[2:], drawn(source, 0, 2))
    assert not same(first, drawn(source, 1))
    assert not same(first, drawn(batches(big(), {"ranked": 2}, seed=6), 0))


def test_requests_that_lack_a_role_leave_slots_empty():
    samples = FullStage.of_log(LOG, USERS, ITEMS)
    (examples,) = batches(samples, {"random": 0}, shuffle=False).epoch(0)
    assert examples.items.shape == (2, 5)  # two exposed, and one of each other role
    assert (examples.items >= 0).sum(1).tolist() == [4, 2]


def test_histories_are_cut_at_the_request():
    events = Interactions(torch.tensor([1, 1, 0]), torch.tensor([5, 6, 7]), torch.arange(3), torch.arange(3))
    past = HistoryColumn("past", History.of(events, 3), torch.arange(40) + 2, 4)
    samples = FullStage.of_log(LOG, USERS, ITEMS, positions=torch.tensor([1, 1]))
    (examples,) = batches(samples, {}, shuffle=False, past=past).epoch(0)
    assert examples.query["past"].tolist() == [[7, 0, 0, 0], [9, 0, 0, 0]]


def test_log_q_is_the_share_of_its_role_that_was_drawn():
    sampling = {"exposed": 3, "ranked": 2, "preranked": 5, "retrieved": 50, "random": 6}
    # the positive always; 2 of 3 other exposed, 2 of 6, 5 of 8, all 12, and 6 draws among 40 items
    rate = {-1: 1.0, 0: 1.0, 1: 2 / 3, 2: 2 / 6, 3: 5 / 8, 4: 1.0, 5: 6 / 40}
    for examples in batches(big(), sampling).epoch(0):
        found = examples.pair[LOG_Q].reshape(-1).tolist()
        roles = examples.pair["role"].reshape(-1).tolist()
        assert found == pytest.approx([math.log(rate[role]) for role in roles], abs=1e-6)


def test_log_q_is_of_each_list_by_itself():
    items = torch.arange(8).expand(2, 8)
    roles = torch.tensor([[2, 2, 2, 2, 3, 3, 0, 1], [2, 3, 3, 3, 3, 3, 3, 3]], dtype=torch.int8)
    samples = FullStage(torch.arange(2), items, roles, (roles == 0).float(), torch.full((2, 8), NAN))
    (examples,) = batches(samples, {"ranked": 1, "preranked": 1, "random": 0}, shuffle=False).epoch(0)
    q = {
        (row, role): value
        for row in range(2)
        for role, value in zip(
            examples.pair["role"][row].tolist(), examples.pair[LOG_Q][row].exp().tolist(), strict=True
        )
    }
    wanted = {(0, 2): 1 / 4, (0, 3): 1 / 2, (0, 0): 1, (0, 1): 1, (1, 2): 1, (1, 3): 1 / 7, (1, -1): 1}
    assert q == pytest.approx(wanted)


@pytest.mark.parametrize("random", [3, 90])
def test_drawn_candidates_weighed_by_log_q_stand_for_all(random):
    """Sums over what was drawn, each divided by its rate, have the sums over everything as their mean."""
    samples = big(requests=400)
    sampling = {"ranked": 2, "preranked": 3, "retrieved": 4, "random": random}
    for examples in batches(samples, sampling, batch_size=400).epoch(0):
        role, weight = examples.pair["role"], (-examples.pair[LOG_Q]).exp()
        for kind, size in enumerate([1, 3, 6, 8, 12, 10]):  # 10 of the 40 items are in no request
            mean = (weight * (role == kind)).sum(1).mean().item()
            assert mean == pytest.approx(size, rel=0.15 if kind == 5 else 1e-5)


def test_barred_items_are_not_drawn_at_random():
    samples = big()
    barred = torch.tensor([30, 33, -1]).repeat(30, 1)
    barred[0] = torch.tensor([31, -1, -1])
    free, kept = set(), set()
    for source, found in ((samples, free), (replace(samples, barred=barred), kept)):
        for examples in batches(source, {"random": 40}, shuffle=False).epoch(0):
            lucky = examples.pair["role"] == Role.RANDOM
            found |= set(examples.items[lucky].tolist())
            assert (examples.pair[LOG_Q][~lucky & (examples.items < 0)] == 0).all()
    assert free == set(range(30, 40))
    assert kept == free  # the first request bars another than the rest
    (first, *_) = batches(replace(samples, barred=barred), {"random": 400}, shuffle=False).epoch(0)
    random = [set(row[role == 5].tolist()) for row, role in zip(first.items, first.pair["role"], strict=True)]
    assert random[0] == set(range(30, 40)) - {31}
    assert random[1] == set(range(30, 40)) - {30, 33}


def test_columns_must_fit():
    with pytest.raises(ValueError, match="gains has shape"):
        FullStage(torch.zeros(1), torch.zeros(1, 2), torch.zeros(1, 2), torch.zeros(1, 3), torch.zeros(1, 2))
    with pytest.raises(ValueError, match="no role"):
        FullStage(torch.zeros(1), -torch.ones(1, 1), torch.zeros(1, 1), torch.zeros(1, 1), torch.zeros(1, 1))
    with pytest.raises(ConfigError, match="a catalogue to be drawn from"):
        FullStageBatches(big(), QUERIES, StageSampling(), torch.arange(0), batch_size=3)
