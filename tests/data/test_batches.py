from itertools import pairwise
from typing import Any

import pytest
import torch

from twotower.data.batches import BatchSource, EventBatches, Examples, ListBatches
from twotower.data.history import History, HistoryColumn
from twotower.data.interactions import Interactions
from twotower.errors import ConfigError, DataError
from twotower.types import Batch

N, N_QUERIES, N_ITEMS = 103, 11, 17


def world(n: int = N) -> tuple[Interactions, Batch, HistoryColumn]:
    g = torch.Generator().manual_seed(3)
    events = Interactions(
        torch.randint(0, N_QUERIES, (n,), generator=g),
        torch.randint(0, N_ITEMS, (n,), generator=g),
        torch.randint(0, 20, (n,), generator=g),
        torch.arange(n),
        labels=torch.arange(n).float(),  # the row, so that batches can be traced
        weights=torch.rand(n, generator=g),
        context=Batch(device=torch.arange(n) * 2),
    )
    queries = Batch(user=torch.arange(N_QUERIES) + 2, age=torch.rand(N_QUERIES, 2, generator=g))
    history = History.of(events, N_QUERIES)
    return events, queries, HistoryColumn("seen", history, torch.arange(N_ITEMS) + 2, 4)


def source(**options: Any) -> EventBatches:
    events, queries, past = world()
    return EventBatches(events, queries, past=past, **{"batch_size": 10, "seed": 5, **options})


def rows(batches: list[Examples]) -> list[int]:
    return [int(row) for batch in batches if batch.labels is not None for row in batch.labels]


def same(left: Examples, right: Examples) -> bool:
    tensors = [(left.query[name], right.query[name]) for name in left.query | right.query]
    tensors += [(left.items, right.items), (left.query_keys, right.query_keys)]
    tensors += [(left.labels, right.labels)] if left.labels is not None and right.labels is not None else []
    return all(torch.equal(a, b) for a, b in tensors)


def test_every_row_of_a_batch_belongs_to_its_event():
    events, queries, past = world()
    positions = past.history.position_of(events)
    for batch in source().epoch(0):
        at = batch.labels.long()
        assert torch.equal(batch.items, events.item_keys[at])
        assert torch.equal(batch.query_keys, events.query_keys[at])
        assert torch.equal(batch.weights, events.weights[at])
        assert torch.equal(batch.query["device"], at * 2)
        assert torch.equal(batch.query["age"], queries["age"][batch.query_keys])
        assert torch.equal(batch.query["seen"], past.column(batch.query_keys, positions[at]))


def test_an_epoch_visits_every_event_once_in_a_new_order():
    batches = source()
    first, second = rows(list(batches.epoch(0))), rows(list(batches.epoch(1)))
    assert sorted(first) == sorted(second) == list(range(N))
    assert first != second
    # a shuffled order keeps few neighbours together: about two of 102 pairs by chance
    assert sum(abs(a - b) == 1 for a, b in pairwise(first)) < 10
    assert [len(batch) for batch in batches.epoch(0)] == [10] * 10 + [3]
    assert batches.steps_per_epoch == 11


def test_epochs_repeat_themselves_and_resume_in_the_middle():
    whole = list(source().epoch(2))
    assert all(same(a, b) for a, b in zip(whole, source().epoch(2), strict=True))
    assert all(same(a, b) for a, b in zip(whole[4:], source().epoch(2, start_step=4), strict=True))
    assert list(source().epoch(2, start_step=11)) == []
    with pytest.raises(ConfigError, match="start_step"):
        next(source().epoch(2, start_step=-1))


def test_ranks_read_disjoint_shares_in_equal_steps():
    ranks = [list(source(rank=rank, world=3).epoch(1)) for rank in range(3)]
    assert {len(own) for own in ranks} == {source(rank=0, world=3).steps_per_epoch}
    assert sorted(row for own in ranks for row in rows(own)) == list(range(N))


def test_unshuffled_batches_keep_the_order():
    assert rows(list(source(shuffle=False).epoch(7))) == list(range(N))


