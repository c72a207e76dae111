"""Counts per list and group, against a dictionary."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from twotower.cascade.tally import EMPTY, Tally

Q, K = 3, 4
GROUPS = st.lists(st.integers(0, 3), max_size=2, unique=True)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_counts_as_a_dictionary_does(data):
    groups = [[data.draw(GROUPS) for _ in range(K)] for _ in range(Q)]
    tally = Tally(torch.tensor([[g + [EMPTY] * (2 - len(g)) for g in row] for row in groups]))
    counts: dict[tuple[int, int], int] = {}
    for by in data.draw(st.lists(st.sampled_from([1, 1, -1]), max_size=4)):
        chosen = [data.draw(st.integers(EMPTY, K - 1)) for _ in range(Q)]
        tally.add(torch.tensor(chosen), by)
        for q, column in enumerate(chosen):
            for g in groups[q][column] if column != EMPTY else []:
                counts[q, g] = counts.get((q, g), 0) + by
    for q in range(Q):
        for k in range(K):
            own = [counts.get((q, g), 0) for g in groups[q][k]]
            assert tally.counted()[q, k].tolist() == own + [-1] * (2 - len(own))
    missing, served = tally.needs(2)
    for q in range(Q):
        supply = {g: sum(g in row for row in groups[q]) for row in groups[q] for g in row}
        needs = {g: max(0, min(2, n) - counts.get((q, g), 0)) for g, n in supply.items()}
        assert missing[q].tolist() == [sum(needs.values())]
        assert served[q].tolist() == [sum(needs[g] > 0 for g in row) for row in groups[q]]


def test_nothing_to_count():
    for shape in ((0, 3, 1), (2, 0, 1), (2, 3, 0)):
        tally = Tally(torch.empty(shape, dtype=torch.int64))
        tally.add(torch.full(shape[:1], EMPTY))
        assert tally.counted().shape == shape
        assert tally.needs(1)[0].tolist() == [[0]] * shape[0]
