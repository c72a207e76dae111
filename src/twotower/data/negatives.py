"""Where negatives come from, and how likely each was to come.

B batch rows, C shared candidates, n own negatives of a row. Every ``log_q`` is the log-probability *per
draw*: the chance that one drawn candidate is this item, not the expected count in a batch and not the chance
of being in it at all. Draws of one sampler share one distribution, so a constant (the number of draws) is all
that separates the first two, and the softmax loss does not see it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from twotower.errors import ConfigError, DataError
from twotower.types import NO_ITEM, Ragged

Layout = Literal["shared", "own"]


@dataclass(frozen=True)
class Negatives:
    """Candidates for a batch: *shared* by all rows, (C,), or each row's *own*, (B, n).

    An empty slot (only `Logged` makes them) holds `NO_ITEM` and log-probability 0; mask its score.
    """

    keys: Tensor  # (C,) or (B, n) int64
    log_q: Tensor  # same shape, float32, per draw

    @property
    def shared(self) -> bool:
        return self.keys.dim() == 1

    def hits(self, positives: Tensor) -> Tensor:
        """(B, C) or (B, n) bool: accidental hits, true where a candidate is the row's positive (B,).

        For losses that are not told the keys, such as bce and bpr.
        """
        return self.keys == positives[:, None]


class NegativeSampler(Protocol):
    """What the batches ask for negatives."""

    def sample(
        self, positives: Tensor, generator: torch.Generator | None = None, *, groups: Tensor | None = None
    ) -> Negatives:
        """Negatives for rows with these positive keys (B,); ``groups`` (B,) names the list of each row."""
        ...


class Uniform:
    """Every key with the same probability, n draws with replacement.

    ``keys`` are those that may be drawn, (m,) and all different, or a number for 0 .. number - 1. Give the
    keys that training knows where the catalogue holds items of later days.

    >>> negatives = Uniform(1000, n=4).sample(torch.tensor([3, 9]), torch.Generator().manual_seed(0))
    >>> negatives.keys.shape, round(negatives.log_q[0, 0].exp().item(), 6)
    (torch.Size([2, 4]), 0.001)
    """

    def __init__(self, keys: int | Tensor, n: int, layout: Layout = "own") -> None:
        self._keys = torch.arange(keys) if isinstance(keys, int) else keys
        _check(len(self._keys), n, layout)
        self.n, self.layout = n, layout

    def sample(
        self, positives: Tensor, generator: torch.Generator | None = None, *, groups: Tensor | None = None
    ) -> Negatives:
        keys = _uniform(self._keys, _shape(positives, self.n, self.layout), generator).to(positives.device)
        return Negatives(keys, self.log_q(keys))

    def log_q(self, keys: Tensor) -> Tensor:
        """Log-probability per draw of keys that may be drawn: of the positives, say."""
        return torch.full(keys.shape, -math.log(len(self._keys)), device=keys.device)


class Popularity:
    """Each key with probability proportional to counts ** alpha, n draws with replacement.

    ``counts`` (n_items,) of the training part. ``alpha`` 1 follows popularity, 0.75 is word2vec's
    (Mikolov et al. 2013), 0 is uniform over the items with events. Items without events are never drawn.

    >>> sampler = Popularity(torch.tensor([4, 1, 0]), alpha=0.5, n=2)
    >>> sampler.log_q(torch.tensor([0, 1, 2])).exp()
    tensor([0.6667, 0.3333, 0.0000])
    """

    def __init__(self, counts: Tensor, n: int, alpha: float = 1.0, layout: Layout = "own") -> None:
        _check(len(counts), n, layout)
        if alpha < 0:
            raise ConfigError(f"alpha must not be negative, found {alpha}")
        self.n, self.alpha, self.layout = n, alpha, layout
        counts = _event_counts(counts)
        mass = torch.where(counts > 0, counts**alpha, 0.0)  # 0 ** 0 would be 1
        self._log_q = (mass / mass.sum()).log().float()
        self._upper = mass.cumsum(0)
        self._last = int(mass.nonzero()[-1])

    def sample(
        self, positives: Tensor, generator: torch.Generator | None = None, *, groups: Tensor | None = None
    ) -> Negatives:
        shape = _shape(positives, self.n, self.layout)
        point = self._upper[-1] * torch.rand(shape, generator=generator, dtype=torch.float64)
        # a point belongs to the first item whose upper end lies beyond it: never one without mass,
        # but for a point that was rounded up onto the very end
        keys = torch.searchsorted(self._upper, point, right=True).clamp_max(self._last)
        keys = keys.to(positives.device)
        return Negatives(keys, self.log_q(keys))

    def log_q(self, keys: Tensor) -> Tensor:
        return self._log_q.to(keys.device)[keys]


class InBatch:
    """The positives of the batch serve as shared candidates: column i is row i's positive.

    No draw is made; what made the columns is the stream of events, so q is an item's share of the events.
    ``counts`` (n_items,) come from the training part; without them there is no correction to make, and
    every log_q is 0.
    """

    def __init__(self, counts: Tensor | None = None) -> None:
        self._log_q = None if counts is None else _share(counts).log().float()

    def sample(
        self, positives: Tensor, generator: torch.Generator | None = None, *, groups: Tensor | None = None
    ) -> Negatives:
        return Negatives(positives, self.log_q(positives))

    def log_q(self, keys: Tensor) -> Tensor:
        if self._log_q is None:
            return torch.zeros(keys.shape, device=keys.device)
        return self._log_q.to(keys.device)[keys]


class Mixed:
    """The batch's positives, then n uniform draws, all shared: (B + n,) (Yang et al. 2020).

    Items that nobody clicked must be negatives too. q is that of the mixture, for every column wherever it
    came from: (B p + n u) / (B + n), with p an item's share of the events in ``counts`` (n_items,) and u
    uniform over ``keys`` (default all; see `Uniform`).
    """

    def __init__(self, counts: Tensor, n: int, keys: Tensor | None = None) -> None:
        _check(len(counts), n, "shared")
        self.n = n
        self._keys = torch.arange(len(counts)) if keys is None else keys
        self._share = _share(counts)
        self._uniform = torch.zeros_like(self._share)
        self._uniform[self._keys] = 1 / len(self._keys)

    def sample(
        self, positives: Tensor, generator: torch.Generator | None = None, *, groups: Tensor | None = None
    ) -> Negatives:
        drawn = _uniform(self._keys, (self.n,), generator).to(positives.device)
        keys = torch.cat([positives, drawn])
        return Negatives(keys, self.log_q(keys, rows=len(positives)))

    def log_q(self, keys: Tensor, rows: int) -> Tensor:
        """Log-probability per draw of any keys in a batch of so many rows."""
        share, uniform = self._share.to(keys.device)[keys], self._uniform.to(keys.device)[keys]
        return ((rows * share + self.n * uniform) / (rows + self.n)).log().float()


class Logged:
    """Own candidates out of what was shown: n different entries of the row's list, in random order.

    ``lists`` holds the item keys of each group (a request, a query); ``sample`` needs ``groups``, the list
    of each row. The row's positive is left out; a list with fewer entries leaves empty slots. The log_q of
    a slot is -log(entries), for what it holds is uniform over the list. That is a probability *given the
    list*, which an earlier policy made: no logQ correction turns impressions into a sample of the catalogue.
    """

    def __init__(self, lists: Ragged, n: int) -> None:
        _check(max(1, len(lists)), n, "own")
        self.lists, self.n = lists, n

    def sample(
        self, positives: Tensor, generator: torch.Generator | None = None, *, groups: Tensor | None = None
    ) -> Negatives:
        if groups is None:
            raise ConfigError("logged negatives need groups: the number of each row's list")
        shown = self.lists.take(groups)
        width = max(self.n, int(shown.lengths.max()) if len(shown) else 0)
        keys = shown.padded(fill=NO_ITEM, width=width)
        usable = (keys != NO_ITEM) & (keys != positives[:, None])
        order = torch.rand(keys.shape, generator=generator).masked_fill(~usable, -1.0)
        chosen = order.topk(self.n, dim=1)
        keys = keys.gather(1, chosen.indices).masked_fill(chosen.values < 0, NO_ITEM)
        log_q = -usable.sum(1, keepdim=True).clamp_min(1).log().expand_as(keys)
        return Negatives(keys, log_q.masked_fill(keys == NO_ITEM, 0.0))


def _check(n_items: int, n: int, layout: str) -> None:
    if n_items < 1 or n < 1:
        raise ConfigError(f"needs at least 1 item and 1 negative, found {n_items} and {n}")
    if layout not in ("shared", "own"):
        raise ConfigError(f"unknown layout {layout!r}; known: own, shared")


def _shape(positives: Tensor, n: int, layout: Layout) -> tuple[int, ...]:
    return (n,) if layout == "shared" else (len(positives), n)


def _uniform(keys: Tensor, shape: tuple[int, ...], generator: torch.Generator | None) -> Tensor:
    return keys[torch.randint(len(keys), shape, generator=generator)]


def _event_counts(counts: Tensor) -> Tensor:
    counts = counts.double()
    if not bool((counts >= 0).all()) or not bool(counts.sum() > 0):
        raise DataError("item counts must be non-negative, with at least one event")
    return counts


def _share(counts: Tensor) -> Tensor:
    counts = _event_counts(counts)
    return counts / counts.sum()
