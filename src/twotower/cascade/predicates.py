"""Which items are meant: a condition on item attributes, written as data."""

from __future__ import annotations

import math
from typing import Any, Literal, Self

from pydantic import ConfigDict, SerializerFunctionWrapHandler, model_serializer, model_validator
from pydantic import Field as Option

from twotower.config import Config

Value = bool | int | float | str
Form = Literal["field", "not", "all", "any", "ids", "available", "missing"]
_FORMS: tuple[Form, ...] = ("field", "not", "all", "any", "ids", "available", "missing")


class Predicate(Config):
    """A set of items. Exactly one form at a time:

    - ``{field: genre, in: [a, b]}``: the value is one of these; of a list of values, any is
    - ``{field: price, at_most: 20}``: a number in a range, ends included; ``at_least`` likewise
    - ``{available: stock}``: a yes/no field that says yes, or a number above 0
    - ``{missing: price}``: no value, not a number, or an empty list
    - ``{ids: [318, 527]}``: items by their outside ids; unknown ids mean no item
    - ``{not: P}``: every item that P does not mean
    - ``{all: [P, ...]}``: items that every P means
    - ``{any: [P, ...]}``: items that at least one P means

    A missing value lies in no set and in no range. ``not`` is the plain complement, and so holds items whose
    value is missing: write ``{all: [{not: P}, {not: {missing: field}}]}`` where that is not wanted.

    >>> Predicate.parse({"all": [{"field": "price", "at_most": 20}, {"not": {"ids": [7]}}]}).plain()
    {'all': [{'field': 'price', 'at_most': 20.0}, {'not': {'ids': [7]}}]}
    """

    model_config = ConfigDict(populate_by_name=True)

    field: str | None = None
    among: tuple[Value, ...] | None = Option(None, alias="in", min_length=1)
    at_least: float | None = None
    at_most: float | None = None
    ids: tuple[int | str, ...] | None = None
    available: str | None = None
    missing: str | None = None
    negated: Predicate | None = Option(None, alias="not")
    every: tuple[Predicate, ...] | None = Option(None, alias="all", min_length=1)
    some: tuple[Predicate, ...] | None = Option(None, alias="any", min_length=1)

    @model_validator(mode="after")
    def _check(self) -> Self:
        forms = [form for form in _FORMS if self._given(form)]
        if len(forms) != 1:
            found = f"found {' and '.join(forms)}" if forms else "found none"
            raise ValueError(f"a predicate is exactly one of {', '.join(_FORMS)}; {found}")
        ranged = self.at_least is not None or self.at_most is not None
        if (self.field is not None) != (ranged or self.among is not None):
            raise ValueError("'field' goes with in, at_least or at_most, and they go with it")
        if ranged and self.among is not None:
            raise ValueError("a field is either in a set or in a range; join two predicates by all")
        low, high = self.range
        if math.isnan(low) or math.isnan(high) or low > high:
            raise ValueError(f"no number is at least {low:g} and at most {high:g}")
        return self

    @property
    def range(self) -> tuple[float, float]:
        """The smallest and the largest number meant."""
        low = -math.inf if self.at_least is None else self.at_least
        return low, math.inf if self.at_most is None else self.at_most

    def _given(self, form: Form) -> bool:
        names = {"not": "negated", "all": "every", "any": "some"}
        return getattr(self, names.get(form, form)) is not None

    @model_serializer(mode="wrap")
    def _without_gaps(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: value for name, value in write(self).items() if value is not None}
