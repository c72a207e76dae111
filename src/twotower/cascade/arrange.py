"""A list that breaks no quota and no spacing, where there is one: depth-first search of a bounded length.

`twotower.cascade.placing.place` looks ahead to the minima but never goes back. It always finds an unbroken
list where all rules are maxima over the values of one field and each item has one value: as any unbroken list
of p places holds some value more often than the list so far, that value is still to be had, and below its
maxima. With spacing, with several fields or with items of several values it may run into a place that nothing
fits although another start would have led to the end. (The question itself is NP-hard then: with several
values per item, a maximum of 1 asks for disjoint sets.) The search here goes back, and so finds an unbroken
list or proves that there is none, unless its steps run out first.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence

from twotower.cascade.tally import Limit

Groups = tuple[frozenset[int], ...]
"""What one candidate is in: its groups, by limit."""


def arrange(
    limits: Sequence[Limit],
    candidates: Sequence[tuple[int, Groups]],
    pinned: dict[int, tuple[int, Groups]],
    length: int,
    steps: int,
    stop: Callable[[], bool] = lambda: False,
) -> list[int] | None:
    """The candidates at the places 0 .. length-1 of the first unbroken list; None if none was found.

    The search ends after so many ``steps``, or before one as soon as ``stop()`` is true. First is the list
    whose first place holds the better candidate, then whose second does, and so on.
    ``candidates`` are (name, groups), best first, without the ``pinned`` ones, which are given by place.

    >>> red, blue = (frozenset([1]),), (frozenset([2]),)
    >>> arrange([Limit(0, within=2, spacing=True)], [(7, blue), (8, red), (9, red)], {}, 3, steps=100)
    [8, 7, 9]
    """
    if not length:
        return []
    search = _Search(limits, candidates, pinned, length)
    if not search.promising() or not search.run(steps, stop):
        return None
    best = {groups: iter(positions) for groups, positions in search.positions.items()}
    return [
        pinned[p][0] if p in pinned else candidates[next(best[groups])][0]
        for p, groups in enumerate(search.placed)
    ]


class _Search:
    """Candidates in the same groups are interchangeable: places are given to kinds of candidates."""

    def __init__(
        self,
        limits: Sequence[Limit],
        candidates: Sequence[tuple[int, Groups]],
        pinned: dict[int, tuple[int, Groups]],
        length: int,
    ) -> None:
        self.limits, self.length = limits, length
        self.left = Counter(groups for _, groups in candidates)
        self.positions: dict[Groups, list[int]] = {groups: [] for groups in self.left}
        for position, (_, groups) in enumerate(candidates):
            self.positions[groups].append(position)
        self.fixed = {p: groups for p, (_, groups) in pinned.items()}
        self.placed: list[Groups] = []
        self.memory = max([limit.within - 1 for limit in limits if limit.spacing], default=0)
        kinds = [*self.left, *self.fixed.values()]
        self.groups = [{g for kind in kinds for g in kind[n]} for n in range(len(limits))]
        self.counts = [Counter[int]() for _ in limits]
        for p, groups in self.fixed.items():
            self._count(p, groups, 1)

    def promising(self) -> bool:
        """False where counting alone shows that no list is unbroken."""
        supply = self.left + Counter(self.fixed.values())
        for n, limit in enumerate(self.limits):
            have = Counter[int]()
            for kind, count in supply.items():
                have.update(dict.fromkeys(kind[n], count))
            enough = 0 if limit.one_group else limit.at_least
            if limit.at_least and min(have.values(), default=enough) < limit.at_least:
                return False
            end = self.length if limit.spacing else min(limit.within, self.length)
            most = -(-end // limit.within) if limit.spacing else limit.at_most
            if most is not None:
                free = sum(count for kind, count in supply.items() if not kind[n])
                if free + sum(min(count, most) for count in have.values()) < end:
                    return False
        return all(self._fits(p, groups, own=1) for p, groups in self.fixed.items() if p < self.length)

    def run(self, steps: int, stop: Callable[[], bool]) -> bool:
        """Fill the places in order, go back from dead ends; whether the last place was reached."""
        dead: set[object] = set()
        choices = [self._choices()]
        while choices:
            if len(self.placed) == self.length:
                return True
            groups = next(choices[-1], None)
            steps -= 1
            if steps < 0 or stop():
                return False
            if groups is None:
                dead.add(self._state())
                choices.pop()
                if self.placed:
                    self._take_back()
                continue
            self._put(groups)
            if self._hopeless() or self._state() in dead:
                self._take_back()
            else:
                choices.append(self._choices())
        return False

    def _choices(self) -> Iterator[Groups]:
        """The kinds that fit the next place, the one with the best candidate first."""
        p = len(self.placed)
        if p in self.fixed:
            return iter([self.fixed[p]])
        kinds = [kind for kind, count in self.left.items() if count and self._fits(p, kind)]
        return iter(sorted(kinds, key=lambda kind: self.positions[kind][-self.left[kind]]))

    def _fits(self, p: int, groups: Groups, own: int = 0) -> bool:
        """Whether no maximum and no spacing is broken; ``own``: how often the item itself is counted."""
        for n, limit in enumerate(self.limits):
            if limit.spacing:
                near = range(max(0, p - limit.within + 1), p + limit.within)
                if any(q != p and not groups[n].isdisjoint(self._at(q, n)) for q in near):
                    return False
                continue
            most = limit.at_most if p < limit.within else None
            if most is not None and any(self.counts[n][g] - own >= most for g in groups[n]):
                return False
        return True

    def _at(self, p: int, n: int) -> frozenset[int]:
        if p < len(self.placed):
            return self.placed[p][n]
        return self.fixed[p][n] if p in self.fixed else frozenset()

    def _hopeless(self) -> bool:
        """Whether a group's minimum asks for more than the free places before its end."""
        p = len(self.placed)
        for n, limit in enumerate(self.limits):
            end = min(limit.within, self.length)
            if limit.at_least and p <= end:
                free = sum(q not in self.fixed for q in range(p, end))
                if any(limit.at_least - self.counts[n][g] > free for g in self.groups[n]):
                    return True
        return False

    def _state(self) -> object:
        recent = tuple(self.placed[-self.memory :]) if self.memory else ()
        return len(self.placed), tuple(self.left.values()), recent

    def _put(self, groups: Groups) -> None:
        if len(self.placed) not in self.fixed:
            self.left[groups] -= 1
            self._count(len(self.placed), groups, 1)
        self.placed.append(groups)

    def _take_back(self) -> None:
        groups = self.placed.pop()
        if len(self.placed) not in self.fixed:
            self.left[groups] += 1
            self._count(len(self.placed), groups, -1)

    def _count(self, p: int, groups: Groups, by: int) -> None:
        for n, limit in enumerate(self.limits):
            if p < min(limit.within, self.length) and not limit.spacing:
                self.counts[n].update(dict.fromkeys(groups[n], by))
