"""A task against sets and dictionaries."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from twotower.evaluate.task import make_task
from twotower.types import Batch, Ragged

N = 12
lists = st.lists(st.integers(0, N - 1), max_size=8)
rows = st.lists(st.tuples(lists, lists, lists), max_size=6)  # history, seen, held out


def task_of(table, n_items=N):
    history, seen, held_out = ([row[i] for row in table] for i in range(3))
    keys = torch.arange(len(table)) * 10 + 5
    query = Batch(age=torch.arange(len(table)))
    return make_task(keys, query, Ragged.of(history), Ragged.of(seen), Ragged.of(held_out), n_items)


@given(rows)
@settings(max_examples=150, deadline=None)
def test_equals_sets_and_dictionaries(table):
    task = task_of(table)
    wanted, already_seen, without = {}, 0, 0
    for number, (_, seen, held_out) in enumerate(table):
        left = set(held_out) - set(seen)
        already_seen += len(set(held_out) & set(seen))
        without += not left
        if left:
            wanted[number] = left
    assert [(key - 5) // 10 for key in task.query_keys.tolist()] == list(wanted)
    assert task.query["age"].tolist() == list(wanted)
    for row, number in enumerate(wanted):
        assert task.relevant[row].tolist() == sorted(wanted[number])
        assert task.history[row].tolist() == table[number][0]
        assert task.seen[row].tolist() == table[number][1]
    assert (task.already_seen, task.without_relevant) == (already_seen, without)


def test_seen_positives_leave_the_denominator_and_are_counted():
    task = task_of([([1], [1, 2], [2, 3])])
    assert task.relevant[0].tolist() == [3]
    assert (task.already_seen, task.without_relevant) == (1, 0)


def test_a_query_without_a_relevant_item_is_counted_and_not_kept():
    task = task_of([([], [4], [4]), ([], [], []), ([], [], [7])])
    assert task.query_keys.tolist() == [25]
    assert (task.already_seen, task.without_relevant) == (1, 2)


def test_a_positive_twice_is_to_be_found_once():
    task = task_of([([], [], [7, 3, 7])])
    assert task.relevant[0].tolist() == [3, 7]


def test_the_same_item_seen_by_another_query_stays_relevant():
    task = task_of([([], [5], [6]), ([], [6], [5])])
    assert [row.tolist() for row in task.relevant] == [[6], [5]]


def test_an_item_outside_the_catalogue_is_to_be_found_by_its_own_query_alone():
    task = task_of([([], [], [0]), ([], [], [-1, 1, -1]), ([], [-1], [11])])
    assert [row.tolist() for row in task.relevant] == [[0], [1, -1, -1], [11]]
    assert (task.already_seen, task.without_relevant) == (0, 0)
    # nor does one that was seen stand for the last item of the query before
    task = task_of([([], [], [11]), ([], [-1], [-1])])
    assert [row.tolist() for row in task.relevant] == [[11], [-1]]


def test_taking_rows_takes_all_of_them():
    task = task_of([([q], [q + 1], [q + 2]) for q in range(4)]).take(torch.tensor([3, 1]))
    assert task.query_keys.tolist() == [35, 15]
    assert [row.tolist() for row in task.relevant] == [[5], [3]]
    assert [row.tolist() for row in task.seen] == [[4], [2]]
    assert [row.tolist() for row in task.history] == [[3], [1]]


def test_says_what_was_left_out():
    text = str(task_of([([], [4], [4]), ([], [], [7, 8])]))
    assert text == (
        "1 queries, 2 relevant items; left out: 1 held-out positives seen before, "
        "1 queries without a relevant item"
    )


graded = st.lists(st.tuples(st.integers(0, N - 1), st.integers(1, 4)), max_size=8)


@given(st.lists(st.tuples(lists, graded), max_size=6))
@settings(max_examples=100, deadline=None)
def test_gains_belong_to_their_items_and_the_greatest_of_duplicates_counts(table):
    seen = Ragged.of([row[0] for row in table])
    held_out = Ragged.of([[item for item, _ in row[1]] for row in table])
    gains = torch.tensor([grade for _, row in table for _, grade in row], dtype=torch.float64)
    empty = Ragged.of([[] for _ in table])
    keys = torch.arange(len(table))
    task = make_task(keys, Batch(n=keys), empty, seen, held_out, N, gains=gains)
    assert task.gains is not None
    found = {
        (int(key), int(item)): gain
        for key, items, row in zip(
            task.query_keys, task.relevant, Ragged(task.gains, task.relevant.offsets), strict=True
        )
        for item, gain in zip(items, row.tolist(), strict=True)
    }
    assert found == {
        (number, item): max(g for i, g in row if i == item)
        for number, (known, row) in enumerate(table)
        for item, _ in row
        if item not in known
    }
    backwards = torch.arange(len(task)).flip(0)
    again = task.take(backwards).take(backwards)
    assert again.gains is not None
    assert again.gains.tolist() == task.gains.tolist()


def test_gains_reach_the_measures():
    empty, keys = Ragged.of([[], []]), torch.arange(2)
    held_out, gains = Ragged.of([[3, 5], [4]]), torch.tensor([1.0, 3.0, 2.0])
    task = make_task(keys, Batch(n=keys), empty, empty, held_out, N, gains=gains)
    assert "2 queries, 3 relevant items of gains 1 to 3; left out" in str(task)
    ordered = torch.tensor([[3, 5], [4, 0]])
    ideal = 3 + 1 / torch.log2(torch.tensor(3.0)).item()
    got = 1 + 3 / torch.log2(torch.tensor(3.0)).item()
    assert task.measure(ordered, ["nDCG@2"])["nDCG@2"].tolist() == pytest.approx([got / ideal, 1.0])
    plain = make_task(keys, Batch(n=keys), empty, empty, held_out, N)
    assert plain.measure(ordered, ["nDCG@2"])["nDCG@2"].tolist() == [1.0, 1.0]


@pytest.mark.parametrize("table", [[], [([], [], [])]])
def test_a_task_may_be_empty(table):
    assert len(task_of(table)) == 0
