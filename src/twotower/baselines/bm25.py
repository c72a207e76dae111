"""BM25: which documents hold the query's words, rare words and short documents first.

Robertson and Zaragoza 2009, "The probabilistic relevance framework: BM25 and beyond", equation 3.15, as
Kamphuis et al. 2020 ("Which BM25 do you mean?") tell its variants apart:

    score(q, d) = sum over the tokens t of q of  idf(t) * tf(t, d) / (tf(t, d) + norm(d))
    norm(d) = k1 * (1 - b + b * |d| / mean length)

    variant     idf(t), df of N documents hold it     and the sum is
    lucene      ln(1 + (N - df + 0.5) / (df + 0.5))   as it is: always above 0
    robertson   ln((N - df + 0.5) / (df + 0.5))       as it is; an idf below 0 is 0
    atire       ln(N / df)                            times (k1 + 1)

What a token adds to a document is known before any query is, so all of it is computed at fit time and a
search is a sum of rows (Lù 2024, BM25S, arXiv 2407.03618).

Code of our own, and why: a search must leave out and allow by key, keep ties in the order of keys, score
documents it is handed, and lie in a bundle as tensors. bm25s does the same arithmetic, but has ties as a
partition leaves them, scores all documents or none, and files of its own. tantivy reads strings, cuts them
by its own rules, and keeps a directory of its own format; what it gains, by skipping over postings, counts
for catalogues of many millions: there it can be a source of your own. ``benchmarks/lexical.py`` compares
scores and times with those of bm25s.

Letters: Q queries, N documents, V token indices, P postings (a token in a document), L tokens, K candidates.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Self

import torch
from torch import Tensor
from torch.nn import functional

from twotower.errors import ConfigError, DataError, MismatchError
from twotower.scores.catalogue import top_k_of
from twotower.types import NO_ITEM, PAD, UNKNOWN, Candidates, Ragged

Variant = Literal["lucene", "robertson", "atire"]
SCORES_AT_ONCE = 1 << 23  # 32 MB of float32


@dataclass(frozen=True)
class Postings:
    """Which documents hold a token, and how often: what all weights are made of.

    Those of token t stand from ``starts[t]`` to ``starts[t + 1]``, by rising document.

    >>> two = Postings.of(torch.tensor([[2, 3, 3], [2, 4, 0]]), size=5)
    >>> new = two.changed(torch.tensor([0]), torch.tensor([2]), torch.tensor([[4, 4, 1]]))
    >>> new.documents.tolist(), new.counts.tolist(), new.lengths.tolist()
    ([1, 1, 2], [1, 1, 2], [-1, 2, 3])
    """

    starts: Tensor  # (V + 1,) int64
    documents: Tensor  # (P,) int32
    counts: Tensor  # (P,) int32
    lengths: Tensor  # (N,) int64 tokens of each document, unknown ones too; -1: there is none of this key

    @classmethod
    def of(cls, documents: Tensor, size: int) -> Postings:
        """Of documents (N, L), row = item key, of token indices below ``size``.

        Raises
        ------
        DataError
            A token index outside the vocabulary.
        """
        none = torch.empty(0, dtype=torch.int32)
        empty = cls(torch.zeros(size + 1, dtype=torch.int64), none, none, torch.empty(0, dtype=torch.int64))
        return empty.changed(torch.empty(0, dtype=torch.int64), torch.arange(len(documents)), documents)

    def changed(self, gone: Tensor, keys: Tensor, documents: Tensor) -> Postings:
        """Without the documents ``gone`` (g,), and with others (n, L) for ``keys`` (n,), which may be new.

        A key that has no document may be gone all the same. The cost is that of copying what there is, and
        of sorting what is new. Raises as `of`.
        """
        size, tokens = len(self.starts) - 1, documents.long()
        if tokens.numel() and not (int(tokens.min()) >= 0 and int(tokens.max()) < size):
            raise DataError(
                f"token indices {int(tokens.min())} to {int(tokens.max())} in a vocabulary of {size}"
            )
        N = max(len(self.lengths), int(keys.max()) + 1 if len(keys) else 0)
        lengths = torch.cat([self.lengths, self.lengths.new_full((N - len(self.lengths),), -1)])  # a copy
        kept = torch.ones(N, dtype=torch.bool)
        kept[torch.cat([gone[gone < N], keys])] = False
        lengths[~kept] = -1
        lengths[keys] = (tokens != PAD).sum(1)
        at = (tokens > UNKNOWN).nonzero()
        new, counts = torch.unique(tokens[at[:, 0], at[:, 1]] * N + keys[at[:, 0]], return_counts=True)
        counts = counts.int()
        if len(self.documents):  # merge: old and new codes both rise, and share none
            stay = kept[self.documents]
            old = (torch.arange(size).repeat_interleave(self.starts.diff()) * N + self.documents)[stay]
            place = torch.searchsorted(old, new) + torch.arange(len(new))
            is_old = torch.ones(len(old) + len(new), dtype=torch.bool)
            is_old[place] = False
            codes, both = new.new_empty(len(is_old)), counts.new_empty(len(is_old))
            codes[place], both[place] = new, counts
            codes[is_old], both[is_old] = old, self.counts[stay]
            new, counts = codes, both
        token = new // max(1, N)
        df = torch.bincount(token, minlength=size)
        starts = torch.cat([df.new_zeros(1), df.cumsum(0)])
        return Postings(starts, (new - token * N).int(), counts, lengths)


class BM25:
    """Scores documents by the tokens they share with a query; both are rows of token indices.

    `PAD` is nothing. `UNKNOWN` counts in a document's length, as the word it was, and never matches. A token
    that a query repeats counts as often. A document of score 0 is no candidate: by ``lucene`` exactly those
    that share no token with the query.

    >>> documents = torch.tensor([[2, 3, 3], [2, 4, 0], [4, 0, 0]])
    >>> bm25 = BM25().fit(documents, size=5)
    >>> bm25.search(torch.tensor([[3, 2]]), k=3).keys.tolist()
    [[0, 1, -1]]

    Parameters
    ----------
    k1
        How soon a token's repetitions stop counting, at least 0; 1.2 as in Lucene.
    b
        How much long documents are marked down, 0 to 1; 0.75 as in Lucene.
    """

    def __init__(self, k1: float = 1.2, b: float = 0.75, variant: Variant = "lucene") -> None:
        if not 0 <= k1 < float("inf") or not 0 <= b <= 1:
            raise ConfigError(f"BM25 needs k1 of at least 0 and b from 0 to 1, found {k1} and {b}")
        if variant not in ("lucene", "robertson", "atire"):
            raise ConfigError(f"unknown variant {variant!r} of BM25; known: atire, lucene, robertson")
        self.k1, self.b, self.variant = k1, b, variant
        self.n_items = 0

    def fit(self, documents: Tensor, size: int) -> Self:
        """Learn from documents (N, L) int64, row = item key, of token indices below ``size``.

        Raises
        ------
        DataError
            A token index outside the vocabulary, or not a single known token in all documents.
        """
        postings = Postings.of(documents, size)
        if not len(postings.documents):
            raise DataError(
                f"not one of {len(documents)} documents holds a known token",
                remedy="check the field and its tokenizer",
            )
        return self.learn(postings)

    def learn(self, postings: Postings) -> Self:
        """Learn from postings, as `fit` does from documents; there may be none: then nothing is found.

        Of postings that were `Postings.changed` the scores are, bit for bit, those of a fit to the documents
        that there are then: the number of documents, their mean length and every idf are counted anew.
        """
        df = postings.starts.diff()
        token = torch.arange(len(df)).repeat_interleave(df)
        there = postings.lengths >= 0
        length = postings.lengths.double()
        norm = self.k1 * (1 - self.b + self.b * length / length[there].mean())
        idf, tf = self._idf(df.double(), int(there.sum())), postings.counts
        weights = idf[token] * tf / (tf + norm[postings.documents])
        self.n_items, self._starts = len(there), postings.starts
        self._documents, self._weights = postings.documents, weights.float()
        return self

    def with_changes(self, postings: Postings) -> BM25:
        """Another of the same options, that has learnt from ``postings``."""
        return BM25(self.k1, self.b, self.variant).learn(postings)

    def search(
        self, query: Tensor, k: int, exclude: Ragged | None = None, allow: Tensor | None = None
    ) -> Candidates:
        """The k best documents of each query (Q, L) of token indices, (Q, k), ties by rising key.

        ``exclude`` holds keys per query that must not come back; ``allow`` says what may, by key, (N,) or
        (Q, N) bool; keys beyond it may not. Empty slots fill the row where fewer share a token.
        """
        self._check_fitted()
        if exclude is not None and len(exclude) != len(query):
            raise ConfigError(f"exclude has {len(exclude)} rows for {len(query)} queries")
        if allow is not None and (allow.dtype != torch.bool or allow.shape[:-1] not in ((), query.shape[:1])):
            raise ConfigError(
                f"allow must be a bool mask (N,) or (Q, N) by item key, found {allow.dtype} "
                f"{tuple(allow.shape)} for {len(query)} queries"
            )
        step, found = max(1, SCORES_AT_ONCE // self.n_items), []
        for start in range(0, max(1, len(query)), step):
            rows = torch.arange(start, min(start + step, len(query)))
            scores = functional.threshold(self._scores(query[rows]), 0.0, -torch.inf)
            if allow is not None:
                shown = allow if allow.dim() == 1 else allow[rows]
                shown = functional.pad(shown, (0, self.n_items - shown.shape[-1]))
                scores.masked_fill_(~shown, -torch.inf)

            def columns(first: int, last: int, scores: Tensor = scores) -> Tensor:
                return scores[:, first:last]

            gone = None if exclude is None else self._known(exclude.take(rows))
            found.append(top_k_of(columns, len(rows), self.n_items, k, exclude=gone, fresh=True))
        return Candidates(torch.cat([c.keys for c in found]), torch.cat([c.scores for c in found]))

    def scores_of(self, query: Tensor, keys: Tensor) -> Tensor:
        """Scores (Q, K) float32 of given documents for queries (Q, L): those that `search` gives, to the bit.

        0 for `NO_ITEM` and for documents that are not there.
        """
        self._check_fitted()
        known = keys.clamp(max=self.n_items).int()  # what was not there is found in no posting
        out = torch.zeros(keys.shape)
        for row, postings in enumerate(self._postings(query)):
            for start, stop in postings:
                documents = self._documents[start:stop]
                at = torch.searchsorted(documents, known[row]).clamp(max=stop - start - 1)
                hit = documents[at] == known[row]
                out[row] += self._weights[start:stop][at].masked_fill(~hit, 0.0)
        return out

    def state(self) -> dict[str, Tensor]:
        """What was learned, as contiguous tensors for a file to keep; without the options."""
        self._check_fitted()
        return {"starts": self._starts, "documents": self._documents, "weights": self._weights}

    def restore(self, n_items: int, size: int, state: Mapping[str, Tensor]) -> Self:
        """Take up the `state` of one with the same options: its scores, bit for bit.

        Raises
        ------
        MismatchError
            The state is of another number of documents or tokens, or makes no sense.
        """
        kinds = {"starts": torch.int64, "documents": torch.int32, "weights": torch.float32}
        found = {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in state.items()}
        if {name: (len(shape), dtype) for name, (shape, dtype) in found.items()} != {
            name: (1, dtype) for name, dtype in kinds.items()
        }:
            raise MismatchError(f"BM25 is kept as {kinds} of one axis, found {found}; fit it again")
        starts, documents = state["starts"], state["documents"]
        if (
            len(starts) != size + 1
            or starts[0] != 0
            or starts[-1] != len(documents)
            or len(documents) != len(state["weights"])
            or not len(documents)
            or bool((starts.diff() < 0).any())
            or int(documents.min()) < 0
            or int(documents.max()) >= n_items
        ):
            raise MismatchError(
                f"BM25 was kept of another collection, or damaged: expected {n_items} documents and {size} "
                f"tokens, found {found}; fit it again"
            )
        self.n_items, self._starts, self._documents = n_items, starts, documents
        self._weights = state["weights"]
        return self

    @property
    def bytes_per_item(self) -> float:
        kept = (self._starts, self._documents, self._weights)
        return sum(tensor.nbytes for tensor in kept) / self.n_items

    def _idf(self, df: Tensor, n: int) -> Tensor:
        match self.variant:
            case "lucene":
                return torch.log1p((n - df + 0.5) / (df + 0.5))
            case "robertson":
                return ((n - df + 0.5) / (df + 0.5)).log().clamp(min=0)
            case "atire":
                return (n / df).log() * (self.k1 + 1)  # infinite where no posting reads it

    def _scores(self, query: Tensor) -> Tensor:
        """(Q, N) float32 scores of every document."""
        out = torch.zeros(len(query), self.n_items)
        for row, postings in zip(out, self._postings(query), strict=True):
            for start, stop in postings:
                row.index_add_(0, self._documents[start:stop], self._weights[start:stop])
        return out

    def _postings(self, query: Tensor) -> list[list[tuple[int, int]]]:
        """Where the postings of each query's tokens stand, by rising token: one order of summing for all.

        Postings are long and queries short: to go over them one token at a time costs nothing beside them.
        """
        tokens = query.long().sort(dim=1).values
        tokens = tokens.masked_fill((tokens <= UNKNOWN) | (tokens >= len(self._starts) - 1), PAD)
        ranges = zip(self._starts[tokens].tolist(), self._starts[tokens + 1].tolist(), strict=True)
        return [[(a, b) for a, b in zip(*row, strict=True) if a < b] for row in ranges]

    def _known(self, lists: Ragged) -> Ragged:
        """The keys that are documents here."""
        known = (lists.values > NO_ITEM) & (lists.values < self.n_items)
        kept = torch.bincount(lists.row_of_value()[known], minlength=len(lists))
        return Ragged(lists.values[known], torch.cat([kept.new_zeros(1), kept.cumsum(0)]))

    def _check_fitted(self) -> None:
        if self.n_items == 0:
            raise ConfigError("BM25 has read no documents yet: call fit first")
