"""Business rules as data: what a recipe or a file says of the lists that are shown."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field as Option
from pydantic import model_validator

from twotower.cascade.predicates import Predicate
from twotower.config import Config, load_yaml

MOST_RULES = 62  # which rules a place breaks is told in the bits of one int64


class Block(Config):
    """Items that are never shown."""

    kind: Literal["block"] = "block"
    where: Predicate


class Pin(Config):
    """Items that stand at fixed places, counted from 1: ``places: {1: 318}``.

    An item is pinned only in lists that hold it, and otherwise the rule counts as broken there, unless
    ``insert``: then it is added to every list that may show it.
    """

    kind: Literal["pin"] = "pin"
    places: dict[int, int | str] = Option(min_length=1)
    insert: bool = False

    @model_validator(mode="after")
    def _check(self) -> Self:
        if min(self.places) < 1:
            raise ValueError(f"places: the first place is 1, found {min(self.places)}")
        return self


class Grouped(Config):
    """Counts items by each value of ``field``, or those of ``where`` as one group; both: those, by value."""

    field: str | None = None
    where: Predicate | None = None

    @model_validator(mode="after")
    def _check_group(self) -> Self:
        if self.field is None and self.where is None:
            raise ValueError("name a field, whose values are counted one by one, or the items meant: where")
        return self


class Quota(Grouped):
    """At least or at most so many of each group within the first places.

    With a ``field``, ``at_least`` asks for that many of every value that occurs among the candidates. A list
    that ends before ``within`` must hold as many.
    """

    kind: Literal["quota"] = "quota"
    at_least: int | None = Option(None, ge=1)
    at_most: int | None = Option(None, ge=0)
    within: int | None = Option(None, ge=1, description="the first places; null: the whole list")

    @model_validator(mode="after")
    def _check_bounds(self) -> Self:
        if self.at_least is None and self.at_most is None:
            raise ValueError("a quota needs at_least, at_most or both")
        if None not in (self.at_least, self.at_most) and (self.at_least or 0) > (self.at_most or 0):
            raise ValueError(f"at least {self.at_least} and at most {self.at_most} exclude each other")
        if self.at_least and self.within and self.at_least > self.within:
            raise ValueError(f"{self.within} places do not hold at_least {self.at_least}")
        return self


class Spacing(Grouped):
    """Of any ``within`` places in a row at most one is of the same group; 2: no two neighbours."""

    kind: Literal["spacing"] = "spacing"
    within: int = Option(ge=2)


class Boost(Config):
    """Adds to the score of some items, in standard deviations of their list's scores.

    A sum and not a factor: scores of a stage may have any sign and size, and a factor of 2 would push down
    what scores below 0.
    """

    kind: Literal["boost"] = "boost"
    where: Predicate
    plus: float = Option(allow_inf_nan=False)


class Freshness(Config):
    """Adds ``plus`` (in standard deviations, as `Boost`) to what is new, half of it after each half-life.

    Age counts from the item's ``field`` to the request's time; what is not out yet is new, and an item
    without a date gets nothing.
    """

    kind: Literal["freshness"] = "freshness"
    field: str
    half_life_days: float = Option(gt=0, allow_inf_nan=False)
    plus: float = Option(1.0, allow_inf_nan=False)
    unit: Literal["s", "ms", "days", "year"] = Option(
        "s", description="what the field counts: time since 1970, or the year itself, such as 1995"
    )


Rule = Annotated[Block | Pin | Quota | Spacing | Boost | Freshness, Option(discriminator="kind")]


class RuleSet(Config):
    """All rules of a stage. They are told apart by their number, from 0.

    Their kinds say who gives way: block before pin before quota before spacing before boost and freshness.

    >>> RuleSet.parse({"rules": [{"kind": "spacing", "field": "genre", "within": 2},
    ...                          {"kind": "quota", "field": "genre", "at_most": "x"}]}, "r.yaml")
    Traceback (most recent call last):
    twotower.errors.ConfigError: r.yaml: rules.1.at_most: Input should be a valid integer...
    """

    rules: tuple[Rule, ...] = Option((), max_length=MOST_RULES)

    @model_validator(mode="after")
    def _check(self) -> Self:
        places: dict[int, int] = {}
        items: dict[str, int] = {}
        for number, rule in enumerate(self.rules):
            for place, item in rule.places.items() if isinstance(rule, Pin) else ():
                if place in places:
                    raise ValueError(f"rules {places[place]} and {number} both pin an item to place {place}")
                if str(item) in items:
                    raise ValueError(f"rules {items[str(item)]} and {number} both pin the item {item!r}")
                places[place], items[str(item)] = number, number
        return self

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a YAML or JSON file with the one key ``rules``."""
        return cls.parse(load_yaml(path), where=str(path))
