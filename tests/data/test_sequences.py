from collections import Counter
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from twotower.data.elapsed import elapsed_index
from twotower.data.history import History, HistoryColumn
from twotower.data.interactions import Interactions
from twotower.data.sequences import SequenceBatches
from twotower.errors import ConfigError, DataError
from twotower.types import Batch

SHIFT = 2  # item key k has the vocabulary index k + 2


def past(lengths: list[int], max_length: int) -> HistoryColumn:
    """Query q has lengths[q] events; every event has an item of its own, rising with time."""
    queries = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    n = len(queries)
    events = Interactions(queries, torch.arange(n), torch.arange(n), torch.arange(n))
    return HistoryColumn("seen", History.of(events, len(lengths)), torch.arange(n) + SHIFT, max_length)


def pairs(batches) -> list[tuple[int, int, int]]:
    """(query, input item, target item) of every position with a target."""
    found = []
    for batch in batches:
        for key, history, targets in zip(batch.query_keys, batch.query["seen"], batch.items, strict=True):
            for index, target in zip(history.tolist(), targets.tolist(), strict=True):
                assert (index == 0) == (target == -1)
                if target >= 0:
                    found.append((int(key), index - SHIFT, target))
    return found


lengths_strategy = st.lists(st.integers(0, 12), min_size=1, max_size=12).filter(lambda n: max(n) > 1)


@given(lengths=lengths_strategy, max_length=st.integers(1, 5), batch=st.integers(1, 4))
@settings(max_examples=40, deadline=None)
def test_windows_pair_each_event_with_the_next(lengths, max_length, batch):
    column = past(lengths, max_length)
    offsets = [0, *torch.tensor(lengths).cumsum(0).tolist()]
    for windows in ("last", "all"):
        source = SequenceBatches(column, Batch(), batch_size=batch, windows=windows, bucket=2)
        want = []
        for query, n in enumerate(lengths):
            first = 1 if windows == "all" else max(1, n - max_length)
            start = offsets[query]
            want += [(query, start + i - 1, start + i) for i in range(first, n)]
        assert sorted(pairs(source.epoch(0))) == want
        assert source.skipped == sum(n < 2 for n in lengths)


def test_rows_read_oldest_first_and_pad_on_the_right():
    source = SequenceBatches(past([4, 2], 3), Batch(age=torch.tensor([7, 9])), batch_size=2, shuffle=False)
    (batch,) = source.epoch(0)
    assert batch.query["seen"].tolist() == [[2, 3, 4], [6, 0, 0]]
    assert batch.items.tolist() == [[1, 2, 3], [5, -1, -1]]
    assert batch.query["age"].tolist() == [7, 9]
    assert batch.labels is None


def test_only_the_oldest_window_is_short():
    source = SequenceBatches(past([8], 3), Batch(), batch_size=9, windows="all", shuffle=False)
    (batch,) = source.epoch(0)
    assert sorted(batch.items.tolist()) == [[1, -1, -1], [2, 3, 4], [5, 6, 7]]


LENGTHS = torch.randint(0, 60, (200,), generator=torch.Generator().manual_seed(1)).tolist()


def source(**options: Any) -> SequenceBatches:
    return SequenceBatches(past(LENGTHS, 40), Batch(), **{"batch_size": 16, "seed": 4, **options})


def test_epochs_repeat_differ_and_resume():
    one, again, other = (pairs(source().epoch(number)) for number in (0, 0, 1))
    assert one == again
    assert one != other
    assert sorted(one) == sorted(other)
    whole, rest = list(source().epoch(3)), list(source().epoch(3, start_step=5))
    assert len(whole) == source().steps_per_epoch
    assert [b.items.tolist() for b in whole[5:]] == [b.items.tolist() for b in rest]
    with pytest.raises(ConfigError, match="start_step"):
        next(source().epoch(0, start_step=-1))


def test_batches_mix_queries_between_epochs():
    together = [
        Counter(frozenset(batch.query_keys.tolist()) for batch in source().epoch(number))
        for number in range(2)
    ]
    assert not (together[0] & together[1]).total()


