"""Bootstrap intervals over queries: is the difference more than luck of the draw?

Shape letters: Q queries, n of them with a value, S bootstrap samples.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from torch import Tensor

from twotower.errors import ConfigError, DataError

Floats = npt.NDArray[np.float64]
Values = Tensor | Floats
_CELLS = 1 << 19
"""Rows drawn at a time: 4 MiB, which stays in the cache."""


@dataclass(frozen=True)
class Interval:
    """A mean with its percentile bootstrap interval.

    ``p`` is the two-sided p-value of "there is no difference" (None for a single system): twice the share of
    samples on the other side of zero, at least 2 / (samples + 1).
    """

    mean: float
    low: float
    high: float
    p: float | None
    confidence: float
    counted: int
    left_out: int

    def __str__(self) -> str:
        return f"{self.mean:.4g} [{self.low:.4g}, {self.high:.4g}]"


def bootstrap_mean(
    values: Values,
    *,
    samples: int = 10_000,
    seed: int | np.random.Generator = 0,
    confidence: float = 0.95,
) -> Interval:
    """Interval of the mean of per-query values (Q,); NaN (a query with nothing to find) is left out.

    >>> print(bootstrap_mean(np.array([0.0, 1.0] * 50)))
    0.5 [0.4, 0.6]
    """
    matrix, left_out = _columns(values)
    means = _resampled_means(matrix, samples, seed)[:, 0]
    low, high = _percentiles(means, confidence)
    return Interval(float(matrix.mean()), low, high, None, confidence, len(matrix), left_out)


def paired_bootstrap(
    a: Values,
    b: Values,
    *,
    relative: bool = False,
    samples: int = 10_000,
    seed: int | np.random.Generator = 0,
    confidence: float = 0.95,
) -> Interval:
    """Interval of mean(a) - mean(b) over the same queries (Q,); queries where either is NaN are left out.

    Queries are drawn with replacement, both systems' values together (Efron and Tibshirani 1993; for ranking
    Sakai 2006). ``relative`` gives (mean(a) - mean(b)) / mean(b) instead; p is that of the plain difference.

    >>> better = paired_bootstrap(np.array([0.6, 0.7, 0.5]), np.array([0.5, 0.6, 0.4]))
    >>> round(better.low, 6), round(better.high, 6)
    (0.1, 0.1)

    Raises
    ------
    DataError
        Lengths differ, a value is infinite, or no query has a value in both.
    ConfigError
        ``samples`` or ``confidence`` make no sense.
    """
    matrix, left_out = _columns(a, b)
    matrix[:, 0] -= matrix[:, 1]
    difference, base = _resampled_means(matrix, samples, seed).T
    mean, mean_b = matrix.mean(axis=0)
    if relative:
        with np.errstate(divide="ignore", invalid="ignore"):  # mean(b) may be 0 in a draw, or in all
            mean, ends = mean / mean_b, _percentiles(difference / base, confidence)
    else:
        ends = _percentiles(difference, confidence)
    smaller = min(int((difference <= 0).sum()), int((difference >= 0).sum()))
    p = min(1.0, 2 * (smaller + 1) / (samples + 1))
    return Interval(float(mean), *ends, p, confidence, len(matrix), left_out)


def _columns(*systems: Values) -> tuple[Floats, int]:
    """One column per system, rows with a NaN left out; and how many rows that were."""
    columns = [
        np.asarray(v.detach().cpu() if isinstance(v, Tensor) else v, dtype=np.float64) for v in systems
    ]
    if any(c.ndim != 1 or c.shape != columns[0].shape for c in columns):
        raise DataError(f"values have shapes {[c.shape for c in columns]}; expected one value per query each")
    matrix = np.stack(columns, axis=1)
    present = matrix[~np.isnan(matrix).any(axis=1)]
    if len(present) == 0 or not np.isfinite(present).all():
        raise DataError("expected finite values for at least one query", remedy="check the relevant items")
    return present, len(matrix) - len(present)


def _resampled_means(matrix: Floats, samples: int, seed: int | np.random.Generator) -> Floats:
    """Column means of ``samples`` draws of n rows with replacement, (S, columns)."""
    if samples < 1:
        raise ConfigError(f"samples is {samples}; expected at least 1")
    generator = np.random.default_rng(seed)
    n = len(matrix)
    columns = np.ascontiguousarray(matrix.T)
    means = np.empty((samples, len(columns)))
    rows = max(1, _CELLS // n)
    for start in range(0, samples, rows):
        drawn = generator.integers(n, size=(min(rows, samples - start), n))
        for j, column in enumerate(columns):
            means[start : start + rows, j] = column.take(drawn).mean(axis=1)
    return means


def _percentiles(values: Floats, confidence: float) -> tuple[float, float]:
    if not 0 < confidence < 1:
        raise ConfigError(f"confidence is {confidence}; expected a share between 0 and 1, such as 0.95")
    tail = (1 - confidence) / 2
    low, high = np.quantile(values, [tail, 1 - tail])
    return float(low), float(high)
