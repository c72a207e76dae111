import itertools

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from twotower.data.elapsed import elapsed_index
from twotower.data.history import History, HistoryColumn
from twotower.data.interactions import Interactions
from twotower.types import Batch

N_QUERIES, N_ITEMS = 5, 8


def interactions(rows: list[tuple[int, int, int]]) -> Interactions:
    """Events (query, item, time) in the order given; the row is the place."""
    columns = torch.tensor(rows, dtype=torch.int64).reshape(-1, 3)
    return Interactions(columns[:, 0], columns[:, 1], columns[:, 2], torch.arange(len(rows)))


def naive_before(rows, query, moment):
    """Items of the query's events whose (time, row) lies before the moment, oldest first."""
    earlier = sorted((time, row, item) for row, (q, item, time) in enumerate(rows) if q == query)
    return [item for time, row, item in earlier if (time, row) < moment]


# few distinct times, so that ties are the rule
events_strategy = st.lists(
    st.tuples(st.integers(0, N_QUERIES - 1), st.integers(0, N_ITEMS - 1), st.integers(0, 3)), max_size=30
)


@given(rows=events_strategy, max_length=st.integers(0, 6), strict=st.booleans())
@settings(max_examples=150, deadline=None)
def test_history_equals_the_naive_loop_and_never_shows_the_future(rows, max_length, strict):
    events = interactions(rows)
    history = History.of(events, N_QUERIES)
    positions = history.position_of(events, strict_time=strict)
    before = history.before(events.query_keys, positions, max_length)
    assert before.shape == (len(rows), max_length)
    for row, (query, _, time) in enumerate(rows):
        want = naive_before(rows, query, (time, -1 if strict else row))
        assert int(positions[row]) == len(want)
        want = want[max(len(want) - max_length, 0) :]
        assert before[row].tolist() == want + [-1] * (max_length - len(want))


@given(rows=events_strategy, cut=st.integers(0, 4))
@settings(max_examples=50, deadline=None)
def test_events_outside_the_history_find_their_place(rows, cut):
    events = interactions(rows)
    train = events.take((events.times < cut).nonzero()[:, 0])
    positions = History.of(train, N_QUERIES).position_of(events)
    for row, (query, _, time) in enumerate(rows):
        kept = [(t, r) for r, (q, _, t) in enumerate(rows) if q == query and t < cut]
        assert int(positions[row]) == sum(moment < (time, row) for moment in kept)


@given(rows=events_strategy)
@settings(max_examples=50, deadline=None)
def test_seen_holds_each_item_once(rows):
    seen = History.of(interactions(rows), N_QUERIES).seen()
    assert [s.tolist() for s in seen] == [sorted({i for q, i, _ in rows if q == k}) for k in range(N_QUERIES)]


def test_whole_history_of_known_and_unknown_queries():
    history = History.of(interactions([(0, 3, 9), (2, 4, 5), (0, 5, 1)]), 3)
    whole = history.before(torch.tensor([0, 1, -1, 2]), None, 3)
    assert whole.tolist() == [[5, 3, -1], [-1, -1, -1], [-1, -1, -1], [4, -1, -1]]
    assert [row.tolist() for row in history.lists()] == [[5, 3], [], [4]]
    assert repr(history) == "History(3 events of 3 queries)"


def test_the_order_of_the_events_handed_in_does_not_matter():
    events = interactions([(0, 3, 2), (0, 5, 2), (0, 4, 1), (0, 6, 2)])
    shuffled = events.take(torch.tensor([3, 2, 1, 0]))
    assert History.of(shuffled, 1).items.tolist() == History.of(events, 1).items.tolist() == [4, 3, 5, 6]


def test_fractional_times_keep_their_order():
    keys = torch.zeros(2, dtype=torch.int64)
    events = Interactions(keys, torch.tensor([1, 2]), torch.tensor([0.5, 0.25]), torch.arange(2))
    assert History.of(events, 1).position_of(events).tolist() == [1, 0]


def test_column_speaks_vocabulary_indices_and_pads_with_zero():
    history = History.of(interactions([(0, 1, 1), (0, 0, 2), (1, 2, 3)]), 3)
    past = HistoryColumn("clicked", history, item_index=torch.tensor([10, 11, 1]), max_length=3)
    query = past.join(Batch(age=torch.tensor([4, 5])), torch.tensor([0, 2]), torch.tensor([1, 0]))
    assert query["clicked"].tolist() == [[11, 0, 0], [0, 0, 0]]
    assert past.column(torch.tensor([1, 0])).tolist() == [[1, 0, 0], [11, 10, 0]]


@given(rows=events_strategy, max_length=st.integers(0, 6), strict=st.booleans())
@settings(max_examples=100, deadline=None)
def test_elapsed_times_reach_to_the_next_event_and_last_to_the_request(rows, max_length, strict):
    rows = [(query, item, 100 * time) for query, item, time in rows]
    events = interactions(rows)
    history = History.of(events, N_QUERIES)
    column = HistoryColumn("past", history, torch.arange(N_ITEMS) + 2, max_length, elapsed=True)
    positions = history.position_of(events, strict_time=strict)
    found = column.join(Batch(), events.query_keys, positions, events.times)["past_elapsed"]
    unasked = column.join(Batch(), events.query_keys, positions)["past_elapsed"]
    for row, (query, _, now) in enumerate(rows):
        order = sorted((time, r) for r, (q, _, time) in enumerate(rows) if q == query)
        times = [time for time, r in order if (time, r) < (now, -1 if strict else row)] + [now]
        gaps = [int(elapsed_index(torch.tensor(float(b - a)))) for a, b in itertools.pairwise(times)]
        gaps = gaps[max(len(gaps) - max_length, 0) :]
        padding = [0] * (max_length - len(gaps))
        assert found[row].tolist() == gaps + padding
        assert unasked[row].tolist() == [*gaps[:-1], *[1] * bool(gaps), *padding]
