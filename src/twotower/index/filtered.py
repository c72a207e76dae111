"""Search among the items that may be shown: still k of them, whenever there are k.

A filter over an approximate index fails in two ways: it leaves fewer than k results, or it searches so wide
that brute force would have been faster. So few allowed items are scored one by one; many are found by asking
for more than k, with as much more effort; and a query that came back short is asked again, exactly.

Letters: Q queries, N items that a mask speaks of, C items of an index, n results asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from twotower.errors import ConfigError, MismatchError
from twotower.index.base import Index
from twotower.index.build import TokenIndex
from twotower.index.delta import Delta
from twotower.index.exact import ExactIndex
from twotower.index.exact_tokens import ExactTokens, Tokens
from twotower.index.faiss_index import FaissIndex
from twotower.index.multivector import ITEMS_AT_ONCE
from twotower.index.vectors import Vectors
from twotower.scores.catalogue import top_k, top_k_of
from twotower.scores.dot import dot
from twotower.types import NO_ITEM, Candidates, Ragged

Search = Callable[[Tensor, int], Candidates]
"""The n best of the queries with these row numbers, (rows,) int64 -> (rows, n)."""

EXACT_SHARE = 0.25
"""Up to this share of the items, those allowed are scored one by one: searching wider costs as much."""
ITEMS_PER_EFFORT = 32
"""Items scored one by one in the time of one step of effort, which looks at a node's neighbours: 25 to 50
were measured, with HNSW32 over 60,000 items."""
QUERIES_AT_ONCE = 128  # with a mask of its own each
RESULTS_AT_ONCE = 1 << 21  # of searches that ask for more than k: 24 MB, and as much again while they are cut


def search_allowed(
    index: Index, query: Tensor, k: int, allow: Tensor | None = None, exclude: Ragged | None = None
) -> Candidates:
    """The k best allowed items of each query, (Q, k), as `twotower.index.base.Index.search` otherwise.

    Over an exact index the result is that of brute force with a mask, ties included. Over any other, a query
    gets k items whenever so many are allowed, and those at least as surely the best ones as without a mask.

    Parameters
    ----------
    query
        (Q, D) floats; (Q, L, D) for items of many vectors.
    allow
        By item key, (N,) for all queries or (Q, N) for each; items beyond N are not allowed. None allows all.
    exclude
        Keys that must not be returned although they are allowed, one row per query.

    Raises
    ------
    ConfigError
        A mask that is not boolean or not of these shapes, or k below 1.

    >>> index = ExactIndex.build(torch.tensor([[1.0], [4.0], [3.0], [2.0]]))
    >>> allow = torch.tensor([True, False, True, True])
    >>> search_allowed(index, torch.tensor([[1.0]]), k=2, allow=allow).keys.tolist()
    [[2, 3]]
    """
    if allow is None:
        return index.search(query, k, exclude)
    allow = _checked(allow, len(query))
    if isinstance(index, ExactIndex):
        return _exactly(index.vectors, query, k, allow, exclude)
    if isinstance(index, FaissIndex):
        return _by_faiss(index, query, k, allow, exclude)
    if isinstance(index, Delta):
        return _by_delta(index, query, k, allow, exclude)
    if isinstance(index, TokenIndex) and allow.dim() == 1:
        shown = allowed_at(allow, index.vectors.keys).nonzero()[:, 0]
        if len(shown) <= EXACT_SHARE * len(index):
            return _by_all_tokens(index, query, k, shown, exclude)

    def search(rows: Tensor, n: int) -> Candidates:
        return index.search(query[rows], n, None if exclude is None else exclude.take(rows))

    return search_wider(search, len(query), k, allow)


def search_wider(search: Search, queries: int, k: int, allow: Tensor) -> Candidates:
    """The k best allowed of whatever can be asked for its n best, (Q, k): exact if the search is.

    Asks for as many as leave k at the mask's share; queries still short of k are asked again for eight times
    as many, until they have k, or all that are allowed, or the search has nothing more to give.
    """
    if k < 1:
        raise ConfigError(f"k must be at least 1, found {k}")
    allow = _checked(allow, queries)
    size = allow.shape[-1]
    allowed = _allowed(allow, queries)
    wanted = allowed.clamp(max=k)
    out = _empty(queries, k)
    rows = wanted.nonzero()[:, 0]
    n = min(int(_reach(wanted, allowed, size).max()), size) if len(rows) else 0
    while len(rows):
        short, step = [], max(1, RESULTS_AT_ONCE // n)
        for start in range(0, len(rows), step):
            some = rows[start : start + step]
            found = search(some, n)
            kept = _keep(found, _own(allow, some), k)
            _put(out, some, kept)
            # fewer than n: there are no more
            short.append(some[(found.counts == n) & (kept.counts < wanted[some])])
        rows = torch.cat(short)
        n = min(8 * n, size) if n < size else 8 * n  # a mask may be shorter than the catalogue
    return out


def allowed_at(allow: Tensor, keys: Tensor) -> Tensor:
    """Whether these keys (Q, K) are allowed, (Q, K) bool; `NO_ITEM` and keys beyond the mask are not.

    >>> allowed_at(torch.tensor([False, True]), torch.tensor([[0, 1, 2, NO_ITEM]])).tolist()
    [[False, True, False, False]]

    Raises
    ------
    MismatchError
        A mask for each of another number of queries.
    """
    size = allow.shape[-1]
    if allow.dim() == 2 and len(allow) != len(keys):
        raise MismatchError(f"a mask for {len(allow)} queries was given with candidates of {len(keys)}")
    inside = (keys >= 0) & (keys < size)
    if size == 0:
        return inside
    at = keys.clamp(0, size - 1)
    return inside & (allow[at] if allow.dim() == 1 else allow.gather(1, at))


def _by_faiss(index: FaissIndex, query: Tensor, k: int, allow: Tensor, exclude: Ragged | None) -> Candidates:
    """Few allowed: exactly. Many: more than k, at more effort; whoever comes back short again, exactly."""
    query = index.vectors.checked_query(query, k)
    allowed = _allowed(allow, len(query))
    wanted = allowed.clamp(max=k)
    reach = _reach(wanted, allowed, len(index))
    # what lies k / share deep is found as surely as what lies k deep at 1 / share times the effort
    effort = (index.effort * reach / k).ceil()
    many = (allowed > EXACT_SHARE * len(index)) & (allowed > ITEMS_PER_EFFORT * torch.maximum(effort, reach))
    out, rows = _empty(len(query), k), many.nonzero()[:, 0]
    if len(rows):
        found = index.search(
            query[rows], int(reach[rows].max()), _take(exclude, rows), effort=int(effort[rows].max())
        )
        _put(out, rows, _keep(found, _own(allow, rows), k))
    rows = (out.counts < wanted).nonzero()[:, 0]
    if len(rows):
        found = _exactly(index.vectors, query[rows], k, _own(allow, rows), _take(exclude, rows))
        _put(out, rows, found)
    return out


def _by_delta(
    index: Delta[Any, Any], query: Tensor, k: int, allow: Tensor, exclude: Ragged | None
) -> Candidates:
    """The base among what is allowed and not gone, in its own way; beside it what is new, exactly."""
    parts = index.parts()
    hidden = parts.gone[parts.gone < allow.shape[-1]]
    left = allow.index_fill(-1, hidden, False) if len(hidden) else allow
    found = search_allowed(parts.base, query, k, left, exclude)
    shown = allowed_at(allow, parts.fresh.keys.expand(len(query), -1))
    some = shown.any(0)
    if not some.any():
        return found
    few = parts.fresh.without(parts.fresh.keys[~some])
    new = index.search_fresh(few, query, k if allow.dim() == 1 else len(few), exclude)
    if allow.dim() == 2:
        new = _keep(new, allow, k)
    both = Candidates(torch.cat([found.keys, new.keys], 1), torch.cat([found.scores, new.scores], 1))
    return both.sorted().best(k)


def _by_all_tokens(
    index: TokenIndex, query: Tensor, k: int, positions: Tensor, exclude: Ragged | None
) -> Candidates:
    """Exact MaxSim over the items at these rising positions alone, as the index keeps them."""
    best = _empty(len(query), k)
    for some in torch.split(positions, ITEMS_AT_ONCE):
        few = ExactTokens(Tokens(index.vectors.keys[some], index.vectors.take(some)))
        found = few.search(query, k, exclude)
        both = Candidates(torch.cat([best.keys, found.keys], 1), torch.cat([best.scores, found.scores], 1))
        best = both.sorted().best(k)
    return best


def _exactly(vectors: Vectors, query: Tensor, k: int, allow: Tensor, exclude: Ragged | None) -> Candidates:
    """Brute force over the items that some query of a round may see."""
    query = vectors.checked_query(query, k)
    if allow.dim() == 1:
        shown = allowed_at(allow, vectors.keys)
        if int(shown.sum()) <= EXACT_SHARE * len(vectors):
            return ExactIndex(_only(vectors, shown)).search(query, k, exclude)
        best = top_k(query, vectors.values, k, exclude=vectors.excluded(exclude, len(query)), mask=shown)
        return Candidates(vectors.keys_at(best.keys), best.scores)
    out = _empty(len(query), k)
    for start in range(0, len(query), QUERIES_AT_ONCE):
        rows = torch.arange(start, min(start + QUERIES_AT_ONCE, len(query)))
        shown = allowed_at(allow[rows], vectors.keys.expand(len(rows), -1))
        some = shown.any(0)
        few, shown, asking = _only(vectors, some), shown[:, some], query[rows]

        def score(
            start: int, stop: int, few: Vectors = few, shown: Tensor = shown, asking: Tensor = asking
        ) -> Tensor:
            return dot(asking, few.values[start:stop], shown[:, start:stop])

        excluded = few.excluded(_take(exclude, rows), len(rows))
        best = top_k_of(score, len(rows), len(few), k, exclude=excluded, fresh=True)
        _put(out, rows, Candidates(few.keys_at(best.keys), best.scores))
    return out


def _checked(allow: Tensor, queries: int) -> Tensor:
    if allow.dtype != torch.bool or allow.dim() not in (1, 2):
        raise ConfigError(
            f"allow must be a bool mask (N,) or (Q, N) by item key, found {allow.dtype} {tuple(allow.shape)}"
        )
    if allow.dim() == 2 and len(allow) != queries:
        raise ConfigError(f"allow has {len(allow)} rows for {queries} queries")
    return allow[0] if allow.dim() == 2 and queries == 1 else allow


def _allowed(allow: Tensor, queries: int) -> Tensor:
    """(Q,) how many items each query may see; more than an index holds of them, perhaps."""
    return allow.sum(-1).expand(queries)


def _reach(wanted: Tensor, allowed: Tensor, size: int) -> Tensor:
    """(Q,) results to ask for so that nearly always ``wanted`` of them are allowed.

    Of n results at random n * share are allowed, give or take sqrt(n * share): three times that is added.
    """
    share = (allowed.double() / max(size, 1)).clamp(min=1e-12, max=1)
    margin = torch.where(share < 1, 3 * wanted.double().sqrt() + 3, 0.0)
    return ((wanted + margin) / share).ceil().clamp(max=max(size, 1)).long()


def _keep(found: Candidates, allow: Tensor, k: int) -> Candidates:
    """The first k allowed ones, in the order they were found in; what else was known of them is dropped."""
    keys = found.keys.masked_fill(~allowed_at(allow, found.keys), NO_ITEM)
    order = (keys == NO_ITEM).to(torch.int8).argsort(dim=1, stable=True)[:, :k]
    keys = keys.gather(1, order)
    return Candidates(keys, found.scores.gather(1, order).masked_fill(keys == NO_ITEM, -torch.inf))


def _only(vectors: Vectors, shown: Tensor) -> Vectors:
    return vectors if bool(shown.all()) else Vectors(vectors.values[shown], vectors.keys[shown])


def _own(allow: Tensor, rows: Tensor) -> Tensor:
    return allow if allow.dim() == 1 else allow[rows]


def _take(lists: Ragged | None, rows: Tensor) -> Ragged | None:
    return None if lists is None else lists.take(rows)


def _empty(queries: int, k: int) -> Candidates:
    return Candidates(torch.full((queries, k), NO_ITEM), torch.full((queries, k), -torch.inf))


def _put(out: Candidates, rows: Tensor, found: Candidates) -> None:
    width = found.keys.shape[1]
    out.keys[rows, :width], out.scores[rows, :width] = found.keys, found.scores
