"""A stage that applies business rules to a ranked list."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from twotower.cascade.attributes import Attributes
from twotower.cascade.boosts import Boosts
from twotower.cascade.filter import allowed, only
from twotower.cascade.pins import Pins
from twotower.cascade.placing import Lists, broken, place
from twotower.cascade.repair import repair
from twotower.cascade.ruleset import Block, Grouped, Quota, RuleSet, Spacing
from twotower.cascade.stage import Request, Stage, rank_pair
from twotower.cascade.tally import EMPTY, Limit
from twotower.errors import ConfigError
from twotower.types import NO_ITEM, Batch, Candidates

SEARCH_SHARE = 0.5
"""Of the time a stage has left, what the search may take: lists it does not mend must come in time too."""


@dataclass(frozen=True)
class _Group:
    """A quota or spacing rule, its groups looked up."""

    number: int
    rule: Quota | Spacing
    codes: Tensor  # (N, V)

    def of(self, keys: Tensor) -> Tensor:
        """(Q, K, V) the groups of candidates."""
        if not len(self.codes):
            return self.codes.new_full((*keys.shape, self.codes.shape[1]), EMPTY)
        return self.codes[keys.clamp(min=0)].masked_fill(keys[..., None] < 0, EMPTY)

    def limit(self, places: int) -> Limit:
        """The rule for lists of so many places."""
        rule = self.rule
        if isinstance(rule, Spacing):
            return Limit(self.number, rule.within, spacing=True)
        return Limit(
            self.number,
            min(rule.within or places, places),
            rule.at_least or 0,
            rule.at_most,
            one_group=rule.field is None,
        )


class Rules(Stage):
    """Blocks, boosts, sorts, pins, and fills the other places so that quotas and spacing hold.

    1. Blocked items go. What is left is sorted by its score, standardised in its list (mean 0, deviation 1)
       where boosts and freshness add to it; ties by rising key.
    2. Pinned items stand at their places. Where the list is too short, or does not hold the item, the rule is
       broken there and the item, if any, stands where its score puts it.
    3. Every other place takes the best item that breaks no quota and no spacing
       (`twotower.cascade.placing`). For lists where that ends badly, a search of at most ``steps`` steps
       looks for one that breaks neither, then for one that breaks no quota (`twotower.cascade.repair`);
       without success, or with half of the time gone that is left, the first list is kept. So a list is
       always full: where rules cannot be met, spacing gives way to quotas, and both to pins.

    The order is the answer, so the score handed on is 0, -1, -2, ...; ``<name>_given`` holds the score that
    was handed in, and bit r of ``<name>_broken`` says that a place breaks rule r: see `broken_by`. Quotas
    and spacing are about whole lists: a shorter list is not always the beginning of a longer one.

    A pin with ``insert`` adds an item that is ``there`` and that the request, its exclusions and the blocks
    allow. It takes the last place of a list of k items, and makes a shorter one longer; what earlier stages
    would have said of it is 0. No other rule adds items.

    >>> import polars as pl
    >>> items = pl.DataFrame({"film": ["Alien", "Aliens", "Heat"], "genre": ["sf", "sf", "crime"]})
    >>> rules = RuleSet.parse({"rules": [{"kind": "spacing", "field": "genre", "within": 2}]})
    >>> stage = Rules(rules, Attributes(items, item="film"), k=3)
    >>> ranked = Candidates(torch.tensor([[0, 1, 2], [0, 1, -1]]), torch.tensor([[3.0, 2.0, 1.0]] * 2))
    >>> shown = stage.run(Request(Batch(user=torch.tensor([7, 8]))), ranked, k=3)
    >>> shown.keys.tolist(), stage.report(shown)  # nothing can stand between the two of the second list
    ([[0, 2, 1], [0, 1, -1]], {'rules.0.spacing': 1})

    Parameters
    ----------
    there
        (N,) bool by item key: which items have not been deleted; None where none was.

    Raises
    ------
    ConfigError
        A rule names a field that the items do not have, or that holds values of another type.
    """

    def __init__(
        self,
        rules: RuleSet,
        attributes: Attributes,
        k: int = 50,
        name: str = "rules",
        steps: int = 1000,
        pairs_at_once: int = 65_536,
        there: Tensor | None = None,
    ) -> None:
        super().__init__(name, k)
        self.rules, self.steps, self.pairs_at_once = rules, steps, pairs_at_once
        self._boosts = Boosts(rules.rules, attributes)
        self._show = torch.ones(len(attributes), dtype=torch.bool)
        if there is not None:
            self._show &= there[: len(attributes)]
        self._pins = Pins(rules.rules, attributes)
        self.adds = self._pins.adds
        self._groups: list[_Group] = []
        for number, rule in enumerate(rules.rules):
            where = f"rules.{number}.{rule.kind}"
            if isinstance(rule, Block):
                self._show &= ~attributes.mask(rule.where, f"{where}.where")
            elif isinstance(rule, Quota | Spacing):
                self._groups.append(_Group(number, rule, _codes(rule, attributes, where)))
        self.allow = None if bool(self._show.all()) else self._show

    def run(self, request: Request, candidates: Candidates | None, k: int) -> Candidates:
        if candidates is None:
            raise ConfigError(f"stage {self.name!r} orders candidates, but stands first; retrieve before it")
        Q, K = candidates.keys.shape
        rows = max(1, self.pairs_at_once // max(1, K))
        parts = []
        for start in range(0, max(1, Q), rows):
            request.check_time()
            own = Candidates(
                candidates.keys[start : start + rows],
                candidates.scores[start : start + rows],
                candidates.pair.slice(start, start + rows),
            )
            parts.append(self._order(request.rows(start, start + rows), own, k))
        pair = Batch((name, torch.cat([p.pair[name] for p in parts])) for name in parts[0].pair)
        keys, scores = torch.cat([p.keys for p in parts]), torch.cat([p.scores for p in parts])
        return rank_pair(self.name, Candidates(keys, scores, pair))

    def fallback(self, request: Request, given: Candidates, k: int) -> Candidates:
        """The order it was given, without blocked and deleted items.

        No boost, no pin, and no place given by quotas or spacing; which of them are broken is said as ever.
        """
        told = given.scores.masked_fill(~given.mask, 0.0)
        kept = given.with_pair(**{f"{self.name}_given": told})
        kept = only(kept, given.mask & allowed(self._show, given.keys)).best(k)
        lists = self._lists(kept, kept.keys.shape[1])
        order = torch.arange(kept.keys.shape[1]).expand(kept.keys.shape).masked_fill(~kept.mask, EMPTY)
        return rank_pair(self.name, self._said(kept, lists, order, k))

    def broken_by(self, output: Candidates) -> Tensor:
        """(Q, R) bool: which lists break which rule, read from what this stage handed on."""
        bits = output.pair[f"{self.name}_broken"]
        return (bits[..., None] >> torch.arange(len(self.rules.rules)) & 1).bool().any(1)

    def report(self, output: Candidates) -> dict[str, int]:
        """In how many lists each rule is broken, by its number and kind; only rules that are."""
        counts = self.broken_by(output).sum(0).tolist()
        kinds = [rule.kind for rule in self.rules.rules]
        return {
            f"rules.{n}.{kind}": count
            for n, (kind, count) in enumerate(zip(kinds, counts, strict=True))
            if count
        }

    @property
    def bytes_per_item(self) -> float:
        codes = sum(group.codes.shape[1] * group.codes.element_size() for group in self._groups)
        return self._show.element_size() + codes + self._boosts.bytes_per_item

    def _order(self, request: Request, given: Candidates, k: int) -> Candidates:
        """One piece of a request: always as wide as the others."""
        told = given.scores.masked_fill(~given.mask, 0.0)
        given = self._pins.insert(request, given.with_pair(**{f"{self.name}_given": told}))
        shown = given.mask & allowed(self._show, given.keys)
        scores = self._boosts.scores(given.keys, given.scores, shown, request.time)
        best = only(Candidates(given.keys, scores, given.pair), shown)
        lists = self._lists(best, min(k, best.keys.shape[1]))
        order = place(lists)
        if self.steps:
            search = None if request.deadline is None else request.deadline.sooner(SEARCH_SHARE)
            order = repair(lists, order, self.steps, lambda: search is not None and search.left_ms <= 0)
        return self._said(best, lists, order, k)

    def _lists(self, best: Candidates, width: int) -> Lists:
        """What is asked of the first ``width`` places."""
        lengths = best.counts.clamp(max=width)
        return Lists(
            [group.limit(width) for group in self._groups],
            [group.of(best.keys) for group in self._groups],
            best.mask,
            self._pins.columns(best.keys, lengths, width),
            lengths,
        )

    def _said(self, best: Candidates, lists: Lists, order: Tensor, k: int) -> Candidates:
        """The candidates in an order, and which rules each place of it breaks."""
        chosen = _at(best, order)
        bits = broken(lists, order) | self._pins.missed(chosen.keys, lists.lengths, k)
        return chosen.with_pair(**{f"{self.name}_broken": bits})


def _codes(rule: Grouped, attributes: Attributes, where: str) -> Tensor:
    """(N, V) the groups of each item under a rule."""
    if rule.field is None:
        codes = torch.zeros(len(attributes), 1, dtype=torch.int64)
    else:
        codes = attributes.codes(rule.field, f"{where}.field")
    if rule.where is None:
        return codes
    return codes.masked_fill(~attributes.mask(rule.where, f"{where}.where")[:, None], EMPTY)


def _at(candidates: Candidates, order: Tensor) -> Candidates:
    """The candidates of the columns ``order`` (Q, L), scored 0, -1, -2, ...; EMPTY becomes an empty slot."""
    empty = order == EMPTY
    rows, columns = torch.arange(len(order))[:, None], order.clamp(min=0)
    if not candidates.keys.shape[1]:
        rows, columns = rows[:, :0], columns[:, :0]
    scores = (0.0 - torch.arange(order.shape[1], dtype=torch.float32)).expand(order.shape)
    pair = Batch((name, t[rows, columns]) for name, t in candidates.pair.items())
    for tensor in pair.values():
        tensor[empty] = 0
    keys = candidates.keys[rows, columns].masked_fill(empty, NO_ITEM)
    return Candidates(keys, scores.masked_fill(empty, -torch.inf), pair)
