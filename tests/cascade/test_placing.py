"""Filling places: equal to the loop over lists, places and candidates; honest about what is broken."""

import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from twotower.cascade.placing import Lists, broken, place
from twotower.cascade.tally import EMPTY, Limit

K = 7


@st.composite
def limits(draw, places: int = 6):
    number, out = 0, []
    for number in range(draw(st.integers(0, 3))):
        if draw(st.booleans()):
            out.append(Limit(number, draw(st.integers(2, 4)), spacing=True))
            continue
        least, most = draw(st.integers(0, 2)), draw(st.none() | st.integers(0, 2))
        within, alone = draw(st.integers(1, places)), draw(st.booleans())
        out.append(Limit(number, within, least, most, one_group=alone))
    return out


@st.composite
def problems(draw, values: int = 2):
    """Limits, and one list: the groups of its candidates per limit, how many there are, pins by place."""
    chosen = draw(limits())
    group = st.lists(st.integers(0, 2), max_size=values, unique=True)
    groups = [
        [[0] * draw(st.integers(0, 1)) if limit.one_group else draw(group) for _ in range(K)]
        for limit in chosen
    ]
    there = draw(st.integers(0, K))
    length = min(there, draw(st.integers(0, 6)))
    places = draw(st.permutations(range(length)))[: draw(st.integers(0, 2))]
    columns = draw(st.permutations(range(there)))
    return chosen, groups, there, dict(zip(places, columns, strict=False)), length


def lists_of(problem, places: int = 6) -> Lists:
    chosen, groups, there, pins, length = problem
    padded = [[g + [EMPTY] * (2 - len(g)) for g in own] for own in groups]
    pinned = torch.full((1, places), EMPTY)
    for p, column in pins.items():
        pinned[0, p] = column
    codes = [torch.tensor([own]) for own in padded]
    return Lists(chosen, codes, torch.arange(K)[None] < there, pinned, torch.tensor([length]))


def breaks(problem, order: list[int]) -> dict[int, set[int]]:
    """Which places break which rule, read off the list."""
    chosen, groups, there, _, length = problem
    found: dict[int, set[int]] = {}
    for limit, own in zip(chosen, groups, strict=True):
        at = found.setdefault(limit.number, set())
        for p, column in enumerate(order):
            if limit.spacing:
                near = order[max(0, p - limit.within + 1) : p]
                if any(set(own[column]) & set(own[other]) for other in near):
                    at.add(p)
                continue
            most = limit.at_most if p < limit.within else None
            if most is not None and any(sum(g in own[c] for c in order[: p + 1]) > most for g in own[column]):
                at.add(p)
        if limit.at_least and length:
            wanted = {g for column in range(there) for g in own[column]} | ({0} if limit.one_group else set())
            end = min(limit.within, length)
            if any(sum(g in own[c] for c in order[:end]) < limit.at_least for g in wanted):
                at.add(end - 1)
    return found


def greedy_by_loops(problem) -> list[int]:
    chosen, groups, there, pins, length = problem
    placed: dict[int, int] = dict(pins)
    left = [c for c in range(there) if c not in pins.values()]
    for p in range(length):
        if p in pins:
            continue
        costs = []
        for column in left:
            quotas = spacings = 0
            for limit, own in zip(chosen, groups, strict=True):
                if limit.spacing:
                    near = [c for q, c in placed.items() if abs(q - p) < limit.within]
                    spacings += any(set(own[column]) & set(own[c]) for c in near)
                elif limit.at_most is not None and p < limit.within:
                    inside = [c for q, c in placed.items() if q < limit.within]
                    quotas += any(sum(g in own[c] for c in inside) >= limit.at_most for g in own[column])
            minima = [(li, own) for li, own in zip(chosen, groups, strict=True) if li.at_least]
            for end in {limit.within for limit, _ in minima if p < limit.within}:
                missing = served = 0
                for limit, own in minima:
                    if not p < limit.within <= end:  # what its places are past can no longer be met
                        continue
                    inside = [c for q, c in placed.items() if q < limit.within]
                    for g in range(3):
                        supply = sum(g in own[c] for c in range(there))
                        need = min(limit.at_least, supply) - sum(g in own[c] for c in inside)
                        missing += max(0, need)
                        served += need > 0 and g in own[column]
                free = sum(q not in pins and q < length for q in range(p + 1, end))
                quotas += max(0, missing - free - served)
            costs.append((quotas, spacings, column))
        placed[p] = min(costs)[2]
        left.remove(placed[p])
    return [placed[p] for p in range(length)]


@settings(max_examples=150, deadline=None)
@given(problems())
@example(  # a minimum that a pin left unmet is no reason to prefer its group further down
    (
        [Limit(0, 1, at_least=1), Limit(1, 2, at_least=1)],
        [[[], [], [], [], [], [0], []], [[]] * K],
        6,
        {0: 0},
        2,
    )
)
def test_equals_the_loop(problem):
    order = place(lists_of(problem))[0].tolist()
    length = problem[-1]
    assert order[:length] == greedy_by_loops(problem)
    assert order[length:] == [EMPTY] * (6 - length)


@settings(max_examples=150, deadline=None)
@given(problems(), st.data())
def test_says_which_places_break_which_rule(problem, data):
    order = list(data.draw(st.permutations(range(problem[2]))))[: problem[4]]
    padded = torch.tensor([order + [EMPTY] * (6 - len(order))])
    bits = broken(lists_of(problem), padded)[0].tolist()
    for number, places in breaks(problem, order).items():
        assert {p for p, bit in enumerate(bits) if bit >> number & 1} == places


@settings(max_examples=20, deadline=None)
@given(st.lists(problems(), min_size=2, max_size=4), limits())
def test_a_list_is_filled_the_same_in_any_company(drawn, chosen):
    some = [(chosen, [p[1][0] if p[1] else [[0]] * K for _ in chosen], *p[2:]) for p in drawn]
    alone = [place(lists_of(problem)) for problem in some]
    parts = [lists_of(problem) for problem in some]
    codes = [torch.cat([p.codes[n] for p in parts]) for n in range(len(chosen))]
    rest = (torch.cat([getattr(p, n) for p in parts]) for n in ("available", "pinned", "lengths"))
    assert torch.equal(place(Lists(chosen, codes, *rest)), torch.cat(alone))


def test_lists_without_candidates_places_or_lists():
    limit = Limit(0, 2, at_least=1, spacing=False)
    none = torch.empty(2, 0, 1, dtype=torch.int64)
    pinned, zero = torch.full((2, 3), EMPTY), torch.zeros(2, dtype=torch.int64)
    assert (place(Lists([limit], [none], torch.empty(2, 0, dtype=torch.bool), pinned, zero)) == EMPTY).all()
    there = torch.ones(2, 4, dtype=torch.bool)
    codes = torch.zeros(2, 4, 1, dtype=torch.int64)
    assert place(Lists([limit], [codes], there, pinned[:, :0], zero)).shape == (2, 0)
    assert place(Lists([limit], [codes[:0]], there[:0], pinned[:0], zero[:0])).shape == (0, 3)