def test_buckets_leave_little_padding_and_trim():
    slots = sum(batch.items.numel() for batch in source(bucket=4).epoch(0))
    filled = sum(min(max(n - 1, 0), 40) for n in LENGTHS)
    assert filled / slots > 0.85
    assert all((batch.items[:, -1] >= 0).any() for batch in source().epoch(0))


@pytest.mark.parametrize("world", [2, 3])
def test_ranks_share_rows_of_the_same_length(world):
    ranks = [list(source(rank=r, world=world).epoch(0)) for r in range(world)]
    assert {len(own) for own in ranks} == {source(world=world).steps_per_epoch}
    assert sorted(p for own in ranks for p in pairs(own)) == sorted(pairs(source().epoch(0)))
    assert all(
        max(len(b) for b in step) - min(len(b) for b in step) <= 1 for step in zip(*ranks, strict=True)
    )


def test_tokens_bound_a_batch():
    budget = source(tokens_per_batch=200, batch_size=10_000)
    assert all(batch.items.numel() <= 200 for batch in budget.epoch(0))
    assert sorted(pairs(budget.epoch(0))) == sorted(pairs(source().epoch(0)))
    assert len(list(budget.epoch(0))) == len(list(budget.epoch(1))) == budget.steps_per_epoch


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size"),
        ({"tokens_per_batch": 8}, "below max_length=40"),
        ({"rank": 1}, "rank"),
        ({"world": 1000}, "rows for 1000 ranks"),
    ],
)
def test_impossible_requests_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        source(**options)


def test_keys_outside_the_table_are_refused():
    with pytest.raises(DataError, match="table of queries"):
        SequenceBatches(past([3, 3], 3), Batch(age=torch.zeros(1)), batch_size=1)


def test_a_horizon_draws_each_target_from_the_next_events_with_equal_probability():
    items = torch.arange(10)
    events = Interactions(torch.zeros(10, dtype=torch.int64), items, times=items, rows=items)
    past = HistoryColumn("history", History.of(events, 1), torch.arange(10) + 2, max_length=20)
    batches = SequenceBatches(past, Batch(), batch_size=1, horizon=3)
    ahead = torch.cat([next(batches.epoch(number)).items - items[:9] for number in range(600)])  # (600, 9)
    assert ahead.min() == 1
    assert ahead.max(0).values.tolist() == [3] * 7 + [2, 1], "never beyond the history's end"
    shares = torch.stack([(ahead[:, 0] == n).double().mean() for n in (1, 2, 3)])
    assert (shares - 1 / 3).abs().max() < 0.08  # 4 standard deviations of 600 draws
    again = SequenceBatches(past, Batch(), batch_size=1, horizon=3)
    assert torch.equal(next(again.epoch(5)).items, next(batches.epoch(5)).items)


def test_a_horizon_of_one_is_the_next_event():
    items = torch.arange(6)
    events = Interactions(torch.zeros(6, dtype=torch.int64), items, times=items, rows=items)
    past = HistoryColumn("history", History.of(events, 1), torch.arange(6) + 2, max_length=20)
    assert next(SequenceBatches(past, Batch(), batch_size=1).epoch(0)).items.tolist() == [[1, 2, 3, 4, 5]]


def test_each_place_tells_how_long_until_its_target():
    times = torch.tensor([0, 0, 5, 100, 7, 9])
    events = Interactions(torch.tensor([0, 0, 0, 0, 1, 1]), torch.arange(6), times, torch.arange(6))
    column = HistoryColumn("seen", History.of(events, 2), torch.arange(6) + SHIFT, 3, elapsed=True)
    batch = next(SequenceBatches(column, Batch(), batch_size=2, shuffle=False).epoch(0))
    assert batch.items.tolist() == [[1, 2, 3], [5, -1, -1]]
    until_target = [elapsed_index(torch.tensor(seconds)).tolist() for seconds in ([0.0, 5.0, 95.0], [2.0])]
    assert batch.query["seen_elapsed"].tolist() == [until_target[0], [*until_target[1], 0, 0]]
