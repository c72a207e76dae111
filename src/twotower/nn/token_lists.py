"""Both sides of a pair as lists of tokens, for models that let every token meet every other.

A token is a word of a text, or a value of a field: an item of the history, a genre, an age. Real tokens stand
on the left, in their order; what is behind a list's length is zero.

A value that is not known is none of them, so that two such never meet as if they were one: fields leave it
out, and so do texts of the query. In a document an unknown word stands where it stood, and has no term.

Letters: ... (Q,), (C,) or (Q, K); L places, D vector length.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from twotower.data.spec import Column, FeatureSpec
from twotower.errors import ConfigError
from twotower.nn.embedding import Embeddings
from twotower.nn.text.columns import text_column
from twotower.nn.text.config import TextConfig
from twotower.nn.text.make import make_text_encoder
from twotower.types import PAD, UNKNOWN, Batch

NO_TERM = -1
"""Stands for the term of a token that is none: a number, an unknown word, or padding."""


class Tokens(NamedTuple):
    """The tokens of some entities."""

    vectors: Tensor  # (..., L, D)
    length: Tensor  # (...) int64
    terms: Tensor  # (..., L) int64 rows of the vocabulary, or NO_TERM

    @property
    def real(self) -> Tensor:
        """(..., L) bool: where a token is."""
        return torch.arange(self.terms.shape[-1], device=self.length.device) < self.length.unsqueeze(-1)


class TokenLists(nn.Module):
    """The token lists of both sides, in one space of ``dim``."""

    dim: int
    n_terms: int  # rows of the vocabulary that both sides share
    query_width: int  # places of the longest list
    item_width: int
    history: str | None = None

    @abstractmethod
    def query(self, batch: Batch) -> Tokens:
        """(Q, ...) encoded query columns -> their tokens."""

    @abstractmethod
    def item(self, batch: Batch) -> Tokens:
        """(C, ...) or (Q, K, ...) encoded item columns -> their tokens."""

    @abstractmethod
    def item_terms(self, batch: Batch) -> Tensor:
        """(..., L): the terms alone of encoded item columns, in no stated order."""


class TextTokens(TokenLists):
    """The tokens of a query's text and of an item's, through one encoder."""

    def __init__(self, spec: FeatureSpec, query: str | None, item: str | None, config: TextConfig) -> None:
        super().__init__()
        columns = text_column(spec, "query", query), text_column(spec, "item", item)
        if columns[0].tokenizer != columns[1].tokenizer:
            raise ConfigError(
                f"tokens of {columns[0].name!r} ({columns[0].tokenizer}) and {columns[1].name!r} "
                f"({columns[1].tokenizer}) cannot meet: give both texts the same tokenizer"
            )
        self.names = columns[0].name, columns[1].name
        self.query_width, self.item_width = (column.width for column in columns)
        self.encoder = make_text_encoder(max(columns, key=lambda column: column.width), config)
        self.dim, self.n_terms = self.encoder.dim, columns[1].size

    def query(self, batch: Batch) -> Tokens:
        return self._encoded(without_unknown(batch[self.names[0]]))

    def item(self, batch: Batch) -> Tokens:
        return self._encoded(batch[self.names[1]])

    def item_terms(self, batch: Batch) -> Tensor:
        return _terms(batch[self.names[1]].long(), 0)

    def _encoded(self, tokens: Tensor) -> Tokens:
        lead = tokens.shape[:-1]
        vectors, real = self.encoder(tokens.flatten(0, -2))
        L = min(vectors.shape[1], tokens.shape[-1])  # the encoder leaves a place where there is none at all
        return Tokens(
            vectors[:, :L].unflatten(0, lead), real.sum(-1).view(lead), _terms(tokens[..., :L].long(), 0)
        )


class FieldTokens(TokenLists):
    """Every value of every field is a token: ids, the values of bags, the places of the history, numbers.

    ``keep`` names the columns whose values count; None is all. The history's items share their rows with the
    id they come of, so that an item meets itself.
    """

    def __init__(
        self, spec: FeatureSpec, dim: int, *, sparse: bool = False, keep: Collection[str] | None = None
    ) -> None:
        super().__init__()
        kept = [c for c in spec.columns if c.kind != "text" and (keep is None or c.name in keep)]
        if keep is not None and len(kept) < len(set(keep)):
            found = [c.name for c in spec.columns if c.kind != "text"]
            raise ConfigError(f"fields {sorted(set(keep) - set(found))} are none of the columns {found}")
        self.query_columns = [c for c in kept if c.side in ("query", "context")]
        self.item_columns = [c for c in kept if c.side == "item"]
        if not self.query_columns or not self.item_columns:
            raise ConfigError("a side has no tokens: declare fields for both the query and the item")
        sequences = [c for c in self.query_columns if c.kind == "sequence"]
        targets = [spec[str(c.of)] for c in sequences if spec[str(c.of)] not in kept]  # theirs are its rows
        fields = [c for c in kept if c.kind != "sequence"]
        self.embeddings = Embeddings([*fields, *targets, *sequences], dim, sparse=sparse)
        self.dim, self.n_terms = dim, self.embeddings.table.num_embeddings
        self.query_width = sum(_places(c) for c in self.query_columns)
        self.item_width = sum(_places(c) for c in self.item_columns)
        self.history = sequences[0].name if sequences else None

    def query(self, batch: Batch) -> Tokens:
        """Cut to the longest list: histories are mostly short."""
        vectors, length, terms = self._listed(batch, self.query_columns)
        longest = max(1, int(length.max())) if len(length) else 1
        return Tokens(vectors[:, :longest], length, terms[:, :longest])

    def item(self, batch: Batch) -> Tokens:
        return self._listed(batch, self.item_columns)

    def item_terms(self, batch: Batch) -> Tensor:
        columns = [c for c in self.item_columns if c.kind not in ("number", "vector")]
        starts = self.embeddings.starts
        return torch.cat([_terms(_listed(batch[c.name], c), starts[c.name]) for c in columns], dim=-1)

    def _listed(self, batch: Batch, columns: Sequence[Column]) -> Tokens:
        vectors, terms, real = [], [], []
        for column in columns:
            values = batch[column.name]
            if column.kind in ("number", "vector"):
                vector = self.embeddings.linear_of(column.name)(values).unsqueeze(-2)
                there = torch.ones(vector.shape[:-1], dtype=torch.bool, device=vector.device)
                term = torch.full_like(there, NO_TERM, dtype=torch.int64)
            else:
                values = _listed(values, column)
                rows = self.embeddings.indices(column.name, values)  # an id that drops out is not there
                there = rows > self.embeddings.starts[column.name] + UNKNOWN
                vector = self.embeddings.table(rows) * there.unsqueeze(-1)
                term = torch.where(there, rows, NO_TERM)
            vectors.append(vector)
            terms.append(term)
            real.append(there)
        return to_the_left(torch.cat(vectors, -2), torch.cat(real, -1), torch.cat(terms, -1))


def to_the_left(vectors: Tensor, real: Tensor, terms: Tensor) -> Tokens:
    """(..., L, D), (..., L) and (..., L) with gaps -> the same without.

    >>> real = torch.tensor([False, True, False, True])
    >>> to_the_left(torch.eye(4), real, torch.tensor([-1, 7, -1, 9])).terms
    tensor([ 7,  9, -1, -1])
    """
    order = (~real).to(torch.int8).argsort(dim=-1, stable=True)
    return Tokens(
        vectors.gather(-2, order.unsqueeze(-1).expand_as(vectors)), real.sum(-1), terms.gather(-1, order)
    )


def without_unknown(tokens: Tensor) -> Tensor:
    """(..., L) words of texts -> the known ones alone, on the left.

    >>> without_unknown(torch.tensor([[5, UNKNOWN, 3, PAD]]))
    tensor([[5, 3, 0, 0]])
    """
    unknown = tokens <= UNKNOWN
    order = unknown.to(torch.int8).argsort(dim=-1, stable=True)
    return tokens.masked_fill(unknown, PAD).gather(-1, order)


def _places(column: Column) -> int:
    return column.width if column.kind in ("bag", "sequence") else 1


def _listed(values: Tensor, column: Column) -> Tensor:
    """(..., W): the values of a column as a list, of one where it holds one."""
    return values.long() if column.kind in ("bag", "sequence") else values.long().unsqueeze(-1)


def _terms(values: Tensor, start: int) -> Tensor:
    return torch.where(values <= UNKNOWN, NO_TERM, values + start)
