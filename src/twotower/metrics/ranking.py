"""Ranking measures with the names and the definitions of ir_measures and trec_eval, on batched tensors.

Shape letters: Q queries, K candidates of one query, N judged (query, item) pairs.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from twotower.config import nearest
from twotower.errors import ConfigError, DataError
from twotower.types import NO_ITEM, Ragged

_CELLS = 1 << 20
"""Candidates looked up at a time: 8 MiB per working tensor, which stays in the cache."""


@dataclass(frozen=True)
class Measure:
    """A measure as data: what is printed parses back, here and in ir_measures.

    ``k`` is the cutoff, None for the whole list. ``gain`` concerns nDCG only: linear as in trec_eval, or
    exponential, 2^g - 1 (Burges et al. 2005).

    >>> Measure.parse("ndcg@10"), str(Measure.parse("recall@100"))
    (Measure(name='nDCG', k=10, gain='linear'), 'R@100')
    >>> str(Measure("nDCG", 10, gain="exponential"))
    "nDCG(dcg='exp-log2')@10"
    """

    name: str
    k: int | None = None
    gain: Literal["linear", "exponential"] = "linear"

    def __post_init__(self) -> None:
        if self.name not in _MEASURES:
            raise ConfigError(f"unknown measure {self.name!r}{nearest(self.name, _MEASURES)}")
        cutoff = _MEASURES[self.name][0]
        if self.k is None and cutoff == "required":
            raise ConfigError(f"{self.name} needs a cutoff, for example {self.name}@10")
        if self.k is not None and (cutoff == "none" or self.k < 1):
            raise ConfigError(f"{self.name}@{self.k}: {self.name} takes {_CUTOFF[cutoff]}")
        if self.gain != "linear" and self.name != "nDCG":
            raise ConfigError(f"{self.name} has no gain; only nDCG does")

    @classmethod
    def parse(cls, text: str) -> Measure:
        """Read ``nDCG@10``, ``AP``, ``nDCG(dcg='exp-log2')@10`` or an alias such as ``hit@10``.

        Names are read without regard to case.

        Raises
        ------
        ConfigError
            The text is no measure, or the cutoff does not fit it.
        """
        match = re.fullmatch(r"(\w+)(?:\(dcg=['\"]?([\w-]+)['\"]?\))?(?:@(\d+))?", text.replace(" ", ""))
        if match is None:
            raise ConfigError(f"{text!r} is not a measure; expected the form nDCG@10")
        word, dcg, k = match.groups()
        name = _ALIASES.get(word.lower())
        if name is None:
            raise ConfigError(f"unknown measure {word!r}{nearest(word, [*_MEASURES, *_ALIASES])}")
        if dcg not in (None, "log2", "exp-log2") or (dcg is not None and name != "nDCG"):
            raise ConfigError(f"{text!r}: only nDCG has a parameter, dcg='log2' or dcg='exp-log2'")
        return cls(name, int(k) if k else None, "exponential" if dcg == "exp-log2" else "linear")

    def __str__(self) -> str:
        gain = "(dcg='exp-log2')" if self.gain == "exponential" else ""
        return f"{self.name}{gain}" + (f"@{self.k}" if self.k else "")


@dataclass(frozen=True)
class Mean:
    """A mean over queries, with how many took part and how many had nothing to find."""

    value: float
    counted: int
    left_out: int


def average(values: Tensor) -> Mean:
    """Mean of per-query values (Q,); NaN marks a query without a relevant item and is left out.

    >>> average(torch.tensor([1.0, float("nan"), 0.5]))
    Mean(value=0.75, counted=2, left_out=1)
    """
    present = values[~values.isnan()]
    value = float(present.double().mean()) if len(present) else float("nan")
    return Mean(value, len(present), len(values) - len(present))


def evaluate(
    candidates: Tensor,
    relevant: Ragged,
    measures: Sequence[Measure | str],
    gains: Tensor | None = None,
) -> dict[str, Tensor]:
    """Measure ranked lists; per-query values (Q,) float64 on the CPU, under each measure's printed name.

    ``candidates`` (Q, K) holds item keys best first, the column is the rank; empty slots (-1) stand last.
    ``relevant`` has one row of item keys per query, no key twice; a key of -1 is an item outside the
    catalogue, which no list can hold and every denominator counts. ``gains`` (N,) belongs to
    ``relevant.values``: above 0 is relevant, 0 is judged and not relevant (only Bpref looks at those), below
    0 is unjudged; None makes all of them 1.

    The definitions are trec_eval's, with its option -c: denominators are *all* relevant items of the query
    (so AP@k divides by them, not by min(k, relevant) as some recommender libraries do), the ideal DCG is
    that of all relevant items cut at k, and a query with an empty list gets 0. A query without a relevant
    item has no value: NaN, see `average`.

    >>> lists = torch.tensor([[7, 3, 9], [4, -1, -1]])
    >>> scores = evaluate(lists, Ragged.of([[3, 5], [4]]), ["R@2", "RR"])
    >>> scores["R@2"].tolist(), scores["RR"].tolist()
    ([0.5, 1.0], [0.5, 1.0])

    Raises
    ------
    ConfigError
        An unknown measure or cutoff.
    DataError
        Shapes that do not fit, gains that are not finite, or a (query, item) pair that occurs twice.
    """
    chosen = [Measure.parse(m) if isinstance(m, str) else m for m in measures]
    if gains is None:
        gains = torch.ones(len(relevant.values), dtype=torch.float64)
    if gains.shape != relevant.values.shape or not gains.isfinite().all():
        raise DataError(
            f"gains have shape {tuple(gains.shape)}; expected one finite gain per relevant item, "
            f"{tuple(relevant.values.shape)}"
        )
    cutoffs = [m.k for m in chosen if m.k is not None]
    if chosen and len(cutoffs) == len(chosen):
        candidates = candidates[:, : max(cutoffs)]  # nobody looks further down
    ranks = relevant_ranks(candidates, relevant)
    _check_once(candidates)
    judged = _Judged.sort(relevant, gains, ranks)
    return {
        str(m): _MEASURES[m.name][1](judged, m).masked_fill(judged.n_relevant == 0, torch.nan) for m in chosen
    }


def relevant_ranks(candidates: Tensor, relevant: Ragged) -> Tensor:
    """Where each relevant item stands in its query's list: (N,) int64 from 1, and 0 for absent.

    Every cell of ``candidates`` is looked up by binary search among the relevant items of its block of
    queries, so the work is Q K log(relevant per block) and the memory does not grow with Q K.

    >>> relevant_ranks(torch.tensor([[7, 3, 9]]), Ragged.of([[9, 8, 7]])).tolist()
    [3, 0, 1]
    """
    if candidates.dim() != 2 or candidates.is_floating_point() or len(candidates) != len(relevant):
        raise DataError(
            f"candidates are {candidates.dtype} {tuple(candidates.shape)}; "
            f"expected integer keys, one row for each of {len(relevant)} queries"
        )
    n_queries, k = candidates.shape
    device, offsets = candidates.device, relevant.offsets.tolist()
    values = relevant.values.to(device)
    ranks = torch.zeros(len(values), dtype=torch.int64, device=device)
    if candidates.numel() == 0 or len(values) == 0:
        return ranks.cpu()
    if min(int(candidates.min()), int(values.min())) < NO_ITEM:
        raise DataError(f"keys below {NO_ITEM}; expected catalogue keys, or {NO_ITEM} for none")
    # row * stride + key + 1 orders pairs by row, and NO_ITEM becomes 0, inside its own row
    stride = max(int(candidates.max()), int(values.max())) + 2
    pairs, order = (relevant.row_of_value().to(device) * stride + values + 1).sort()
    if ((pairs.diff() == 0) & (pairs[1:] % stride != 0)).any():
        raise DataError("an item is relevant twice to one query", remedy="keep one row per query and item")
    rows = max(1, _CELLS // k)
    found = 0
    for start in range(0, n_queries, rows):
        stop = min(start + rows, n_queries)
        low, high = offsets[start], offsets[stop]
        if low == high:
            continue
        block = candidates[start:stop]
        row = torch.arange(start, stop, device=device)[:, None]
        cell = (row * stride + block + 1).reshape(-1)
        near = torch.searchsorted(pairs[low:high], cell).add_(low).clamp_(max=high - 1)
        hit = ((pairs[near] == cell) & (block != NO_ITEM).reshape(-1)).nonzero().squeeze(1)
        ranks[order[near[hit]]] = hit % k + 1
        found += len(hit)
    if found != int(ranks.count_nonzero()):
        raise DataError("a list holds a relevant item twice", remedy="remove duplicates before measuring")
    return ranks.cpu()


def _check_once(candidates: Tensor) -> None:
    """No list may hold an item twice, for the second one takes the place of another."""
    for block in torch.split(candidates, max(1, _CELLS // max(1, candidates.shape[1]))):
        keys = block.sort(1).values
        if ((keys.diff(dim=1) == 0) & (keys[:, 1:] != NO_ITEM)).any():
            raise DataError("a list holds an item twice", remedy="remove duplicates before measuring")


@dataclass(frozen=True)
class _Judged:
    """All judged pairs, by query and then by rank, those not retrieved last."""

    offsets: Tensor  # (Q + 1,)
    row: Tensor  # (N,) the query
    gain: Tensor  # (N,) float64
    rank: Tensor  # (N,) from 1; 0 = not retrieved

    @classmethod
    def sort(cls, relevant: Ragged, gains: Tensor, ranks: Tensor) -> _Judged:
        row = relevant.row_of_value().cpu()
        behind = int(ranks.max()) + 1 if len(ranks) else 1
        order = (row * (behind + 1) + ranks.where(ranks > 0, behind)).argsort(stable=True)
        return cls(relevant.offsets.cpu(), row, gains.detach().cpu().double()[order], ranks[order])

    def total(self, values: Tensor) -> Tensor:
        """Sum per query, (Q,) float64."""
        out = torch.zeros(len(self.offsets) - 1, dtype=torch.float64)
        return out.index_add_(0, self.row, values.double())

    def running(self, mask: Tensor) -> Tensor:
        """How many of ``mask`` stand at or above each pair in its list, (N,)."""
        count = torch.cat([torch.zeros(1, dtype=torch.int64), mask.cumsum(0)])
        return count[1:] - count[self.offsets[self.row]]

    def hits(self, k: int | None) -> Tensor:
        """(N,) bool: relevant, and among the first k."""
        hits = (self.gain > 0) & (self.rank > 0)
        return hits if k is None else hits & (self.rank <= k)

    @cached_property
    def n_relevant(self) -> Tensor:
        return self.total(self.gain > 0)


def _recall(judged: _Judged, measure: Measure) -> Tensor:
    return judged.total(judged.hits(measure.k)) / judged.n_relevant


def _precision(judged: _Judged, measure: Measure) -> Tensor:
    return judged.total(judged.hits(measure.k)) / (measure.k or 1)


def _success(judged: _Judged, measure: Measure) -> Tensor:
    return (judged.total(judged.hits(measure.k)) > 0).double()


def _reciprocal_rank(judged: _Judged, measure: Measure) -> Tensor:
    hits = judged.hits(measure.k)
    return judged.total((hits & (judged.running(hits) == 1)) / judged.rank.clamp(min=1).double())


def _average_precision(judged: _Judged, measure: Measure) -> Tensor:
    hits = judged.hits(measure.k)
    precision = hits * judged.running(hits) / judged.rank.clamp(min=1).double()
    return judged.total(precision) / judged.n_relevant


def _r_precision(judged: _Judged, measure: Measure) -> Tensor:
    hits = judged.hits(None) & (judged.rank <= judged.n_relevant[judged.row])
    return judged.total(hits) / judged.n_relevant


def _bpref(judged: _Judged, measure: Measure) -> Tensor:
    """Buckley and Voorhees 2004, as trec_eval has it: judged non-relevant items above, at most R of them."""
    wrong = judged.gain == 0
    n_relevant = judged.n_relevant[judged.row]
    bound = torch.minimum(n_relevant, judged.total(wrong)[judged.row])
    above = torch.minimum(judged.running(wrong & (judged.rank > 0)).double(), n_relevant)
    preference = torch.where(above > 0, 1 - above / bound.clamp(min=1), 1.0)
    return judged.total(judged.hits(None) * preference) / judged.n_relevant


def _ndcg(judged: _Judged, measure: Measure) -> Tensor:
    """Järvelin and Kekäläinen 2002, with the discount 1 / log2(rank + 1)."""
    gain = judged.gain.clamp(min=0)
    if measure.gain == "exponential":
        gain = torch.exp2(gain) - 1
    found = judged.total(judged.hits(measure.k) * gain / (judged.rank.double() + 1).clamp(min=2).log2())
    best = gain.argsort(descending=True)
    best = best[judged.row[best].argsort(stable=True)]  # by query, and best first within each
    place = torch.arange(len(best)) - judged.offsets[judged.row]
    ideal = gain[best] / (place.double() + 2).log2()
    if measure.k is not None:
        ideal = ideal * (place < measure.k)
    return found / judged.total(ideal)


_CUTOFF = {"required": "a cutoff from 1", "optional": "a cutoff from 1, or none", "none": "no cutoff"}
_MEASURES: dict[str, tuple[str, Callable[[_Judged, Measure], Tensor]]] = {
    "nDCG": ("optional", _ndcg),
    "R": ("required", _recall),
    "P": ("required", _precision),
    "RR": ("optional", _reciprocal_rank),
    "AP": ("optional", _average_precision),
    "Success": ("required", _success),
    "Rprec": ("none", _r_precision),
    "Bpref": ("none", _bpref),
}
_ALIASES = {name.lower(): name for name in _MEASURES} | {
    "recall": "R",
    "precision": "P",
    "mrr": "RR",
    "map": "AP",
    "hit": "Success",
    "hr": "Success",
}
