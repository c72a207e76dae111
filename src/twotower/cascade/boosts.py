"""Scores with boosts and freshness, in standard deviations of the list they belong to."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from twotower.cascade.attributes import Attributes
from twotower.cascade.ruleset import Boost, Freshness, Rule
from twotower.errors import ConfigError

_SECONDS = 86_400
_DAYS = {"s": 1 / _SECONDS, "ms": 1e-3 / _SECONDS, "days": 1.0, "year": 365.2425}


class Boosts:
    """What the `Boost` and `Freshness` rules add to the scores of the N items."""

    def __init__(self, rules: Sequence[Rule], attributes: Attributes) -> None:
        self._plus = torch.zeros(len(attributes), dtype=torch.float64)
        self._dates: list[tuple[Freshness, Tensor]] = []  # (N,) days since 1970, NaN where unknown
        self.any = False
        for number, rule in enumerate(rules):
            if isinstance(rule, Boost):
                self._plus += rule.plus * attributes.mask(rule.where, f"rules.{number}.boost.where")
                self.any = True
            elif isinstance(rule, Freshness):
                numbers = attributes.numbers(rule.field, f"rules.{number}.freshness.field")
                days = (numbers - 1970 if rule.unit == "year" else numbers) * _DAYS[rule.unit]
                self._dates.append((rule, days))
                self.any = True

    def scores(self, keys: Tensor, scores: Tensor, real: Tensor, time: Tensor | None) -> Tensor:
        """(Q, K) float64: standardised over the ``real`` candidates of each list, plus what the rules add.

        Scores that are not finite take no part in mean and deviation; NaN counts as minus infinity. In a list
        of equal scores all are 0. Without rules the scores stay as they are.

        Raises
        ------
        ConfigError
            A rule is about freshness, and the request has no time.
        """
        scores = scores.double().nan_to_num(nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf)
        if not self.any:
            return scores
        place = keys.clamp(min=0)
        counted = real & scores.isfinite()
        count = counted.sum(1, keepdim=True).clamp(min=1)
        from_mean = scores - scores.where(counted, 0).sum(1, keepdim=True) / count
        deviation = (from_mean.where(counted, 0).square().sum(1, keepdim=True) / count).sqrt()
        z = from_mean / deviation.where(deviation > 0, 1)
        z = z + self._plus[place] if len(self._plus) else z
        for rule, days in self._dates:
            if time is None:
                raise ConfigError(
                    f"the rule on freshness by {rule.field!r} counts age up to the time of the request, "
                    "and the request has none: give Request(time=...), in seconds since 1970"
                )
            age = (time.double()[:, None] / _SECONDS - days[place]).clamp(min=0)
            z = z + (rule.plus * torch.exp2(-age / rule.half_life_days)).nan_to_num(nan=0.0)
        return z

    @property
    def bytes_per_item(self) -> int:
        return 8 * (1 + len(self._dates)) if self.any else 0
