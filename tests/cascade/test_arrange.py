"""The search finds an unbroken list whenever brute force does, and the same one."""

from itertools import permutations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from twotower.cascade.arrange import arrange
from twotower.cascade.tally import Limit

CASES = st.integers(0, 3)


@st.composite
def problems(draw):
    limits = []
    for number in range(draw(st.integers(1, 3))):
        if draw(st.booleans()):
            limits.append(Limit(number, draw(st.integers(2, 4)), spacing=True))
        else:
            least, most = draw(st.integers(0, 2)), draw(st.none() | st.integers(0, 2))
            limits.append(Limit(number, draw(st.integers(1, 5)), least, most, one_group=draw(st.booleans())))
    groups = [
        tuple(
            frozenset(draw(st.sets(st.just(0) if limit.one_group else st.integers(0, 2), max_size=2)))
            for limit in limits
        )
        for _ in range(draw(st.integers(0, 6)))
    ]
    length = draw(st.integers(0, min(5, len(groups))))
    columns = draw(st.permutations(range(len(groups))))
    pins = dict(zip(draw(st.permutations(range(length)))[: draw(CASES)], columns, strict=False))
    return limits, groups, pins, length


def unbroken(limits, groups, order) -> bool:
    if not order:  # a list without places breaks nothing
        return True
    for n, limit in enumerate(limits):
        own = [groups[c][n] for c in order]
        if limit.spacing:
            if any(own[p] & own[q] for p in range(len(own)) for q in range(p) if p - q < limit.within):
                return False
            continue
        wanted = {g for kind in groups for g in kind[n]} | ({0} if limit.one_group else set())
        counts = [sum(g in kind for kind in own[: limit.within]) for g in wanted]
        if any(c < limit.at_least or (limit.at_most is not None and c > limit.at_most) for c in counts):
            return False
    return True


def brute_force(limits, groups, pins, length) -> list[int] | None:
    others = [c for c in range(len(groups)) if c not in pins.values()]
    for rest in permutations(others, length - len(pins)):
        free = iter(rest)
        order = [pins[p] if p in pins else next(free) for p in range(length)]
        if unbroken(limits, groups, order):
            return order
    return None


@settings(max_examples=200, deadline=None)
@given(problems())
def test_equals_brute_force(problem):
    limits, groups, pins, length = problem
    others = [(c, own) for c, own in enumerate(groups) if c not in pins.values()]
    fixed = {p: (c, groups[c]) for p, c in pins.items()}
    assert arrange(limits, others, fixed, length, steps=100_000) == brute_force(*problem)


def test_gives_up_after_so_many_steps():
    blue, red = (frozenset([0]),), (frozenset([1]),)
    several = [(0, blue), (1, red), (2, red)]
    assert arrange([Limit(0, 2, spacing=True)], several, {}, 3, steps=100) == [1, 0, 2]
    assert arrange([Limit(0, 2, spacing=True)], several, {}, 3, steps=2) is None


@pytest.mark.parametrize("width", [20, 60])
def test_a_hundred_candidates_of_one_kind_are_not_tried_one_by_one(width):
    kinds = [(frozenset([n % 2]),) for n in range(width)]
    assert arrange([Limit(0, 2, spacing=True)], list(enumerate(kinds)), {}, width, steps=200) is not None
    same = [(n, (frozenset([0]),)) for n in range(width)]
    assert arrange([Limit(0, width, at_most=1)], same, {}, 2, steps=5) is None
