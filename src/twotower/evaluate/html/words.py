"""Numbers as people read them."""

from __future__ import annotations

import math

from twotower.metrics.significance import Interval

NOTHING = "\N{EN DASH}"
"""Stands where there is no value."""
TIMES = "\N{MULTIPLICATION SIGN}"


def share(value: float) -> str:
    """A share as percent, with a decimal where it is small; a dash where there is none.

    >>> share(0.668), share(0.034), share(0.0), share(float("nan"))
    ('67%', '3.4%', '0%', '–')
    """
    if math.isnan(value):
        return NOTHING
    return f"{value:.0%}" if value == 0 or abs(value) >= 0.0995 else f"{value:.1%}"


def signed(value: float) -> str:
    """A relative difference.

    >>> signed(0.0204), signed(-0.5)
    ('+2.0%', '−50.0%')
    """
    return f"{value:+.1%}".replace("-", "\N{MINUS SIGN}")


def between(interval: Interval | None) -> str:
    """A mean share with its interval.

    >>> between(Interval(0.7, 0.655, 0.75, None, 0.95, 436, 0))
    '70% (66 to 75)'
    """
    if interval is None:
        return NOTHING
    return f"{share(interval.mean)} ({100 * interval.low:.0f} to {100 * interval.high:.0f})"


def count(value: float) -> str:
    """A number of things; a mean keeps one decimal where it is small.

    >>> count(1500), count(200.0), count(7.25), count(7.0)
    ('1,500', '200', '7.2', '7')
    """
    return f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:,.1f}"


def ms(value: float) -> str:
    """Milliseconds with about three digits.

    >>> ms(0.5812), ms(12.34), ms(1234.5)
    ('0.58 ms', '12.3 ms', '1,234 ms')
    """
    return f"{value:.2f} ms" if value < 10 else f"{value:.1f} ms" if value < 100 else f"{value:,.0f} ms"


def measured(interval: Interval | None) -> str:
    """A mean with its interval.

    >>> measured(Interval(0.1634, 0.1394, 0.1885, None, 0.95, 436, 0))
    '0.163 (0.139 to 0.189)'
    """
    if interval is None or math.isnan(interval.mean):
        return NOTHING
    return f"{interval.mean:.3f} ({interval.low:.3f} to {interval.high:.3f})"


def short(name: str, length: int) -> str:
    """A name that fits its place on a chart.

    >>> short("retrieve", 12), short("two-tower-of-everything", 12)
    ('retrieve', 'two-tower-o…')
    """
    return name if len(name) <= length else name[: length - 1] + "\N{HORIZONTAL ELLIPSIS}"


def plural(n: int, one: str, many: str | None = None) -> str:
    """A number with its noun.

    >>> plural(1, "query", "queries"), plural(1200, "item")
    ('1 query', '1,200 items')
    """
    return f"{n:,} {one if n == 1 else many or one + 's'}"