def test_no_history_shows_the_event_itself_or_a_tie_when_time_is_strict():
    events, queries, past = world()
    batches = EventBatches(events, queries, batch_size=N, past=past, strict_time=True, shuffle=False)
    (batch,) = batches.epoch(0)
    for row in range(N):
        mine = events.query_keys == events.query_keys[row]
        earlier = int((mine & (events.times < events.times[row])).sum())
        assert int((batch.query["seen"][row] > 0).sum()) == min(earlier, 4)


def test_keys_outside_the_table_are_refused():
    events, _, _ = world()
    with pytest.raises(DataError, match="query keys run from 0 to 10, the table of queries has 4 rows"):
        EventBatches(events, Batch(user=torch.arange(4)), batch_size=10)


def test_queries_without_columns_still_make_batches():
    events, _, past = world()
    (batch,) = EventBatches(events, Batch(), batch_size=N, past=past).epoch(0)
    assert list(batch.query) == ["device", "seen"]


def test_examples_describe_themselves_and_move():
    batch = next(source(shuffle=False).epoch(0))
    assert "10 examples with items (10,)" in batch.describe()
    assert "labels from 0 to 9" in batch.describe()
    moved = batch.to("meta")
    assert moved.items.device.type == moved.query["user"].device.type == "meta"
    assert moved.labels is not None
    assert moved.labels.device.type == "meta"


def list_batches(**options: Any) -> ListBatches:
    _, queries, past = world()
    keys = torch.arange(25) % N_QUERIES
    candidates = torch.arange(25 * 3).reshape(25, 3)
    candidates[::4, 2] = -1
    given = {
        "batch_size": 4,
        "labels": torch.arange(25.0)[:, None].expand(25, 3),
        "weights": torch.arange(25.0),
        "pair": Batch(score=torch.arange(75.0).reshape(25, 3), rank=torch.zeros(25, 3, 2)),
        "context": Batch(device=torch.arange(25)),
        "past": past,
    }
    return ListBatches(keys, candidates, queries, **{**given, **options})


def test_lists_keep_candidates_labels_and_pair_fields_together():
    seen = []
    for batch in list_batches().epoch(0):
        at = batch.weights.long()
        seen += at.tolist()
        assert torch.equal(batch.labels[:, 0].long(), at)
        assert torch.equal(batch.pair["score"], at[:, None] * 3.0 + torch.arange(3))
        assert torch.equal(batch.query["device"], at)
        assert torch.equal(batch.query_keys, at % N_QUERIES)
        assert torch.equal(batch.items[:, 0], at * 3)
        assert batch.pair["rank"].shape == (len(batch), 3, 2)
        assert batch.query["seen"].shape == (len(batch), 4)
    assert sorted(seen) == list(range(25))


def test_list_histories_are_cut_at_their_positions():
    (batch,) = list_batches(positions=torch.zeros(25, dtype=torch.int64), batch_size=25).epoch(0)
    assert not batch.query["seen"].any()


def test_lists_resume_and_share_like_events():
    whole, rest = list(list_batches().epoch(1)), list(list_batches().epoch(1, 3))
    assert all(same(a, b) for a, b in zip(whole[3:], rest, strict=True))
    ranks = [list(list_batches(rank=r, world=2).epoch(0)) for r in (0, 1)]
    assert sorted(int(w) for own in ranks for batch in own for w in batch.weights) == list(range(25))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"labels": torch.zeros(25, 2)}, r"labels has shape \(25, 2\)"),
        ({"pair": Batch(score=torch.zeros(24, 3))}, "score has shape"),
        ({"weights": torch.zeros(3)}, "weights has 3 rows for 25 lists"),
    ],
)
def test_lists_of_other_shapes_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        list_batches(**options)


def test_all_sources_keep_the_protocol():
    sources: list[BatchSource] = [source(), list_batches()]
    assert all(s.steps_per_epoch == len(list(s.epoch(0))) for s in sources)
