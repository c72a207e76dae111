"""Golden answers: the whole cascade asked again, up to the last bit of a sum."""

import dataclasses

import polars as pl
import pytest
import torch

from twotower.cascade.deadline import Budget
from twotower.errors import MismatchError, StorageError
from twotower.pipeline.answerer import Answerer
from twotower.pipeline.bundles.golden_answers import GoldenAnswers, _same_order
from twotower.types import Batch


@pytest.fixture(scope="module")
def answerer(packed):
    return packed.bundle.answerer()


@pytest.fixture(scope="module")
def golden(answerer):
    return GoldenAnswers.take(answerer, n=5)


def changed(golden, **tensors):
    return dataclasses.replace(golden, tensors=Batch({**golden.tensors, **tensors}))


def test_they_are_requests_as_they_come_and_what_every_stage_said(golden, answerer):
    assert golden.requests.columns == ["query", "history", "time"]
    assert golden.tensors["keys/retrieve"].shape == (6, 30)
    assert golden.tensors["keys/rank"].shape == golden.tensors["scores/rank"].shape == (6, 10)
    query, history, _ = golden.requests.row(3)
    answer = answerer.answer(features=query, history=history, k=10)
    ids = answerer.prepared.dataset.item_catalogue.ids(golden.tensors["keys/rank"][3].numpy())
    assert answer.items["item"].to_list() == ids.to_list()


def test_the_first_is_missing_in_everything(golden):
    query, history, _ = golden.requests.row(0)
    assert set(query.values()) == {None}
    assert history == []
    assert any(golden.requests["history"].list.len() > 0)


def test_they_are_asked_at_the_end_of_the_data_for_ever(golden, answerer):
    times = answerer.prepared.dataset.events["timestamp"]
    assert golden.requests["time"].to_list() == [times.max()] * 6


def test_the_same_cascade_answers_the_same(golden, answerer, tmp_path):
    golden.replay(answerer)
    golden.save(tmp_path)
    kept = GoldenAnswers.load(tmp_path)
    assert kept.requests.equals(golden.requests)
    kept.replay(answerer)


def test_a_slow_machine_is_no_other_answer(golden, answerer):
    """Stages that would miss their deadline are given all the time they need, and count nothing."""
    hurried = Answerer(answerer.prepared, answerer.cascade.within(Budget(total_ms=1e-6)))
    golden.replay(hurried)
    assert not hurried.cascade.degraded


def test_the_last_bits_of_a_score_may_differ(golden, answerer):
    scores = golden.tensors["scores/rank"]
    changed(golden, **{"scores/rank": scores * (1 + 1e-6)}).replay(answerer)


def test_items_that_change_places_are_refused(golden, answerer):
    keys = golden.tensors["keys/rank"].clone()
    keys[2, [4, 5]] = keys[2, [5, 4]]
    with pytest.raises(MismatchError, match="rank answered request 2 with the items"):
        changed(golden, **{"keys/rank": keys}).replay(answerer)


@pytest.mark.parametrize(
    ("again", "allowed"),
    [
        ([7, 3, 5, 9, -1], True),
        ([7, 5, 3, 9, -1], True),  # two of one score
        ([7, 3, 5, 8, -1], False),  # the last of fewer than were asked for: nothing was cut off
        ([3, 7, 5, 9, -1], False),
        ([8, 3, 5, 9, -1], False),
        ([7, 3, 5, 9, 8], False),  # an empty place is filled
    ],
)
def test_only_neighbours_of_equal_score_may_change_places(again, allowed):
    stored, scores = torch.tensor([[7, 3, 5, 9, -1]]), torch.tensor([[0.9, 0.5, 0.5 - 1e-6, 0.1, -torch.inf]])
    if allowed:
        _same_order("rank", stored, torch.tensor([again]), scores)
    else:
        with pytest.raises(MismatchError, match="rank answered request 0"):
            _same_order("rank", stored, torch.tensor([again]), scores)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("request/country", "the request's country of request 1 were"),
        ("scores/rank", "the scores of rank of request 1 were"),
        ("scores/retrieve", "the scores of retrieve of request 1 were"),
        ("keys/rank", "rank answered request 1 with the items"),
    ],
)
def test_what_differs_is_named(golden, answerer, name, message):
    tensor = golden.tensors[name].clone()
    tensor[1] += 1
    with pytest.raises(MismatchError, match=message):
        changed(golden, **{name: tensor}).replay(answerer)


def test_other_stages_or_shapes_are_refused(golden, answerer):
    fewer = Batch((n, t) for n, t in golden.tensors.items() if not n.endswith("/rank"))
    with pytest.raises(MismatchError, match="asked again there are"):
        dataclasses.replace(golden, tensors=fewer).replay(answerer)
    narrow = changed(golden, **{"scores/rank": golden.tensors["scores/rank"][:, :4]})
    with pytest.raises(MismatchError, match=r"were \(6, 4\) torch.float32, are \(6, 10\)"):
        narrow.replay(answerer)


def test_a_history_of_items_that_are_gone_is_refused(golden, answerer):
    gone = pl.Series("history", [[1]] * 6, dtype=pl.List(pl.Int64))
    with pytest.raises(MismatchError, match="the catalogue holds no item 1"):
        dataclasses.replace(golden, requests=golden.requests.with_columns(gone)).replay(answerer)


def test_files_that_cannot_be_read(golden, tmp_path):
    with pytest.raises(StorageError, match="no readable golden answers"):
        GoldenAnswers.load(tmp_path)
    golden.save(tmp_path)
    (tmp_path / "answers.safetensors").write_bytes(b"cut")
    with pytest.raises(StorageError, match="no readable golden answers"):
        GoldenAnswers.load(tmp_path)


def test_scores_are_those_of_one_request_at_a_time(golden):
    assert golden.tensors["scores/rank"].dtype == torch.float32
    assert (golden.tensors["scores/rank"].diff(dim=1) <= 0).all()


def test_the_last_place_of_a_full_list_may_have_gone_to_the_next_best():
    scores = torch.tensor([[0.9, 0.5]])
    _same_order("rank", torch.tensor([[7, 3]]), torch.tensor([[7, 5]]), scores)
    with pytest.raises(MismatchError, match="request 0"):
        _same_order("rank", torch.tensor([[7, 3]]), torch.tensor([[5, 3]]), scores)
