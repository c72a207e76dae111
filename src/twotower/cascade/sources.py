"""Retrieving stages without a trained model: by the content of items, and from lists made elsewhere.

Letters: Q queries, N items of the catalogue, L places of a list, D vector length.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, Self

import torch
from torch import Tensor
from torch.nn import functional as F

from twotower.cascade.filter import only, presentable
from twotower.cascade.stage import Request, Stage, no_candidates, rank_pair
from twotower.errors import ConfigError, DataError
from twotower.index.base import Index
from twotower.index.build import AnyIndex, IndexConfig, build_index
from twotower.index.delta_table import DeltaTable
from twotower.index.filtered import search_allowed
from twotower.index.item_table import ItemTable
from twotower.index.multivector import MultiVectorConfig
from twotower.types import NO_ITEM, Candidates, Ragged, Rep


class RetrieveSimilar(Stage):
    """Items like those of the history, whoever else liked them: content, and the way in for new items.

    The score is the mean cosine between a candidate and the items of the history. A query without a history,
    or one of unknown or all-zero items, gets nothing: there is nothing to be like.

    Parameters
    ----------
    vectors
        (N, D), row = item key: attributes as bags, embeddings of texts, vectors of a model; or `Units`.
    index
        How to search them, exact by default; or an index of their unit vectors, which may change with them.
    """

    def __init__(
        self,
        vectors: Tensor | Units,
        k: int = 500,
        name: str = "similar",
        index: AnyIndex | Index | None = None,
    ) -> None:
        super().__init__(name, k)
        self.units = _matrix(vectors) if isinstance(vectors, Tensor) else vectors
        if index is None or isinstance(index, IndexConfig | MultiVectorConfig):
            index = build_index(index or IndexConfig(), self.units.take(torch.arange(self.units.rows)))
        self.index: Index = index

    @classmethod
    def of_table(
        cls,
        table: ItemTable | DeltaTable,
        k: int = 500,
        name: str = "similar",
        index: AnyIndex | Index | None = None,
        *,
        tensor: str = "vector",
        dims: int | None = None,
    ) -> Self:
        """By a tensor of an item table, or its first ``dims`` numbers.

        Those of a two-tower model end with a bias and a constant, which are not content: leave them out.
        """
        kept = sorted(spec.name for spec in table.specs)
        if tensor not in kept:
            raise ConfigError(f"stage {name!r} compares {tensor!r}, the item table has {kept}")
        return cls(TableUnits(table, tensor, dims), k, name, index)

    @torch.inference_mode()
    def run(self, request: Request, candidates: Candidates | None, k: int) -> Candidates:
        if request.history is None:
            raise ConfigError(f"stage {self.name!r} retrieves from histories, and the request has none")
        if not k or not len(request):
            return rank_pair(self.name, no_candidates(len(request)))
        taste = self._mean(request.history)
        found = search_allowed(self.index, taste, k, request.allow, request.exclude)
        return rank_pair(self.name, only(found, found.mask & (taste != 0).any(1, keepdim=True)))

    def _mean(self, history: Ragged) -> Tensor:
        """Mean of the unit vectors of the known items of each history, (Q, D); zeros where there are none."""
        known = (history.values >= 0) & (history.values < self.units.rows)
        counts = torch.bincount(history.row_of_value()[known], minlength=len(history))
        rows = self.units.take(history.values[known])
        starts = counts.cumsum(0) - counts
        return F.embedding_bag(torch.arange(len(rows)), rows, starts, mode="mean")

    @property
    def bytes_per_item(self) -> float:
        return self.index.bytes_per_item


class Units(Protocol):
    """Unit vectors of the items by key; they may change, and become more."""

    @property
    def rows(self) -> int:
        """One more than the highest key."""
        ...

    def take(self, keys: Tensor) -> Tensor:
        """(n,) keys in range to (n, D) float32; zeros stay zeros."""
        ...


@dataclass(frozen=True)
class _Matrix:
    units: Tensor

    @property
    def rows(self) -> int:
        return len(self.units)

    def take(self, keys: Tensor) -> Tensor:
        return self.units[keys]


@dataclass(frozen=True)
class TableUnits:
    """The normalised tensor of a table, or its first numbers."""

    table: ItemTable | DeltaTable
    tensor: str
    dims: int | None

    @property
    def rows(self) -> int:
        return self.table.rows

    def take(self, keys: Tensor) -> Tensor:
        return unit_vectors(self.table.take(keys), self.tensor, self.dims)


def unit_vectors(rep: Rep, tensor: str = "vector", dims: int | None = None) -> Tensor:
    """(n, D) the first ``dims`` numbers of a tensor, at length 1; zeros stay zeros."""
    return F.normalize(rep[tensor].detach()[:, :dims].float(), dim=-1)


def _matrix(vectors: Tensor) -> _Matrix:
    return _Matrix(unit_vectors(Rep(vector=vectors)))


class RetrieveListed(Stage):
    """Lists that were made beforehand, one for each value of a query column: editors' picks by country, what
    a job of last night computed for each user.

    Parameters
    ----------
    column
        A query column of whole numbers, (Q,), such as the vocabulary index of the user or the country.
    lists
        Item keys, best first; row = value of the column. So row 1 is for unknown values; a value beyond the
        last row has no list. `NO_ITEM` is skipped, an item that stands twice counts where it is better.
    scores
        One per value of ``lists``; without them the n-th of a list scores 1 / n.

    Raises
    ------
    ConfigError
        Not one score per listed item.
    DataError
        A score is NaN or infinite.
    """

    def __init__(
        self, column: str, lists: Ragged, scores: Tensor | None = None, k: int = 500, name: str = "listed"
    ) -> None:
        super().__init__(name, k)
        if scores is not None and scores.shape != lists.values.shape:
            raise ConfigError(
                f"stage {name!r}: {len(lists.values)} listed items, scores {tuple(scores.shape)}"
            )
        end = torch.cat([lists.offsets, lists.offsets[-1:]])  # one more list, empty, for all other values
        self.column, self.lists = column, Ragged(lists.values, end)
        self.scores = None if scores is None else Ragged(_finite(scores.float(), name), end)

    def run(self, request: Request, candidates: Candidates | None, k: int) -> Candidates:
        value, nobody = _column(request, self.column, self.name, 1), len(self.lists) - 1
        row = value.masked_fill((value < 0) | (value >= nobody), nobody)
        keys = self.lists.take(row).padded(fill=NO_ITEM)
        scores = None if self.scores is None else self.scores.take(row).padded()
        return rank_pair(self.name, presented(request, keys, scores, k))

    @property
    def bytes_per_item(self) -> float:
        return 0


class RetrieveGiven(Stage):
    """Lists that come with the request: what a partner, a rule engine or a page around it wants considered.

    They travel as one more query column, item keys (Q, L) with `NO_ITEM` in empty places, as
    ``lists.padded(fill=NO_ITEM)`` gives; if there is a column ``<column>_score`` (Q, L), it has their scores,
    else the n-th scores 1 / n. An item that stands twice counts where it is better.
    """

    def __init__(self, column: str, k: int = 500, name: str = "given") -> None:
        super().__init__(name, k)
        self.column = column

    def run(self, request: Request, candidates: Candidates | None, k: int) -> Candidates:
        keys = _column(request, self.column, self.name, 2)
        scores = request.query.get(f"{self.column}_score")
        if scores is not None:
            if scores.shape != keys.shape:
                raise ConfigError(
                    f"stage {self.name!r}: items {tuple(keys.shape)}, scores {tuple(scores.shape)}"
                )
            _finite(scores[keys != NO_ITEM], self.name)
        return rank_pair(self.name, presented(request, keys, scores, k))

    @property
    def bytes_per_item(self) -> float:
        return 0


def _column(request: Request, column: str, stage: str, axes: int) -> Tensor:
    if column not in request.query:
        raise ConfigError(
            f"stage {stage!r} reads the query column {column!r}; the request has {sorted(request.query)}"
        )
    found = request.query[column]
    if found.dim() != axes or found.is_floating_point():
        raise ConfigError(
            f"stage {stage!r}: query column {column!r} is {found.dtype} {tuple(found.shape)}, expected whole "
            f"numbers {'(Q,)' if axes == 1 else '(Q, L)'}"
        )
    return found.long()


def _finite(scores: Tensor, stage: str) -> Tensor:
    if not bool(scores.isfinite().all()):
        raise DataError(f"stage {stage!r}: a score is NaN or infinite", remedy="drop the item from its list")
    return scores


def presented(request: Request, keys: Tensor, scores: Tensor | None, k: int) -> Candidates:
    """The k best of what each query may see, every item once; keys (Q, L) best first, scores 1 / place."""
    if scores is None:
        scores = (1 / torch.arange(1.0, keys.shape[1] + 1)).expand(keys.shape)
    found = only(Candidates(keys, scores.float()), presentable(request, keys))
    by_key, order = found.keys.sort(dim=1, stable=True)  # the better of two equal keys stays in front
    twice = torch.zeros_like(found.mask)
    twice[:, 1:] = by_key[:, 1:] == by_key[:, :-1]
    return only(found, found.mask & ~torch.empty_like(twice).scatter(1, order, twice)).best(k)
