"""Hard negatives: items that are served for a query and are not its answer, mined before training.

The first items of any retriever hold answers that nobody judged. Moreira et al. 2024 ("NV-Retriever",
arXiv 2407.15831) leave out what a teacher scores nearly as high as the known answer: above a share
of its score (TopK-PercPos, theirs 0.95; ``guard``) or above it less a margin (TopK-MarginPos, theirs 0.05;
``margin``). Skipping the first places (Top-k shifted by N; ``skip``) does it without a teacher.

Letters: P pairs of a query and a positive of it, Q queries, K served candidates, B rows of a batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from pydantic import Field as Option
from torch import Tensor

from twotower.config import Config
from twotower.data.full_stage import FullStage, Role
from twotower.data.negatives import Logged
from twotower.errors import ConfigError, DataError
from twotower.types import NO_ITEM, Candidates, Ragged

CELLS_AT_ONCE = 1 << 22


class Mining(Config):
    """Which served candidates are negatives of a pair, in this order.

    Judged positives of the query are none. What scores above ``guard`` or ``margin`` allows is none. Of the
    others the first ``skip`` are left out, and the next ``window`` are kept.

    A guard is as good as its teacher: a positive that the teacher scores low leaves its pair without any
    negative. Shares suit cosines and BM25, whose zero means something; margins suit logits.
    """

    skip: int = Option(0, ge=0, description="first places that are left out")
    window: int = Option(50, ge=1, description="places behind them that are kept")
    guard: float | None = Option(
        None, gt=0, le=1, description="candidates above this share of the positive's score are left out"
    )
    margin: float | None = Option(
        None, ge=0, description="candidates above the positive's score less this are left out"
    )

    @property
    def guarded(self) -> bool:
        return self.guard is not None or self.margin is not None

    def limit(self, positive: Tensor) -> Tensor:
        """The highest score that a negative may have, by the positive's; of its shape.

        The share is taken off the score's size, so that below 0 it is a lower score as well.

        >>> Mining(guard=0.75).limit(torch.tensor([4.0, -4.0])).tolist()
        [3.0, -5.0]
        """
        limit = torch.full_like(positive, torch.inf)
        if self.guard is not None:
            limit = positive - (1 - self.guard) * positive.abs()
        return limit if self.margin is None else torch.minimum(limit, positive - self.margin)


@dataclass(frozen=True)
class Judged:
    """Pairs of queries and their positives, each once, by rising query and item."""

    query_keys: Tensor  # (P,) int64
    item_keys: Tensor  # (P,) int64
    n_items: int

    @classmethod
    def of(cls, query_keys: Tensor, item_keys: Tensor, n_items: int) -> Judged:
        """Of positive events (n,), repetitions included: those of the training part."""
        if not len(query_keys):
            raise DataError(
                "there is no positive to mine for", remedy="check the split and the positive rule"
            )
        codes = torch.unique(query_keys * n_items + item_keys)
        return cls(codes // n_items, codes % n_items, n_items)

    def __len__(self) -> int:
        return len(self.query_keys)

    def place(self, query_keys: Tensor, item_keys: Tensor) -> Tensor:
        """The row of each pair, of any shape; P for what is no pair."""
        codes = self.query_keys * self.n_items + self.item_keys
        wanted = (query_keys * self.n_items + item_keys).contiguous()
        at = torch.searchsorted(codes, wanted)
        known = (codes[at.clamp(max=len(self) - 1)] == wanted) & (item_keys >= 0)
        return at.masked_fill(~known, len(self))

    def contains(self, query_keys: Tensor, item_keys: Tensor) -> Tensor:
        """(B, C) bool: whether items, shared (C,) or own (B, C), are positives of the queries (B,)."""
        if item_keys.dim() == 1:
            return self._among(query_keys, item_keys)
        return self.place(query_keys[:, None], item_keys) < len(self)

    def _among(self, query_keys: Tensor, item_keys: Tensor) -> Tensor:
        """`contains` of shared items (C,), from the positives of each query: fewer than B C searches."""
        distinct, column = torch.unique(item_keys, return_inverse=True)
        column_of = torch.full((self.n_items + 1,), len(distinct))  # the last is that of `NO_ITEM`
        column_of[distinct] = torch.arange(len(distinct))
        first = torch.searchsorted(self.query_keys, query_keys.contiguous())
        count = torch.searchsorted(self.query_keys, query_keys.contiguous(), right=True) - first
        row = torch.repeat_interleave(count)
        positive = torch.arange(len(row)) + (first - count.cumsum(0) + count)[row]
        found = torch.zeros(len(query_keys), len(distinct) + 1, dtype=torch.bool)
        found[row, column_of[self.item_keys[positive]]] = True
        return found[:, column]

    def lists(self) -> tuple[Tensor, Ragged]:
        """The queries (Q,), rising, and the positives of each."""
        queries, counts = torch.unique(self.query_keys, return_counts=True)
        return queries, Ragged(self.item_keys, torch.cat([counts.new_zeros(1), counts.cumsum(0)]))


@dataclass(frozen=True)
class HardNegatives:
    """What was mined: for each judged pair the keys of its negatives, best first, and what a teacher said."""

    judged: Judged
    lists: Ragged  # P lists
    scores: Tensor | None = None  # of the values of ``lists``
    positive_scores: Tensor | None = None  # (P,)

    def __post_init__(self) -> None:
        if len(self.lists) != len(self.judged):
            raise ValueError(f"{len(self.lists)} lists for {len(self.judged)} pairs")

    def draw(self, query_keys: Tensor, item_keys: Tensor, n: int, generator: torch.Generator) -> Tensor:
        """(B, n) different negatives of each pair at random; `NO_ITEM` where there are not so many."""
        end = self.lists.offsets[-1:]  # one more list, empty, for what is no pair
        lists = Ragged(self.lists.values, torch.cat([self.lists.offsets, end]))
        groups = self.judged.place(query_keys, item_keys)
        return Logged(lists, n).sample(item_keys, generator, groups=groups).keys

    def said(self, query_keys: Tensor, positives: Tensor, items: Tensor) -> Tensor:
        """(B, K) the teacher's scores of items (B, K) for the pairs of queries and ``positives`` (B,).

        NaN for what is neither the pair's positive nor one of its negatives, and without a teacher.
        """
        codes, scores = self._said
        if not len(codes):
            return torch.full(items.shape, torch.nan)
        wanted = self.judged.place(query_keys, positives)[:, None] * self.judged.n_items + items
        at = torch.searchsorted(codes, wanted.contiguous()).clamp(max=len(codes) - 1)
        return scores[at].masked_fill((codes[at] != wanted) | (items < 0), torch.nan)

    @cached_property
    def _said(self) -> tuple[Tensor, Tensor]:
        """Codes of pair and item, rising, and the score of each."""
        if self.scores is None or self.positive_scores is None:
            return torch.empty(0, dtype=torch.int64), torch.empty(0)
        row = torch.cat([self.lists.row_of_value(), torch.arange(len(self.judged))])
        items = torch.cat([self.lists.values, self.judged.item_keys])
        codes, order = (row * self.judged.n_items + items).sort()
        return codes, torch.cat([self.scores, self.positive_scores])[order].float()

    def samples(self) -> FullStage:
        """A list for each pair, the positive and all its negatives, for full-stage and distilling objectives.

        The positive is exposed and has gain 1, the negatives are ``ranked``.
        """
        items = torch.cat([self.judged.item_keys[:, None], self.lists.padded(NO_ITEM)], 1)
        first = torch.arange(items.shape[1]) == 0
        roles = torch.where(first, Role.EXPOSED_POSITIVE, Role.RANKED).to(torch.int8).expand(items.shape)
        teacher = torch.full(items.shape, torch.nan)
        if self.scores is not None and self.positive_scores is not None:
            teacher[:, 0] = self.positive_scores
            teacher[:, 1:][items[:, 1:] != NO_ITEM] = self.scores
        return FullStage(
            self.judged.query_keys,
            items,
            roles.masked_fill(items == NO_ITEM, -1),
            first.float().repeat(len(items), 1),
            teacher,
        )

    def __str__(self) -> str:
        lengths = self.lists.lengths
        mean = float(lengths.double().mean())
        return (
            f"{len(self.judged):,} pairs with {mean:.1f} hard negatives each; "
            f"{int((lengths == 0).sum()):,} pairs have none"
        )


def mine(
    judged: Judged,
    served: Candidates,
    how: Mining,
    *,
    scores: Tensor | None = None,
    positive_scores: Tensor | None = None,
) -> HardNegatives:
    """Hard negatives from served lists; nothing is drawn yet, so the same lists give the same negatives.

    Parameters
    ----------
    judged
        The positives that are known: those of the training part alone, or the test part leaks.
    served
        (Q, K) candidates, best first, of any retriever or several fused; row q is of the q-th of the queries
        that ``judged.lists()`` gives.
    scores, positive_scores
        A teacher's scores of ``served`` (Q, K) and of the judged pairs (P,); needed by a guard or margin.

    Raises
    ------
    ConfigError
        As many lists as there are not queries, or a guard without a teacher's scores.

    >>> judged = Judged.of(torch.tensor([7]), torch.tensor([2]), n_items=9)
    >>> served = Candidates(torch.tensor([[5, 2, 4, 0]]), torch.tensor([[0.9, 0.8, 0.7, 0.1]]))
    >>> best = torch.tensor([0.8])
    >>> mine(judged, served, Mining(guard=0.95), scores=served.scores, positive_scores=best).lists.values
    tensor([4, 0])
    """
    queries, own = judged.lists()
    if len(served.keys) != len(queries):
        raise ConfigError(f"{len(served.keys)} lists were served for {len(queries)} queries with positives")
    if how.guarded and (scores is None or positive_scores is None):
        raise ConfigError("a guard or margin compares a teacher's scores: give scores and positive_scores")
    usable = served.mask & ~judged.contains(queries, served.keys)  # (Q, K)
    row, values, said, lengths = own.row_of_value(), [], [], []
    step = max(1, CELLS_AT_ONCE // max(1, served.keys.shape[1]))
    for start in range(0, len(judged), step):
        rows = row[start : start + step]
        keep = usable[rows]
        if how.guarded:
            assert scores is not None
            assert positive_scores is not None
            keep &= scores[rows] <= how.limit(positive_scores[start : start + step])[:, None]
        place = keep.cumsum(1) - 1
        keep &= (place >= how.skip) & (place < how.skip + how.window)
        values.append(served.keys[rows][keep])
        said += [] if scores is None else [scores[rows][keep]]
        lengths.append(keep.sum(1))
    ends = torch.cat(lengths).cumsum(0)
    lists = Ragged(torch.cat(values), torch.cat([ends.new_zeros(1), ends]))
    return HardNegatives(judged, lists, torch.cat(said) if said else None, positive_scores)
